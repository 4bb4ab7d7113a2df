# A list that holds itself.
import numpy as np


def policy(obs, t):
    ring = [0.0]
    ring.append(ring)
    np.sum(ring)
    return [0.0, 0.0]
