# Pipes, which also hold memory.
import os


def policy(obs, t):
    for _ in range(2_000):
        os.pipe()
    raise OSError("had its pipes")
