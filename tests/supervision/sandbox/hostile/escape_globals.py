# A function's globals.
def policy(obs, t):
    builtins = policy.__globals__["__builtins__"]
    return [float(builtins["open"](CANARY).read()), 0.0]
