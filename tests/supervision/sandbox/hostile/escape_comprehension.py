# The same walk inside a comprehension.
def policy(obs, t):
    below = type.__subclasses__
    files = [c for a in below(().__class__.__base__) for b in below(a) for c in below(b) if c.__name__ == "FileIO"]
    return [float(files[0](CANARY).readall()), 0.0]
