# The same through math.
import math


def policy(obs, t):
    return [math.factorial(10**7) % 7, 0.0]
