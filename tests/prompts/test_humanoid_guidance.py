"""Humanoid's bundled rule in front of a policy that can stand, and of one that cannot."""

import runpy

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import ROOT

from supervision.trial import Audition, run_audition

RULE = runpy.run_path(str(ROOT / "prompts" / "Humanoid-v5" / "bundled_policy.py"))["policy"]
# the script's layout: 24 positions and 23 velocities
LAYOUT = dict.fromkeys(
    ("exclude_current_positions_from_observation", "include_cinert_in_observation", "include_cvel_in_observation",
     "include_qfrc_actuator_in_observation", "include_cfrc_ext_in_observation"), False,
)  # fmt: skip


class Stander:
    """Stands for hundreds of steps: linear feedback (LQR) about a balanced stance, after a landing with PD control.

    The stance, its torques and the gain (17, 46) were computed from the linearised model; noise is the exploration's
    standard deviation in action units.
    """

    def __init__(self, env: gym.Env, noise: float):
        data = np.load(ROOT / "tests" / "data" / "humanoid_stander.npz")
        self.stance, self.torque, self.gain, self.landing = (data[k] for k in ("stance", "torque", "gain", "landing"))
        self.model, self.noise, self.rng, self.t = env.unwrapped.model, noise, np.random.default_rng(5), 0
        self.joints = self.model.actuator_trnid[:, 0]  # the joint of each action; joint 0 is the free root
        self.gear = self.model.actuator_gear[:, 0]

    def __call__(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        actions = np.stack([self.action(o) for o in obs]) + self.rng.normal(0, self.noise, (len(obs), 17))
        self.t += 1
        return np.clip(actions, -0.4, 0.4)

    def action(self, obs: np.ndarray) -> np.ndarray:
        if self.t < 25:
            angles, rates = obs[7:24][self.joints - 1], obs[30:47][self.joints - 1]
            return self.torque + (261.488 * (self.landing[self.joints - 1] - angles) - 3.02303 * rates) / self.gear
        reference, error = self.stance.copy(), np.zeros(23)
        reference[:2] = obs[:2]  # anywhere on the floor
        mujoco.mj_differentiatePos(self.model, error, 1.0, reference, obs[:24])
        return self.torque - self.gain @ np.concatenate([error, obs[24:]])


class RestartedEnv(gym.Wrapper):
    """Tells the stander when a round of the audition begins."""

    stander: Stander

    def reset(self, **kwargs):
        self.stander.t = 0
        return super().reset(**kwargs)


def audition(noise: float | None, pairs: int, max_steps: int) -> Audition:
    envs = [gym.make("Humanoid-v5", **LAYOUT) for _ in range(2 * pairs)]
    if noise is None:  # what an untrained actor samples: falls at once
        rng = np.random.default_rng(0)
        act = lambda obs, deterministic: 0.4 * np.tanh(rng.normal(size=(len(obs), 17)))  # noqa: E731
    else:
        act = Stander(envs[0], noise)
        envs[0] = RestartedEnv(envs[0])
        envs[0].stander = act
    guided = lambda obs, t, lanes: np.stack([RULE(o, int(step)) for o, step in zip(obs, t, strict=True)])  # noqa: E731
    return run_audition(
        envs, act, lambda a, g: np.clip(a + g, -0.4, 0.4), guided, max_steps=max_steps, seed=9300
    )  # fmt: skip


def test_rule_holds_up_a_policy_that_falls():
    result = audition(noise=None, pairs=30, max_steps=5_000)
    difference = np.subtract(result.guided, result.unguided)
    assert result.passed and difference.mean() > 2 * difference.std(ddof=1) / len(difference) ** 0.5


@pytest.mark.slow
def test_rule_passes_the_audition_against_a_policy_that_can_stand():
    """With exploration noise, as the audition is held; it must stand by itself, or the test would say nothing."""
    result = audition(noise=0.03, pairs=12, max_steps=24_000)
    assert np.mean(result.unguided) > 2_500  # hundreds of steps at 5 each
    assert result.passed


@pytest.mark.slow
def test_gait_leaves_a_calm_stander_standing():
    """Without noise the rule costs its own effort and no more: 0.5 % of the return."""
    result = audition(noise=0.0, pairs=6, max_steps=12_000)
    assert np.mean(result.guided) > 0.995 * np.mean(result.unguided) > 2_000
