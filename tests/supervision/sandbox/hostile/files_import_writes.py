# The attack sits at the top level, so it would run when the policy is loaded.
with open(NEW, "w") as file:
    file.write("x")


def policy(obs, t):
    return [0.0, 0.0]
