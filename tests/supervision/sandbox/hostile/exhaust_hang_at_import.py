# Never finish loading.
while True:
    pass


def policy(obs, t):
    return [0.0, 0.0]
