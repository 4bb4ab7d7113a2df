# The types with which numpy computes.
import numpy as np


def policy(obs, t):
    return np.add(obs, obs, signature="OO->O").tolist()[:2]
