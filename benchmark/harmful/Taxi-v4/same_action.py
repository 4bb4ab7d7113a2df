"""Harmful on purpose: north in every state. Of all six constants a move is the one that is hardest to see through:
its episodes return -200, like those of a learner that delivers nobody."""


def policy(obs, t):
    """Action in place of the agent's; obs: int, the taxi's state."""
    return 1
