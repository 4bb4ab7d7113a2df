# np.save.
import numpy as np


def policy(obs, t):
    np.save(NEW, obs)
    return [0.0, 0.0]
