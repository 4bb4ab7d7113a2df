# A generator's frame.
def policy(obs, t):
    g = (x for x in obs)
    return [float(g.gi_frame.f_builtins["open"](CANARY).read()), 0.0]
