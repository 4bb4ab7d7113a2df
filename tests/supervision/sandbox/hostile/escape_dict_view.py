# The same, with code that reads a file.
import numpy as np

keys = np.ones(1, dtype=int) * [10**30]
walked = np.ones(1, dtype=int) * [10**30]
READ = []


def read(x):
    READ.append(float(open(CANARY).read()))
    return x


def policy(obs, t):
    keys[0] = {}.keys()
    walked[0] = map(read, [1])
    keys | walked
    return [READ[-1], 0.0]
