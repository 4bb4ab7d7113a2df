"""The audition, by hand."""

import gymnasium as gym
import numpy as np

from supervision.sandbox.messages import TRIAL_LANES
from supervision.trial import Audition, run_audition


class LineEnv(gym.Env):
    """Walks on a line; the reward is the action plus a start bonus that the seed sets; ends after 10 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.bonus = 0, float(seed)
        return np.array([self.bonus]), {}

    def step(self, action):
        self.t += 1
        return np.array([self.bonus]), float(action[0]) + self.bonus, self.t == 10, False, {}


def audition(residual, max_steps: int = 1_000, pairs: int = 2) -> Audition:
    return run_audition(
        [LineEnv() for _ in range(2 * pairs)], lambda obs, deterministic: np.zeros((len(obs), 1)),
        lambda a, g: np.clip(a + g, -1, 1), lambda obs, t, lanes: np.array([[residual(i)] for i in t]),
        max_steps=max_steps, seed=100,
    )  # fmt: skip


def test_audition_by_hand():
    """Unguided return of pair i: 10 · (100 + i); a residual of 0.5 adds 5; equal seeds and horizons in each pair."""
    result = audition(lambda t: 0.5)
    assert result.unguided == [1000.0, 1010.0] and result.guided == [1005.0, 1015.0]
    assert result.passed and result.steps == 40
    assert not audition(lambda t: -0.5).passed
    # a budget of 22 steps: five joint steps of four lanes, the same horizon for all
    short = audition(lambda t: 0.5, max_steps=22)
    assert short.steps == 20 and short.unguided == [500.0, 505.0] and short.guided == [502.5, 507.5]


def test_audition_goes_on_while_noise_decides():
    """Differences that scatter around zero call for more pairs, until the budget cannot pay for another round."""
    rng = np.random.default_rng(0)
    result = audition(lambda t: rng.normal(), max_steps=400)
    assert len(result.guided) > 2 and result.steps <= 400
    assert len(set(result.unguided)) == len(result.unguided)  # each pair has a seed of its own
    assert audition(lambda t: 0.0, max_steps=170).steps == 160  # never decided: four rounds of 40


def test_audition_acts_as_in_training_and_passes_the_episode_step():
    seen = []

    def act(obs, deterministic):
        seen.append(deterministic)
        return np.zeros((len(obs), 1))

    steps = []

    def policy(obs, t, lanes):
        assert lanes.tolist() == [TRIAL_LANES + 1]  # environments of its own, apart from training's
        steps.append(t.tolist())
        return np.zeros((len(obs), 1))

    run_audition([LineEnv(), LineEnv()], act, np.add, policy, max_steps=20, seed=0)
    assert seen == [False] * 10 and steps == [[i] for i in range(10)]
