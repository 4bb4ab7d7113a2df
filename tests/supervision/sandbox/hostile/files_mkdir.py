# Make a folder.
import os


def policy(obs, t):
    os.mkdir(NEW)
    return [0.0, 0.0]
