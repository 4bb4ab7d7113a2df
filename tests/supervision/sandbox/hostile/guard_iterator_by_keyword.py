# The same, with the iterator among the keywords.
import numpy as np


def policy(obs, t):
    other = [0.0, 0.0]

    def change(x):
        other[0] = policy
        return x > 0

    return np.add(other, [1.0, 1.0], out=np.zeros(2), where=map(change, [0.0, 0.0]))
