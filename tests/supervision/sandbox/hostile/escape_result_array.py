# The result acts while it is converted to an array.
class Evil:
    def __array__(self, *args, **options):
        import numpy

        return numpy.array([float(open(CANARY).read()), 0.0])


def policy(obs, t):
    return Evil()
