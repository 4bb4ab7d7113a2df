# Processes, as many as there may be (here: a few).
import os
import time


def policy(obs, t):
    for _ in range(20):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
    return [0.0, 0.0]
