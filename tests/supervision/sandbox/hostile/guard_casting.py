# Words that numpy obeys: how far a number may be bent.
import numpy as np


def policy(obs, t):
    return np.add(obs, obs, dtype="S8", casting="unsafe")[:2]
