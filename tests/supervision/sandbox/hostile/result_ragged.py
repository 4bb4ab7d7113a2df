# Lists of unequal lengths.
def policy(obs, t):
    return [[0.0], 0.0]
