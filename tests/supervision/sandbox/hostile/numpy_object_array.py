# An object in an array, converted while numpy converts the array.
import numpy as np


class Evil:
    def __float__(self):
        return float(open(CANARY).read())


def policy(obs, t):
    return np.array([Evil(), 0.0], dtype=object).astype(float)
