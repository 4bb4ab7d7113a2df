# The same, around a function: an errstate is a decorator too.
import numpy as np

READ = []


def report(kind, flag):
    READ.append(float(open(CANARY).read()))


divide = np.errstate(divide="call", call=report)(lambda: np.ones(1) / 0.0)


def policy(obs, t):
    divide()
    return [READ[-1], 0.0]
