# Beyond the bounds.
def policy(obs, t):
    return [1e300, 0.0]
