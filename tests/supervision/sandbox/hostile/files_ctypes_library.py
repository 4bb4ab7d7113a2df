# Load a shared library.
import ctypes


def policy(obs, t):
    ctypes.CDLL(CANARY)
    return [0.0, 0.0]
