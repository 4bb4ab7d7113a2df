# np.genfromtxt.
import numpy as np


def policy(obs, t):
    return [float(np.genfromtxt(CANARY)), 0.0]
