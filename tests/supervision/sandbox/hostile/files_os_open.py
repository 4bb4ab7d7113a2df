# System calls through os.
import os


def policy(obs, t):
    return [float(os.read(os.open(CANARY, os.O_RDONLY), 100)), 0.0]
