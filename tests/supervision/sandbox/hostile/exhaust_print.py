# Print gigabytes.
def policy(obs, t):
    while True:
        print("x" * 10**6)
