# The same, by the method of a type of numbers.
import numpy as np


def policy(obs, t):
    return np.float64.astype(obs[0], "O")
