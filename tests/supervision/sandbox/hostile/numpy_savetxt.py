# np.savetxt.
import numpy as np


def policy(obs, t):
    np.savetxt(NEW, obs)
    return [0.0, 0.0]
