# The same walk inside a comprehension.
def policy(obs, t):
    files = [c for a in ().__class__.__base__.__subclasses__() for c in a.__subclasses__() if c.__name__ == "_RawIOBase"]
    return [float(files[0].__subclasses__()[0](CANARY).readall()), 0.0]
