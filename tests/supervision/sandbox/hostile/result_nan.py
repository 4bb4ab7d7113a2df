# Not a number.
def policy(obs, t):
    return [float("nan"), 0.0]
