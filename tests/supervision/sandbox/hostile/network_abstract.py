# A UNIX socket that has no file.
import socket


def policy(obs, t):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\0" + UNIX)
    return [0.0, 0.0]
