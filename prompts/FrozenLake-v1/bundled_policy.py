"""Careful steps for the slippery FrozenLake-v1: choose the move whose slips are the least dangerous.

A move goes where it is meant to with probability 1/3, and with 1/3 each to its left and to its right. So a move towards
a wall or away from a hole is often the best: the slips do the walking, and they cannot end in the hole.
"""

LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")  # start, frozen, hole, goal
SIZE = 4
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # row and column of 0 left, 1 down, 2 right, 3 up
GOAL = 15


def cells_after(cell, action):
    """The three equally probable cells after a move; the lake's border stops it."""
    row, column = divmod(cell, SIZE)
    cells = []
    for direction in (action - 1, action, action + 1):  # neighbours in MOVES are at right angles
        down, right = MOVES[direction % 4]
        cells.append(SIZE * min(max(row + down, 0), SIZE - 1) + min(max(column + right, 0), SIZE - 1))
    return cells


def is_hole(cell):
    return LAKE[cell // SIZE][cell % SIZE] == "H"


def holes_after(cell, action):
    return sum(is_hole(c) for c in cells_after(cell, action))


# A trap is a frozen cell where every move may end in a hole; on this map that is cell 6, between two holes.
TRAPS = [c for c in range(GOAL) if not is_hole(c) and min(holes_after(c, a) for a in range(4)) > 0]


def steps_to_goal():
    """Steps to the goal from each cell around holes and traps; 99 where there is no such way."""
    steps = [99] * (GOAL + 1)
    steps[GOAL] = 0
    for _ in range(GOAL):
        for cell in range(GOAL):
            if not is_hole(cell) and cell not in TRAPS:
                steps[cell] = min(steps[cell], 1 + min(steps[cells_after(cell, a)[1]] for a in range(4)))
    return steps


STEPS = steps_to_goal()


def policy(obs, t):
    """Action in place of the agent's own.

    obs: int, 4 * row + column; row 0 is at the top
    t: step of the current episode, an int from 0 (not used: the cell says all)
    returns: int, 0 left, 1 down, 2 right, 3 up
    """

    def danger(action):
        """What to avoid, the worst first: holes, then traps, then a long way to the goal."""
        cells = cells_after(obs, action)
        return (holes_after(obs, action), sum(c in TRAPS for c in cells), sum(STEPS[c] for c in cells))

    return min(range(4), key=danger)  # of equals the first
