# A reference of an object array that is freed while numpy computes with it, and used after.
import numpy as np

THINGS = np.array([1.5, 10**30, 2.5, 10**40], dtype=object)


def report(kind, flag):
    THINGS[:] = None
    READ.append(float(open(CANARY).read()))


READ = []


def policy(obs, t):
    with np.errstate(all="call", call=report):
        np.divide(THINGS.astype(float), 0.0)
    return [READ[-1], 0.0]
