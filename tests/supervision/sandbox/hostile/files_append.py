# Append to a file that exists.
def policy(obs, t):
    with open(CANARY, "a") as file:
        file.write("x")
    return [0.0, 0.0]
