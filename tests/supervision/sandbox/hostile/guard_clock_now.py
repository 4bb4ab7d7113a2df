# The time of day.
import numpy as np


def policy(obs, t):
    return np.array("now", "M8[s]").astype(float) * [0.0, 0.0]
