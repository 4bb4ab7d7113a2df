# A regular expression that backtracks for ever.
import re


def policy(obs, t):
    return [bool(re.match("(a+)+$", "a" * 60 + "b")), 0.0]
