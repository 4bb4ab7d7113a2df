# np.load, with pickles allowed.
import numpy as np


def policy(obs, t):
    return np.load(CANARY, allow_pickle=True)
