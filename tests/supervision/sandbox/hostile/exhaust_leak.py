# A leak of one megabyte a call.
import numpy as np

kept = []


def policy(obs, t):
    kept.append(np.ones(2**17))
    return [0.0, 0.0]
