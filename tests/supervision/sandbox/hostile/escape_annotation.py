# Annotations are evaluated.
def f(x: open(CANARY).read()):
    pass


def policy(obs, t):
    return [float(f.__annotations__["x"]), 0.0]
