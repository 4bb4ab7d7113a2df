# Structured memory, by the method.
import numpy as np


def policy(obs, t):
    return [float(obs.astype([("a", "f8"), ("b", "O")])["a"][0]), 0.0]
