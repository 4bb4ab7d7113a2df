# The types with which numpy computes, by a method that passes its keywords on.
import numpy as np


def policy(obs, t):
    return obs.clip(-1.0, 1.0, signature="OOO->O").tolist()[:2]
