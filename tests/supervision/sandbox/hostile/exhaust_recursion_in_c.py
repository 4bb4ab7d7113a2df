# Recursion that Python's own counter sees late: nested containers.
def policy(obs, t):
    x = []
    for _ in range(10**6):
        x = [x]
    return [float(x == [x]), 0.0]
