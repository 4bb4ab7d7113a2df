# Dates, which numpy also keeps as numbers.
import numpy as np


def policy(obs, t):
    return np.zeros(2).astype("datetime64[s]")
