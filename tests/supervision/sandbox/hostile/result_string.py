# Text.
def policy(obs, t):
    return ["0.5", "0.5"]
