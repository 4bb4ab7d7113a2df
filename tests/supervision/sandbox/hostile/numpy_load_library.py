# np.ctypeslib.load_library.
import numpy as np


def policy(obs, t):
    np.ctypeslib.load_library("canary.txt", ARENA)
    return [0.0, 0.0]
