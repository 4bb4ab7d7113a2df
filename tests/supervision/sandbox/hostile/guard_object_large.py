# An array of objects, of numbers that are too large for the others.
import numpy as np


def policy(obs, t):
    return [float(np.array([10**30, 1])[1] > 2), 0.0]
