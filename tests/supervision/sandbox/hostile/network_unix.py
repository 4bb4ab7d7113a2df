# A UNIX socket.
import socket


def policy(obs, t):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", UNIX)
    return [0.0, 0.0]
