# A method's `dtype`, in its place among the arguments.
import numpy as np


def policy(obs, t):
    return [float(obs.sum(0, "O")), 0.0]
