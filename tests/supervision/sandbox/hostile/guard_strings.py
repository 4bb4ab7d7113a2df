# An array of strings.
import numpy as np


def policy(obs, t):
    return [float(np.array(["a", "b"]).size > 5), 0.0]
