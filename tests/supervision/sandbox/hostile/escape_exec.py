# exec.
def policy(obs, t):
    exec("global x; x = float(open(CANARY).read())", globals())
    return [x, 0.0]
