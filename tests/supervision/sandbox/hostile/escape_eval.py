# eval.
def policy(obs, t):
    return [float(eval("open(CANARY).read()")), 0.0]
