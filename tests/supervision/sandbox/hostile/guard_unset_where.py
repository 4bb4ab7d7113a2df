# Memory as it was left: what `where` leaves out.
import numpy as np


def policy(obs, t):
    return np.add(obs, obs, where=obs > 9.0)[:2] * 0.0
