# Memory as it was left: edges without a value.
import numpy as np


def policy(obs, t):
    return np.pad(obs, 2, mode="empty")[:2] * 0.0
