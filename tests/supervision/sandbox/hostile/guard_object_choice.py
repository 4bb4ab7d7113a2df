# An array of functions, by way of drawing one.
import numpy as np


def policy(obs, t):
    return np.random.choice([lambda: [0.0, 0.0], lambda: [0.0, 0.0]])()
