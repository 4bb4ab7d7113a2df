"""Measured effects of actions, against systems that are known."""

import re

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
from rules import vectors

from supervision.effects import fit, measured_effects, student_t
from supervision.episodes import Stretch
from supervision.sandbox.messages import Observation

A = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.0], [0.2, 0.0, 1.0]])
B = np.array([[0.0, 0.5], [-0.25, 0.0], [0.0, 0.0]])  # action 0 moves obs[1], action 1 moves obs[0], none obs[2]


def linear(steps: int, noise: float = 0.01, policy=None, seed: int = 0, uniform: bool = True) -> Stretch:
    """x' = A x + B u + noise, with uniform actions or those of a policy."""
    rng, stretch, x = np.random.default_rng(seed), Stretch(0, 0, 0, False, uniform), np.zeros(3)
    for _ in range(steps):
        u = rng.uniform(-1, 1, 2) if policy is None else policy(x, rng)
        after = A @ x + B @ u + noise * rng.normal(size=3)
        stretch.add(x, u.astype(np.float32), 0.0, after)
        x = after
    return stretch


def effects(text: str) -> dict[tuple[str, int], tuple[float, float]]:
    """(action, component) → (effect, standard error) of a table."""
    found = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(": ")
        for j, value, error in re.findall(r"obs\[(\d+)\] (\S+) ± ([\d.e+-]+)", rest):
            found[name, int(j)] = float(value), float(error)
    return found


def test_the_effects_of_a_linear_system_are_found():
    text, uniform = measured_effects([linear(600)], Observation("floats", (3,)))
    found = effects(text)
    assert uniform and set(found) == {("action[0]", 1), ("action[1]", 0)}
    for key, expected in ((("action[0]", 1), -0.25), (("action[1]", 0), 0.5)):
        value, error = found[key]
        assert abs(value - expected) < 5 * error and 0 < error < 0.01
    assert text.startswith(
        "What an action does to the observation within one step, per unit of the action ± standard error, fitted on "
        "600 steps of uniformly random actions, without guidance"
    )


def test_coefficients_and_errors_are_those_of_least_squares():
    """Against the normal equations of the whole design: intercept, observation and action."""
    rng = np.random.default_rng(1)
    x, others = rng.normal(size=(80, 2)), rng.normal(size=(80, 3))
    x[:, 0] += others[:, 0]
    y = np.column_stack([x @ [1.0, -2.0] + others @ [0.5, 0.0, 3.0] + 7, rng.normal(size=80)]) + 0.1 * rng.normal(
        size=(80, 2)
    )
    design = np.column_stack([x, np.ones(80), others])
    inverse = np.linalg.inv(design.T @ design)
    whole = inverse @ design.T @ y
    noise = ((y - design @ whole) ** 2).sum(axis=0) / (80 - 6)
    coefficients, errors, share = fit(x, others, y)
    assert coefficients == pytest.approx(whole[:2])
    assert errors == pytest.approx(np.sqrt(np.outer(np.diag(inverse)[:2], noise)))
    assert 0.3 < share[0] < 0.7 < share[1] <= 1
    doubled = np.column_stack([others, others, np.ones(80)])  # what says the same twice changes nothing
    assert fit(x, doubled, y)[0] == pytest.approx(whole[:2])


def test_what_a_policy_does_because_of_the_observation_is_no_effect():
    """u1 follows x2, with noise: obs[2] is pushed by obs[0] alone, though it goes along with the action."""
    policy = lambda x, rng: np.array([0.0, np.tanh(x[2]) / 2]) + rng.uniform(-0.6, 0.6, 2)  # noqa: E731
    seen = [linear(1_000, policy=policy, uniform=False, seed=seed) for seed in (0, 1)]
    text, uniform = measured_effects(seen, Observation("floats", (3,)))
    found = effects(text)
    assert not uniform and ("action[0]", 1) in found and ("action[1]", 2) not in found
    assert abs(found["action[1]", 0][0] - 0.5) < 0.02 and "2,000 steps of sampled actions" in text


def test_an_action_that_follows_from_the_observation_has_no_measured_effect():
    text, _ = measured_effects(
        [linear(500, policy=lambda x, rng: np.array([0.5 * x[0], rng.uniform(-1, 1)]), uniform=False)],
        Observation("floats", (3,)),
    )
    assert "action[1]" in text and "action[0]" not in text


@pytest.mark.parametrize(("steps", "actions", "numbers"), [(120, 3, 4), (15, 1, 40)])  # 15: the fewest that are fitted
def test_nothing_is_found_where_there_is_nothing(steps, actions, numbers):
    """100 tables of pure noise: of one in a hundred a line is expected."""
    lines = 0
    for seed in range(100):
        rng, stretch = np.random.default_rng(seed), Stretch(0, 0, 0, False, True)
        for x, u, after in zip(*(rng.normal(size=(steps, n)) for n in (numbers, actions, numbers)), strict=True):
            stretch.add(x, u, 0.0, after)
        lines += measured_effects([stretch], Observation("floats", (numbers,)))[0] != ""
    assert lines <= 6


@pytest.mark.parametrize(("probability", "free"), [(0.9985, 13), (1 - 1e-6, 13), (0.9998, 33), (1 - 8e-7, 77)])
def test_the_quantile_is_student_s(probability, free):
    assert student_t(probability, free) == pytest.approx(scipy.stats.t.ppf(probability, free), rel=0.01)


def test_random_actions_are_preferred_and_guided_ones_are_not_asked_for():
    late = linear(800, policy=lambda x, rng: rng.uniform(-1, 1, 2), uniform=False)
    text, uniform = measured_effects([linear(200), late], Observation("floats", (3,)))
    assert uniform and "fitted on 200 steps of uniformly random actions" in text
    text, uniform = measured_effects([linear(15), late], Observation("floats", (3,)))
    assert not uniform and "fitted on 815 steps of sampled actions" in text
    assert (
        measured_effects([linear(15)], Observation("floats", (3,)))
        == ("", False)
        == measured_effects([], Observation("int"))
    )


def rolled_out(env: gym.Env, steps: int) -> list[Stretch]:
    env.action_space.seed(0)
    stretches, (obs, _) = [Stretch(0, 0, 0, False, True)], env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        stretches[-1].add(obs, action, reward, next_obs)
        obs = next_obs
        if terminated or truncated:
            stretches.append(Stretch(0, 0, 0, False, True))
            obs, _ = env.reset()
    return stretches


def test_signs_of_real_environments():
    """MountainCar: 0.0015 a step (its constant). CartPole: to the right the cart is pushed, and the pole falls left.
    HalfCheetah: each action moves its own joint, obs[2 + i], and its speed, obs[11 + i]."""
    car = effects(
        measured_effects(rolled_out(gym.make("MountainCarContinuous-v0"), 400), Observation("floats", (2,)))[0]
    )
    assert car["action[0]", 1][0] == pytest.approx(0.0015, rel=0.01)
    cart = effects(measured_effects(rolled_out(gym.make("CartPole-v1"), 400), Observation("floats", (4,)))[0])
    assert cart["action 1", 1][0] == pytest.approx(0.195, rel=0.02) == -cart["action 0", 1][0]
    assert cart["action 1", 3][0] < 0 < cart["action 0", 3][0]
    cheetah = effects(measured_effects(rolled_out(gym.make("HalfCheetah-v5"), 1_000), Observation("floats", (17,)))[0])
    for i in range(6):
        assert cheetah[f"action[{i}]", 2 + i][0] > 0.2 and cheetah[f"action[{i}]", 11 + i][0] > 5


def test_the_random_steps_before_learning_are_enough_for_a_humanoid():
    """`learning_starts` is 100, it has 17 actions: each moves a joint by its motor's force, obs[253 + i]."""
    steps = rolled_out(gym.make("Humanoid-v5"), 100)
    found = effects(measured_effects(steps, Observation("floats", (348,)))[0])
    order = [1, 0, *range(2, 17)]  # of the motors against the joints: abdomen_y is the first motor, abdomen_z the joint
    assert all(found[f"action[{i}]", 253 + order[i]][0] > 10 for i in range(17)), found


def test_changes_of_integers_are_counted():
    """Cliff walking: up and down are 12 cells, right and left one; at the border, and after the cliff, others."""
    env = vectors("CliffWalking-v1", max_episode_steps=50)
    lines = measured_effects(rolled_out(env, 600), Observation("int"))[0].splitlines()
    assert lines[0].startswith(
        "What an action did to the observation, counted in 600 steps of uniformly random actions"
    )
    for action, change in ((0, "-12"), (1, "+1"), (2, "+12"), (3, "-1")):
        (line,) = [line for line in lines if line.startswith(f"action {action}, ")]
        assert f" {change} (" in line
    stretch = Stretch(0, 0, 0, False, True)
    for before, action, after, reward in (((5, 1), 0, (6, 1), 1.0), ((5, 1), 0, (6, 1), 0.0), ((5, 1), 0, (5, 0), 0.5)):
        stretch.add(np.array(before), np.int64(action), reward, np.array(after))
    text, _ = measured_effects([stretch], Observation("tuple", (2,)))
    assert text.splitlines()[1] == "action 0, 3 times: obs (+1, +0) (67%), (+0, -1) (33%); reward 0.5"
