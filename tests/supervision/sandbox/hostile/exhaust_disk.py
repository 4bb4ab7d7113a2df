# Fill the disk (here: a little of it), in the own folder first.
def policy(obs, t):
    for name in ("here", NEW):
        with open(name, "wb") as file:
            for _ in range(20):
                file.write(bytes(2**20))
    return [0.0, 0.0]
