# An array of objects, by the type of another one.
import numpy as np


def policy(obs, t):
    large = np.ones(1, dtype=int) * [10**30]
    return np.zeros(2, dtype=large.dtype).tolist()
