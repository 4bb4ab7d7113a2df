# A traceback's frame.
def policy(obs, t):
    try:
        1 / 0
    except ZeroDivisionError as error:
        return [float(error.__traceback__.tb_frame.f_builtins["open"](CANARY).read()), 0.0]
