# The same, by the type of another array: arithmetic with very large integers gives objects.
import numpy as np


def policy(obs, t):
    large = np.ones(1, dtype=int) * [10**30]
    return obs.astype(large.dtype).tolist()[:2]
