# Arrays that are touched, so that they take real memory.
import numpy as np


def policy(obs, t):
    x = []
    while True:
        x.append(np.ones(10**6))
