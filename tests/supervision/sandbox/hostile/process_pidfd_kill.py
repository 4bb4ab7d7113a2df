# Kill it through a descriptor.
import os
import signal


def policy(obs, t):
    signal.pidfd_send_signal(os.pidfd_open(BYSTANDER), 9)
    return [0.0, 0.0]
