# The same on the error stream.
import sys


def policy(obs, t):
    while True:
        sys.__stderr__.write("x" * 10**6)
