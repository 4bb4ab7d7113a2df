# An integer of a hundred million digits, in C code that nothing interrupts.
def policy(obs, t):
    return [float(10 ** (10**8) % 7), 0.0]
