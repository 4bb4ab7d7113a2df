"""Environments: constructors, copies, seeds and actions."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, unsupervised
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_utils.checkpoint import plain, restored
from guided_utils.environments import (
    EpisodeTape,
    clip_action,
    evaluation_seeds,
    is_continuous,
    make,
    not_finite,
    seeds_of,
)


class InPlace(gym.Env):
    """Returns one array again and again, changed in place; its episodes have five steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):  # no render_mode: it is no part of Gymnasium's contract
        self.obs = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs[:] = self.np_random.integers(1_000_000), 0
        return self.obs, {}

    def step(self, action):
        self.obs[1] += 1
        return self.obs, 1.0, False, bool(self.obs[1] == 5), {}


class Strict(InPlace):
    """Refuses a render mode of None, as panda-gym does."""

    def __init__(self, render_mode="rgb_array"):
        super().__init__()
        if render_mode not in ("rgb_array", "human"):
            raise AssertionError(f"The render mode {render_mode} is not supported")


class Faulty(InPlace):
    """Whose constructor fails whatever it is given."""

    def __init__(self, size: int = 3):
        raise RuntimeError("no such file:\nmodel.xml")


class OldNumbers(InPlace):
    """Its random numbers are of NumPy's older kind, as dm_control's are."""

    def __init__(self):
        super().__init__()
        self.numbers = np.random.RandomState(0)

    @property
    def np_random(self):
        return self.numbers

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.numbers.seed(seed)
        self.obs[:] = self.numbers.standard_normal(), 0
        return self.obs, {}


gym.register("InPlace-v0", entry_point=InPlace)
gym.register("Strict-v0", entry_point=Strict)
gym.register("Faulty-v0", entry_point=Faulty)
gym.register("OldNumbers-v0", entry_point=OldNumbers, max_episode_steps=5)


@pytest.mark.parametrize("env_id", ["InPlace-v0", "Strict-v0"])
@pytest.mark.parametrize("script", ["guided_sac_continuous.py", "rnd_sac.py"])
def test_environments_are_given_only_what_is_set(env_id, script, run_here):
    run = run_here("--env-id", env_id, "--total-timesteps", "40", "--learning-starts", "10", "--batch-size", "8",
                   *unsupervised(script), script=ROOT / script)  # fmt: skip
    assert run.global_step == 40


def test_a_constructors_error_is_blamed_on_the_kwargs_only_where_some_were_given():
    with pytest.raises(ValueError, match=r"Faulty-v0 cannot be made: RuntimeError: no such file") as plain:
        make("Faulty-v0", None, {}, None)
    assert "env-kwargs" not in str(plain.value)
    with pytest.raises(ValueError, match=r"does not accept --env-kwargs \{'size': 4\}: RuntimeError"):
        make("Faulty-v0", None, {"size": 4}, None)
    with pytest.raises(gym.error.Error, match="NoSuchEnv"):
        make("NoSuchEnv-v0", None, {}, None)


def test_arrays_that_change_in_place_are_copied(run_here):
    """Every stored s' is the true successor, also at a time limit, where the next episode's reset changes the array."""
    run = run_here("--env-id", "InPlace-v0", "--supervisor", "none", "--total-timesteps", "60", "--learning-starts",
                   "20", "--batch-size", "8")  # fmt: skip
    data = run.rb.take(run.rb.transitions.rows[:60])
    assert (data.next_observations[:, 0] == data.observations[:, 0]).all()
    assert (data.next_observations[:, 1] == data.observations[:, 1] + 1).all()
    assert data.observations[:, 1].max() == 4


@given(seed=st.integers(0, 1000), steps=st.integers(0, 40), resets=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_tape_plays_an_episode_again(seed, steps, resets):
    """In an environment whose resets go on with its random numbers: the same observations, and the same ones after."""
    first, second = (EpisodeTape(gym.make("MountainCarContinuous-v0")) for _ in range(2))
    rng = np.random.default_rng(seed)
    first.reset(seed=seed)
    for _ in range(resets - 1):
        first.step(np.array([1.0], np.float32))
        obs, _ = first.reset()
    for _ in range(steps):
        obs, *_ = first.step(rng.uniform(-1, 1, 1).astype(np.float32))
    played = second.play(first.state_dict())
    assert resets + steps == 1 or np.array_equal(played, obs)
    assert np.array_equal(first.reset()[0], second.reset()[0])


@pytest.mark.parametrize("resets", [1, 2, 3])
def test_a_tape_knows_numpys_older_random_numbers(resets, tmp_path):
    """Normal ones come in pairs there: after an odd number of them half a pair is part of the state."""
    first, second = (EpisodeTape(gym.make("OldNumbers-v0", disable_env_checker=True)) for _ in range(2))
    obs, _ = first.reset(seed=3)
    for _ in range(resets - 1):
        obs, _ = first.reset()
    torch.save(plain(first.state_dict()), tmp_path / "state.pt")  # as in a checkpoint
    assert np.array_equal(second.play(restored(torch.load(tmp_path / "state.pt", weights_only=True))), obs)
    assert np.array_equal(first.reset()[0], second.reset()[0])


@given(seed=st.integers(0, 2**32 - 1), num_envs=st.integers(1, 8))
def test_seeds_of_training_environments(seed, num_envs):
    """One environment has the run's own seed; of several, neighbouring runs share none."""
    seeds = seeds_of(seed, num_envs)
    assert seeds[0] == seed and len(set(seeds)) == num_envs and all(0 <= s < 2**32 for s in seeds)
    if seed < 2**32 - 1:
        assert not set(seeds[1:]) & set(seeds_of(seed + 1, num_envs))


@given(seed=st.integers(0, 2**32 - 1), episodes=st.integers(1, 300))
def test_seeds_of_evaluations_fit_32_bits_and_keep_their_digits(seed, episodes):
    seeds = evaluation_seeds(seed, episodes)
    assert len(seeds) == episodes and all(0 <= s < 2**32 for s in seeds)
    if seed <= 4_292:
        assert seeds == [(seed + 1) * 1_000_000 + i for i in range(episodes)]
    np.random.RandomState(seeds[-1])  # what old environments are seeded with


def test_a_large_seed_is_evaluated(run_here):
    run = run_here("--seed", "4294967295", "--supervisor", "none", "--total-timesteps", "10", "--eval-frequency", "10",
                   "--eval-episodes", "1", "--max-episode-steps", "20", "--learning-starts", "10")  # fmt: skip
    assert len(run.evaluator.points) == 2


@given(
    bounds=st.lists(
        st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(0.0078125, 1e3, width=32)), min_size=1, max_size=4
    ),
    dtype=st.sampled_from([np.float32, np.float64]),
    mean=st.floats(-1e3, 1e3),
)
@settings(max_examples=200, deadline=None)
def test_actions_lie_in_the_box(bounds, dtype, mean):
    """scale · tanh(u) + bias overshoots by rounding; what the environment is given does not."""
    low = np.array([a for a, _ in bounds], dtype)
    high = (low + np.array([width for _, width in bounds], dtype)).astype(dtype)
    if not (low < high).all():
        return
    space = gym.spaces.Box(low, high, dtype=dtype)
    actions = clip_action(np.full((3, len(bounds)), np.float32(mean)), space)
    assert actions.dtype == dtype and all(space.contains(action) for action in actions)


@pytest.mark.parametrize(("low", "high", "dtype"), [(-3e38, 3e38, np.float32), (-1e200, 1e200, np.float64)])
def test_bounds_that_float32_cannot_tell_apart_are_none(low, high, dtype):
    assert not is_continuous(gym.spaces.Box(low, high, (2,), dtype))
    assert is_continuous(gym.spaces.Box(-1e18, 1e18, (2,), dtype))


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(-1.57, 0.8, np.float32), (-0.4, 0.4, np.float64), (0.0, 0.6, np.float64)]
)
def test_a_saturated_policy_stays_in_its_box(low, high, dtype, run_here):
    """Bounds out of which rounding takes scale · tanh(u) + bias."""
    env_kwargs = f'{{"low": {low}, "high": {high}, "dtype": "{np.dtype(dtype)}"}}'
    run = run_here("--env-id", "Bounded-v0", "--env-kwargs", env_kwargs, "--supervisor", "none", "--total-timesteps",
                   "20", "--learning-starts", "20")  # fmt: skip
    for u in (-40.0, 40.0):
        with torch.no_grad():
            run.actor.fc_mean_logstd.weight.zero_()
            run.actor.fc_mean_logstd.bias.fill_(u)
        for deterministic in (True, False):
            assert run.envs.single_action_space.contains(run.act(np.zeros((1, 2)), deterministic)[0])


class Bounded(InPlace):
    """Whose steps refuse what is not in their space."""

    def __init__(self, low: float, high: float, dtype: str):
        super().__init__()
        self.action_space = gym.spaces.Box(low, high, (1,), np.dtype(dtype).type)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action)


gym.register("Bounded-v0", entry_point=Bounded)


def test_not_finite_names_environment_and_value():
    obs, rewards = np.zeros((3, 2)), np.zeros(3)
    assert not_finite(obs, rewards) == ""
    obs[2, 1] = -2e18
    assert not_finite(obs, rewards) == "the observation of environment 2 is -2e+18 (at [1])"
    assert not_finite(np.zeros((3, 2), np.int64), np.array([0, np.inf, 0])).startswith("the reward of environment 1 is")


def test_whoever_watches_a_tape_sees_each_step_before_the_reset_and_none_that_is_played_again():
    """In a vector environment that resets at once: steps 1 to 5, and the first two of the next episode."""
    envs = gym.vector.SyncVectorEnv([lambda: EpisodeTape(InPlace())], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    tape, seen = envs.envs[0], []
    envs.reset(seed=3)
    tape.on_step = lambda over: seen.append((int(tape.unwrapped.obs[1]), over))
    for _ in range(7):
        envs.step(np.zeros((1, 1), np.float32))
    assert seen == [(1, False), (2, False), (3, False), (4, False), (5, True), (1, False), (2, False)]
    other = EpisodeTape(InPlace())
    other.on_step = lambda over: seen.append("played")
    assert other.play(tape.state_dict()).tolist() == tape.unwrapped.obs.tolist() and len(seen) == 7
