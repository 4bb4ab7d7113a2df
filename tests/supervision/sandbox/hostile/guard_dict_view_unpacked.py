# The same, by a loop that has the array's item as its variable.
import numpy as np

walked = np.ones(1, dtype=int) * [10**30]


def policy(obs, t):
    for walked[0] in [{}.keys(), policy]:
        pass
    return [0.0, 0.0]
