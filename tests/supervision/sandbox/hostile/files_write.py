# Create a file.
def policy(obs, t):
    with open(NEW, "w") as file:
        file.write("x")
    return [0.0, 0.0]
