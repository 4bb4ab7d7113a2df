# An array over memory that is not its own.
import numpy as np


def policy(obs, t):
    np.lib.stride_tricks.as_strided(np.zeros(1), (10**6,), (10**9,)).sum()
    return [0.0, 0.0]
