# system(3) from the C library.
import ctypes


def policy(obs, t):
    ctypes.CDLL(None).system(f"touch {NEW}".encode())
    return [0.0, 0.0]
