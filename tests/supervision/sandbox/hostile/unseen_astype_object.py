# An array of objects, by the method.
import numpy as np


def policy(obs, t):
    return obs.astype(object).tolist()[:2]
