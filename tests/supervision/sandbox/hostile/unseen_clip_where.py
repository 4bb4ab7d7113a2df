# Memory as it was left, by a method that writes only where it is told to.
import numpy as np


def policy(obs, t):
    return obs.clip(-1.0, 1.0, where=obs > 9.0)[:2]
