# numpy fetches addresses.
import numpy as np


def policy(obs, t):
    np.lib.npyio.DataSource(None).open(f"http://127.0.0.1:{PORT}/x")
    return [0.0, 0.0]
