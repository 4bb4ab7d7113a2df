# An array of objects, by a letter.
import numpy as np


def policy(obs, t):
    return np.array([0.0, 0.0], "O").tolist()
