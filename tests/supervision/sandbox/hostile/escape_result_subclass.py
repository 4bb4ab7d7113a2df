# A subclass of ndarray acts in comparisons and conversions.
import numpy as np


class Evil(np.ndarray):
    def __array_finalize__(self, other):
        open(CANARY).read()


def policy(obs, t):
    return np.zeros(2).view(Evil)
