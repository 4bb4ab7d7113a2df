"""An environment of any width that costs next to nothing to step: what is left is the learner's cost.

Registers `Wide-v0`: `--env-id benchmark.races.wide_env:Wide-v0 --env-kwargs '{"obs_size": 348}'`.
"""

import gymnasium as gym
import numpy as np


class WideEnv(gym.Env):
    """Observations (obs_size,) of standard normal noise; six actions in [−1, 1]; the reward is −Σ a²."""

    def __init__(self, obs_size: int = 17, render_mode: None = None):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (obs_size,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (6,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        return self._observe(), -float(action @ action), False, False, {}

    def _observe(self) -> np.ndarray:
        return self.np_random.standard_normal(self.observation_space.shape, np.float32)


gym.register("Wide-v0", WideEnv, max_episode_steps=1_000)
