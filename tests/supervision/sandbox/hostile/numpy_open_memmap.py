# np.lib.format.open_memmap.
import numpy as np


def policy(obs, t):
    np.lib.format.open_memmap(NEW, mode="w+", shape=(2,))
    return [0.0, 0.0]
