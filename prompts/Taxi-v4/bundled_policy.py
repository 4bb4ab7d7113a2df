"""Shortest way around the walls for Taxi-v4: to the passenger, pick up, to the destination, drop off."""

SOUTH, NORTH, EAST, WEST, PICK_UP, DROP_OFF = 0, 1, 2, 3, 4, 5
PADS = ((0, 0), (0, 4), (4, 0), (4, 3))  # row and column of Red, Green, Yellow, Blue
IN_TAXI = 4
GAP_ROW = 2  # the only row without a wall


def wall_between(row, column, other):
    """Tell whether a wall of this row stands between the two columns.

    Top (rows 0, 1): between columns 1 and 2. Bottom (rows 3, 4): between 0 and 1, and between 2 and 3.
    """
    walls = () if row == GAP_ROW else (1,) if row < GAP_ROW else (0, 2)  # each stands on the right of that column
    return any(min(column, other) <= wall < max(column, other) for wall in walls)


def drive(row, column, target_row, target_column):
    """First move of a shortest way to another cell."""
    if column != target_column:
        if not wall_between(row, column, target_column):
            return EAST if target_column > column else WEST
        return SOUTH if row < GAP_ROW else NORTH  # to the gap, and through it to the target's column
    return SOUTH if target_row > row else NORTH  # no wall ever stands between two rows


def policy(obs, t):
    """Action in place of the agent's own.

    obs: int, ((row * 5 + column) * 5 + passenger) * 4 + destination
    t: step of the current episode, an int from 0 (not used: the state says all)
    returns: int, 0 south, 1 north, 2 east, 3 west, 4 pick up, 5 drop off
    """
    rest, destination = divmod(obs, 4)
    rest, passenger = divmod(rest, 5)
    row, column = divmod(rest, 5)
    carries = passenger == IN_TAXI
    target = PADS[destination if carries else passenger]
    if (row, column) == target:
        return DROP_OFF if carries else PICK_UP
    return drive(row, column, target[0], target[1])
