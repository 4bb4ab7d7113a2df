# Attributes inside a format string.
def policy(obs, t):
    return [float("{0.__globals__[__builtins__][open]}".format(policy) != ""), 0.0]
