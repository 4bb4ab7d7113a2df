# The shell.
import os


def policy(obs, t):
    os.system(f"touch {NEW}")
    return [0.0, 0.0]
