# tempfile in somebody else's folder.
def policy(obs, t):
    import tempfile

    tempfile.mkstemp(dir=ARENA)
    return [0.0, 0.0]
