# The same, by another name and with the keywords of a function of its own.
import numpy as np


def call(f, **options):
    return f(*[[0.0, 1.0]], **options)


def policy(obs, t):
    return call(lambda x, **options: np.sqrt(x, where=options["w"]), w=[False, False])
