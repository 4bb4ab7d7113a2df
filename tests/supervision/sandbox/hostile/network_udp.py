# Send a datagram.
import socket


def policy(obs, t):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT))
    return [0.0, 0.0]
