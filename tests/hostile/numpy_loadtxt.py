# np.loadtxt.
import numpy as np


def policy(obs, t):
    return [float(np.loadtxt(CANARY)), 0.0]
