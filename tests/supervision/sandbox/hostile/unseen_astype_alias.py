# The same, by a method that is passed on.
import numpy as np


def policy(obs, t):
    cast = obs.astype
    return cast("O").tolist()[:2]
