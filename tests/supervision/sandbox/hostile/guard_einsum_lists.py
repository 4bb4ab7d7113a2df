# einsum's other form, whose lists of axes numpy's C code reads.
import numpy as np


def policy(obs, t):
    return np.einsum(obs, [0], obs, [2**40])[:2]
