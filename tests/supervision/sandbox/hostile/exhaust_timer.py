# Switch the CPU timer off, then hang.
import signal


def policy(obs, t):
    signal.setitimer(signal.ITIMER_PROF, 0)
    while True:
        pass
