# posix_spawn.
import os


def policy(obs, t):
    os.waitpid(os.posix_spawnp("touch", ["touch", NEW], {}), 0)
    return [0.0, 0.0]
