# Read a file with the builtin.
def policy(obs, t):
    return [float(open(CANARY).read()), 0.0]
