# An object array.
import numpy as np


def policy(obs, t):
    return np.array([None, 0.0])
