# A small call with a huge result.
import numpy as np


def policy(obs, t):
    return np.kron(np.ones((10**4, 10)), np.ones((10**4, 10)))
