# eval as the decorator of a class.
@eval
@lambda c: f"open({CANARY!r}).read()"
class text:
    pass


def policy(obs, t):
    return [float(text), 0.0]
