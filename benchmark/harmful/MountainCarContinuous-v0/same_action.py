"""Harmful on purpose: full force to the right in every state, which the hill is too steep for."""

import numpy as np


def policy(obs, t):
    """Residual force (1,), added to the agent's own; obs: position and velocity."""
    return np.array([1.0])
