# Behave for 9,999 calls.
calls = [0]


def policy(obs, t):
    calls[0] += 1
    while calls[0] >= 10_000:
        pass
    return [0.0, 0.0]
