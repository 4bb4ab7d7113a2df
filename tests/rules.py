"""What models and people answer about MountainCarContinuous-v0, and discrete environments as the scripts wrap them."""

import json

import gymnasium as gym
import numpy as np

PUSH = "```python\nimport numpy as np\n\ndef policy(obs, t):\n    return np.array([1.0 if obs[1] >= 0 else -1.0])\n```"
BRAKE = PUSH.replace(">=", "<")
INTERVENE = json.dumps({"analysis": "it stands still", "intervene": True, "advice": "pump energy",
                        "keep_current_policy": False})  # fmt: skip
CONTENT = json.dumps({"analysis": "fine", "intervene": False, "advice": "", "keep_current_policy": False})
KEEP = INTERVENE.replace('policy": false', 'policy": true')


def vectors(env_id: str, **options) -> gym.Env:
    """A discrete environment as the scripts wrap it: observations are the integers of which they consist."""
    env = gym.make(env_id, **options)
    if isinstance(env.observation_space, gym.spaces.Box):
        return env
    n = [part.n for part in getattr(env.observation_space, "spaces", [env.observation_space])]
    return gym.wrappers.TransformObservation(env, lambda obs: np.array(obs, np.int64).reshape(-1),
                                             gym.spaces.MultiDiscrete(n))  # fmt: skip
