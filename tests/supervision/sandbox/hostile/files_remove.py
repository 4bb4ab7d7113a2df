# Remove a file.
import os


def policy(obs, t):
    os.remove(CANARY)
    return [0.0, 0.0]
