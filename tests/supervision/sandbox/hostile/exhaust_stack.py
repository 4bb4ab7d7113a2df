# A higher limit, then recursion until the C stack is full.
import sys


def policy(obs, t):
    sys.setrecursionlimit(10**9)
    f = lambda x: max([x], key=f)
    return f(0)
