import math

import numpy as np

PERIOD = 8.0  # steps


def policy(obs: np.ndarray, t: int) -> np.ndarray:
    """The bounding gait of gait_1.py at half its size."""
    p = 2.0 * math.pi * t / PERIOD
    action = np.zeros(6)
    for first, phase in ((0, p), (3, p + math.pi)):
        action[first] = 0.8 * math.sin(phase)
        action[first + 1] = 0.6 * math.sin(phase - math.pi / 2)
        action[first + 2] = 0.5 * math.sin(phase - math.pi / 2)
    if abs(obs[1]) >= 0.3:
        e = 0.5 * float(obs[1]) + 0.1 * float(obs[10])
        action[3] -= e
        action[0] += e
    return 0.5 * np.clip(action, -1.0, 1.0)
