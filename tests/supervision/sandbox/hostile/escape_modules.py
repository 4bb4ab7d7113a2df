# Modules that are loaded already.
import sys


def policy(obs, t):
    return [float(sys.modules["io"].open(CANARY).read()), 0.0]
