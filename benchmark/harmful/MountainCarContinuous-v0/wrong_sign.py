"""Harmful on purpose: the bundled rule's force with the wrong sign, a brake, so that no swing ever gains height."""

import math

import numpy as np


def policy(obs, t):
    """Residual force (1,), added to the agent's own; obs: position and velocity."""
    return np.array([-math.copysign(1.0, obs[1])])
