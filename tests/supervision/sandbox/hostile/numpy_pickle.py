# An object array that acts when it is unpickled.
import pickle

import numpy as np


class Evil:
    def __reduce__(self):
        return open, (CANARY,)


def policy(obs, t):
    return [float(pickle.loads(np.array([Evil()], dtype=object).dumps())[0].read()), 0.0]
