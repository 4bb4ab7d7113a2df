# A string of ten gigabytes.
def policy(obs, t):
    return [len("x" * 10**10), 0.0]
