# Structured memory, by a word.
import numpy as np


def policy(obs, t):
    return np.zeros(2, "f8,O")["f0"]
