# Open descriptors until there are none.
import os


def policy(obs, t):
    while True:
        os.dup(0)
