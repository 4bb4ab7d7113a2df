# Hang in C code.
def policy(obs, t):
    return [sum(iter(lambda: 1, 0)), 0.0]
