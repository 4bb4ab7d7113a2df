# np.memmap.
import numpy as np


def policy(obs, t):
    return [float(bytes(np.memmap(CANARY, dtype=np.uint8, mode="r"))), 0.0]
