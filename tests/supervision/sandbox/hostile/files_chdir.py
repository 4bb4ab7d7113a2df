# Leave the own folder, then use a relative name.
import os


def policy(obs, t):
    os.chdir(ARENA)
    return [float(open("canary.txt").read()), 0.0]
