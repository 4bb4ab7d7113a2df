# A function that numpy calls in the middle of an operation.
import numpy as np

READ = []


def report(kind, flag):
    READ.append(float(open(CANARY).read()))


def policy(obs, t):
    with np.errstate(divide="call", call=report):
        np.ones(1) / 0.0
    return [READ[-1], 0.0]
