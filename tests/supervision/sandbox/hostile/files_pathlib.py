# pathlib.
def policy(obs, t):
    from pathlib import Path

    return [float(Path(CANARY).read_text()), 0.0]
