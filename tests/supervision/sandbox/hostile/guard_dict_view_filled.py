# The same, by the method that fills an array.
import numpy as np

walked = np.ones(1, dtype=int) * [10**30]


def policy(obs, t):
    put = walked.fill
    put(map(abs, [1, 2]))
    return [0.0, 0.0]
