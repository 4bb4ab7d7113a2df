# Hang without computing.
import time


def policy(obs, t):
    time.sleep(3600)
