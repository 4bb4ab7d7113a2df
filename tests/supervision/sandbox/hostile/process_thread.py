# A thread of its own.
import threading


def policy(obs, t):
    thread = threading.Thread(target=lambda: open(CANARY).read())
    thread.start()
    thread.join()
    return [0.0, 0.0]
