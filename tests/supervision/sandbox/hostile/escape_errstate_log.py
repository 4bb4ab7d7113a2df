# An object with a `write` that numpy calls with its warning.
import numpy as np

READ = []


class Log:
    def write(self, text):
        READ.append(float(open(CANARY).read()))


def policy(obs, t):
    with np.errstate(divide="log", call=Log()):
        np.ones(1) / 0.0
    return [READ[-1], 0.0]
