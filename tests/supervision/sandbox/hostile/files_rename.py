# Rename a file.
import os


def policy(obs, t):
    os.rename(CANARY, NEW)
    return [0.0, 0.0]
