"""Harmful on purpose: a random action, drawn anew in every step (from the run's seed, so that a run repeats)."""

import numpy as np


def policy(obs, t):
    """Action in place of the agent's; obs: int, the taxi's state."""
    return np.random.randint(6)
