# Debug another process.
import ctypes


def policy(obs, t):
    ctypes.CDLL(None).ptrace(ctypes.c_long(16), ctypes.c_long(BYSTANDER), None, None)
    ctypes.CDLL(None).usleep(10_000)
    return [0.0, 0.0]
