# Change another process's limits.
import resource


def policy(obs, t):
    resource.prlimit(BYSTANDER, resource.RLIMIT_NOFILE, (7, 7))
    return [0.0, 0.0]
