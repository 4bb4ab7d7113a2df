# An object array of honest numbers.
import numpy as np


def policy(obs, t):
    return np.array([0.0, 0.0]).astype("O")
