# __import__.
def policy(obs, t):
    os = __import__("os")
    return [float(os.read(os.open(CANARY, 0), 100)), 0.0]
