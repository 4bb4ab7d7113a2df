# An integer that no array holds.
def policy(obs, t):
    return [10**400, 0]
