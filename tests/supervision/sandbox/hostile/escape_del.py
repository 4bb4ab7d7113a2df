# A finaliser runs when the garbage collector wishes.
class Evil:
    def __del__(self):
        with open(CANARY) as file:
            file.read()


def policy(obs, t):
    x = Evil()
    del x
    return [0.0, 0.0]
