# subprocess.
import subprocess


def policy(obs, t):
    subprocess.run(["touch", NEW])
    return [0.0, 0.0]
