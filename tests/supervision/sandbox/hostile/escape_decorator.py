# A decorator calls without a call.
def run(f):
    return open(CANARY)


@run
def file():
    pass


def policy(obs, t):
    return [float(file.read()), 0.0]
