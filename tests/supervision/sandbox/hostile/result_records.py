# Records.
import numpy as np


def policy(obs, t):
    return np.zeros(2, dtype="f8,f8")
