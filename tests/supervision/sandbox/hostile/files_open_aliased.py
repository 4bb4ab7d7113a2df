# The builtin under another name, in a list.
def policy(obs, t):
    for f in [print, open]:
        x = f(CANARY)
    return [float(x.read()), 0.0]
