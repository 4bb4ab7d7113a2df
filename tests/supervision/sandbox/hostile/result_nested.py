# A list that contains itself.
def policy(obs, t):
    x = []
    x.append(x)
    return x
