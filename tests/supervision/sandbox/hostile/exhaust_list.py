# A list that grows.
def policy(obs, t):
    x = [0]
    while True:
        x += x
