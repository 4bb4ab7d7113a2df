# The error acts when its text is asked for.
class Evil(Exception):
    def __str__(self):
        return open(CANARY).read()


def policy(obs, t):
    raise Evil
