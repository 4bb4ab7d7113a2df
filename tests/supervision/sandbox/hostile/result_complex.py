# Complex numbers.
import numpy as np


def policy(obs, t):
    return np.sqrt(np.array([-1.0, 0.0]).astype("complex128"))
