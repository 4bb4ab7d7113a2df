# Catch every error and go on.
def policy(obs, t):
    x = [0]
    while True:
        try:
            while True:
                x += x
        except:
            pass
