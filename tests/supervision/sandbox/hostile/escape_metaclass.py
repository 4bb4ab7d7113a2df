# Operators that call functions.
class Meta(type):
    __getitem__ = lambda cls, name: open(name)


class Files(metaclass=Meta):
    pass


def policy(obs, t):
    return [float(Files[CANARY].read()), 0.0]
