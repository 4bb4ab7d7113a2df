"""Shortest way along the cliff for CliffWalking-v1: up from the start, right to the last column, down to the goal."""

COLUMNS = 12
LAST_COLUMN = 11  # the goal's
CLIFF_ROW = 3  # start, cliff and goal lie in it
UP, RIGHT, DOWN, LEFT = 0, 1, 2, 3


def policy(obs, t):
    """Action in place of the agent's own.

    obs: int, 12 * row + column; row 0 is at the top
    t: step of the current episode, an int from 0 (not used: the cell says all)
    returns: int, 0 up, 1 right, 2 down, 3 left
    """
    row, column = divmod(obs, COLUMNS)
    # Right before down: both ways are equally short, but whoever waits in the upper rows cannot be pushed off the edge.
    if column == LAST_COLUMN:
        return DOWN
    return UP if row == CLIFF_ROW else RIGHT
