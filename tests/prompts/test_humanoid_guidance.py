"""Humanoid's bundled rule in front of a policy that can stand, and of one that cannot."""

import runpy

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import ROOT

from supervision.trial import worse

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


def returns(noise: float | None, pairs: int, horizon: int = 1_000) -> tuple[np.ndarray, np.ndarray]:
    """Returns of so many episodes from equal starts over their first `horizon` steps: with the rule, and without it."""
    env = gym.make("Humanoid-v5", **LAYOUT)
    rng, stander = np.random.default_rng(0), None if noise is None else Stander(env, noise)
    found: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        for guided in (True, False):
            obs, _ = env.reset(seed=9300 + pair)
            total = 0.0
            if stander is not None:
                stander.t = 0
            for t in range(horizon):
                # without a stander: what an untrained actor samples, which falls at once
                action = 0.4 * np.tanh(rng.normal(size=17)) if stander is None else stander(obs[None], False)[0]
                action = np.clip(action + RULE(obs, t), -0.4, 0.4) if guided else action
                obs, reward, *ends, _ = env.step(action)
                total += reward
                if any(ends):
                    break
            found[guided].append(total)
    env.close()
    return np.array(found[True]), np.array(found[False])


def test_rule_holds_up_a_policy_that_falls():
    guided, unguided = returns(noise=None, pairs=300, horizon=200)
    difference = guided - unguided
    assert not worse(guided, unguided) and difference.mean() > 2 * difference.std(ddof=1) / len(difference) ** 0.5


@pytest.mark.slow
def test_rule_passes_a_trial_against_a_policy_that_can_stand():
    """With exploration noise, as in training; it must stand by itself, or the test would say nothing."""
    guided, unguided = returns(noise=0.03, pairs=12)
    assert np.mean(unguided) > 2_500  # hundreds of steps at 5 each
    assert not worse(guided, unguided)


@pytest.mark.slow
def test_gait_leaves_a_calm_stander_standing():
    """Without noise the rule costs its own effort and no more: 0.5 % of the return."""
    guided, unguided = returns(noise=0.0, pairs=6)
    assert np.mean(guided) > 0.995 * np.mean(unguided) > 2_000
