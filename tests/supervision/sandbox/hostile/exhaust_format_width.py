# The same through a format.
def policy(obs, t):
    return [len("%9999999999d" % 1), 0.0]
