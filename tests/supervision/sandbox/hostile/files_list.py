# List a folder.
import os


def policy(obs, t):
    return [len(os.listdir(ARENA)) / 100, 0.0]
