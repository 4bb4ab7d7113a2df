# Threads.
import threading
import time


def policy(obs, t):
    for _ in range(100):
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    raise OSError("had its threads")
