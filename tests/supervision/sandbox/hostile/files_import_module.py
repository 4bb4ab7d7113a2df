# Load a Python module from a folder of one's choice.
import sys


def policy(obs, t):
    sys.path.insert(0, ARENA)
    import canary_module

    return [canary_module.SECRET, 0.0]
