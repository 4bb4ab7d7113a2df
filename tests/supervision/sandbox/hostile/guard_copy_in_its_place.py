# A function that changes what it is given, by an argument in its place: a rule that seems to keep nothing.
import numpy as np

TABLE = np.array([np.nan, 0.0])


def policy(obs, t):
    np.nan_to_num(TABLE, False)
    return TABLE
