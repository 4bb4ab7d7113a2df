# The time of day, out of numbers of dates.
import numpy as np


def policy(obs, t):
    return np.full(2, "now", dtype="datetime64[ms]").astype(float) * 0.0
