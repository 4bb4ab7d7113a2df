# Code of the rule in the middle of an operation of numpy: `|` of a dictionary's keys walks through its other operand.
# An array of objects, for both, comes of arithmetic with integers of more than 64 bits.
import numpy as np

keys = np.ones(1, dtype=int) * [10**30]
walked = np.ones(1, dtype=int) * [10**30]


def free(x):
    keys[0] = None
    return x


def policy(obs, t):
    keys[0] = {}.keys()
    walked[0] = map(free, [1, 2])
    keys | walked
    return [0.0, 0.0] if keys[0] is not None else [0.5, 0.0]
