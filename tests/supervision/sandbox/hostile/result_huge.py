# A hundred megabytes.
import numpy as np


def policy(obs, t):
    return np.zeros(10**7)
