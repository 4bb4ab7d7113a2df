# The array's own method.
def policy(obs, t):
    obs.tofile(NEW)
    return [0.0, 0.0]
