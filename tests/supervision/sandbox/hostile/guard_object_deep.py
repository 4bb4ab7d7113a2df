# An array of objects, of lists deeper than numpy's arrays.
import numpy as np


def policy(obs, t):
    deep = 0.0
    for _ in range(70):
        deep = [deep]
    np.array(deep)
    return [0.0, 0.0]
