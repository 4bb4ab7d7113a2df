# An array of objects, of a list in which not all are numbers.
import numpy as np


def policy(obs, t):
    return [float(len(np.array([policy, 1.0, None])) > 9), 0.0]
