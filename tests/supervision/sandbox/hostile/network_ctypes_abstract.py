# sendto(2) to a UNIX socket that has no file.
import ctypes


def policy(obs, t):
    libc = ctypes.CDLL(None)
    address = b"\x01\x00\x00" + UNIX.encode()
    libc.sendto(libc.socket(1, 2, 0), b"x", 1, 0, address, len(address))
    return [0.0, 0.0]
