# `out` among the arguments: a rule that seems to keep nothing writes into a table.
import numpy as np

TABLE = np.zeros(3)


def policy(obs, t):
    np.add(TABLE, 0.1, TABLE)
    return TABLE[:2]
