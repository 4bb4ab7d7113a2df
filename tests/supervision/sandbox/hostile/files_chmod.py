# Change a file's mode.
import os


def policy(obs, t):
    os.chmod(CANARY, 0o777)
    return [0.0, 0.0]
