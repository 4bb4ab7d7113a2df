# Memory in a file that has no name.
import os


def policy(obs, t):
    file = os.memfd_create("x")
    for _ in range(600):
        os.write(file, bytes(2**20))
    return [0.0, 0.0]
