# Never finish the first call.
def policy(obs, t):
    while True:
        pass
