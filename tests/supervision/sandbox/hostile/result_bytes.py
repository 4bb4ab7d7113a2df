# Raw bytes.
import numpy as np


def policy(obs, t):
    return np.zeros(2).astype("V8")
