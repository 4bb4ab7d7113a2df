"""Harmful on purpose: drive away from the target, the passenger's pad or the destination, and never stop there.

It makes none of the moves that cost 10 points, so its episodes return -200, like those of a learner that delivers
nobody.
"""

SOUTH, NORTH, EAST, WEST = 0, 1, 2, 3
PADS = ((0, 0), (0, 4), (4, 0), (4, 3))  # row and column of Red, Green, Yellow, Blue
IN_TAXI = 4


def policy(obs, t):
    """Action in place of the agent's; obs: int, ((row * 5 + column) * 5 + passenger) * 4 + destination."""
    rest, destination = divmod(obs, 4)
    rest, passenger = divmod(rest, 5)
    row, column = divmod(rest, 5)
    target_row, target_column = PADS[destination if passenger == IN_TAXI else passenger]
    if t % 2:  # in turns, so that neither a wall nor the edge keeps it from moving
        return NORTH if target_row > row else SOUTH
    return WEST if target_column > column else EAST
