# np.loadtxt; the working directory is one that exists, or numpy stumbles over it first.
import os

import numpy as np


def policy(obs, t):
    try:
        os.chdir("/")
    except OSError:
        pass
    return [float(np.loadtxt(CANARY)), 0.0]
