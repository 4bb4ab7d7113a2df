# The same, by a generator's own method.
import numpy as np


def policy(obs, t):
    return np.random.default_rng(0).permutation([print, len])[0](obs)
