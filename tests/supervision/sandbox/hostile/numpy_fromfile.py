# np.fromfile.
import numpy as np


def policy(obs, t):
    return [float(np.fromfile(CANARY, sep=" ")[0]), 0.0]
