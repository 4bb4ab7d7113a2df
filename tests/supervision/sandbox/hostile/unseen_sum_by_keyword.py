# A method's `dtype`, by its name.
import numpy as np


def policy(obs, t):
    kind = "O"
    return [float(obs.cumsum(dtype=kind)[0]), 0.0]
