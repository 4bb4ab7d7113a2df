# Connect with TCP.
import socket


def policy(obs, t):
    socket.create_connection(("127.0.0.1", PORT)).send(b"x")
    return [0.0, 0.0]
