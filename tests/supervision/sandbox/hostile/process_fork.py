# fork.
import os
import time


def policy(obs, t):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    return [0.0, 0.0]
