# The day.
import numpy as np


def policy(obs, t):
    return np.array(["today"], "M8[D]").astype(int)[:1] * [0, 0]
