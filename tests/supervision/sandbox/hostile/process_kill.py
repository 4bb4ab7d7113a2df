# Kill another process of the same user.
import os


def policy(obs, t):
    os.kill(BYSTANDER, 9)
    return [0.0, 0.0]
