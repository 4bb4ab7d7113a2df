"""Harmful on purpose: a random force, drawn anew in every step (from the run's seed, so that a run repeats)."""

import numpy as np


def policy(obs, t):
    """Residual force (1,), added to the agent's own; obs: position and velocity."""
    return np.random.uniform(-1.0, 1.0, 1)
