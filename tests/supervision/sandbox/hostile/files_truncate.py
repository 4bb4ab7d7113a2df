# Empty a file.
import os


def policy(obs, t):
    os.truncate(CANARY, 0)
    return [0.0, 0.0]
