# Attributes inside an f-string.
def policy(obs, t):
    return [float(f"{policy.__globals__['__builtins__']['open'](CANARY).read()}"), 0.0]
