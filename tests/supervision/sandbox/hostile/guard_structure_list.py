# Structured memory, by a list.
import numpy as np


def policy(obs, t):
    return np.zeros(2, [("a", "f8"), ("b", "O")])["a"]
