# numpy calls back into Python.
import numpy as np


def policy(obs, t):
    return np.vectorize(lambda x: float(open(CANARY).read()))(obs[:2])
