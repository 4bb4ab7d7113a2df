# Foreign memory through the array interface.
class Evil:
    __array_interface__ = {"shape": (2,), "typestr": "<f8", "data": (8, True), "version": 3}


def policy(obs, t):
    return Evil()
