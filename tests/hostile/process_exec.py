# Become another program.
import os


def policy(obs, t):
    os.execvp("touch", ["touch", NEW])
