# Make a hard link.
import os


def policy(obs, t):
    os.link(CANARY, NEW)
    return [0.0, 0.0]
