# The shell, with a pipe.
import os


def policy(obs, t):
    return [float(os.popen(f"cat {CANARY}").read()), 0.0]
