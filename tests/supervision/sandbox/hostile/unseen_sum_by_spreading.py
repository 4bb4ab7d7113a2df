# A method's arguments out of a list.
import numpy as np


def policy(obs, t):
    return [float(obs.sum(*[0, "O"])), 0.0]
