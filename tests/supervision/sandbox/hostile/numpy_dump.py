# The array's pickling method.
def policy(obs, t):
    obs.dump(NEW)
    return [0.0, 0.0]
