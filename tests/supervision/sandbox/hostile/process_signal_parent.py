# Signal the parent.
import os
import signal


def policy(obs, t):
    os.kill(os.getppid(), signal.SIGUSR1)
    return [0.0, 0.0]
