# An iterator that runs the rule's code and changes the other argument, which was looked at before.
import numpy as np


def policy(obs, t):
    other = [0.0, 0.0]

    def change(x):
        other[0] = policy
        return x

    return np.add(other, map(change, [0.0, 0.0]))
