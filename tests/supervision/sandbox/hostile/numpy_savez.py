# np.savez.
import numpy as np


def policy(obs, t):
    np.savez(NEW, obs)
    return [0.0, 0.0]
