# sys._getframe and the callers.
import sys


def policy(obs, t):
    os = sys._getframe().f_back.f_globals["sys"].modules["os"]
    return [float(os.read(os.open(CANARY, 0), 100)), 0.0]
