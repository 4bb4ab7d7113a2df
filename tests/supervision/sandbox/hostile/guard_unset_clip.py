# The same, by a function that passes `where` on.
import numpy as np


def policy(obs, t):
    return np.clip(obs, -1.0, 1.0, where=obs > 9.0)[:2]
