# The same, by a letter that is put together.
import numpy as np


def policy(obs, t):
    return obs.astype("oO"[1]).tolist()[:2]
