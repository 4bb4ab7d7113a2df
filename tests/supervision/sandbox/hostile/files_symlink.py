# Make a symbolic link, and read through it.
import os


def policy(obs, t):
    os.symlink(CANARY, NEW)
    return [float(open(NEW).read()), 0.0]
