"""Environments that other packages have: composite spaces, rewards and observations of any kind, namespaces."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, scalars, unsupervised

from guided_utils.environments import EpisodeTape, flat, make

SCRIPTS = ["guided_sac_continuous.py", "guided_sac_discrete.py", "rnd_sac.py", "icm_sac.py", "e3b_sac.py"]
SHORT = ["--total-timesteps", "24", "--learning-starts", "10", "--batch-size", "8"]
Box, Discrete = gym.spaces.Box, gym.spaces.Discrete
INFINITE = dict(low=-np.inf, high=np.inf)
SPACES = {
    "box": Box(**INFINITE, shape=(2,)),
    "scalar": Box(**INFINITE, shape=()),
    "bytes": Box(0, 255, (2,), np.uint8),
    "dict": gym.spaces.Dict(goal=Box(**INFINITE, shape=(2,)), deep=gym.spaces.Dict(x=Discrete(3, start=1))),
    "tuple": gym.spaces.Tuple([Box(**INFINITE, shape=(2,)), Box(**INFINITE, shape=(1,))]),
    "binary": gym.spaces.MultiBinary((2, 2)),
    "discrete": Discrete(9, start=-1),
    "multi": gym.spaces.MultiDiscrete([9, 3]),
}
OBSERVATIONS = {  # of step t, as the environment gives them and as they are to be stored
    "box": (lambda t: np.array([t, -t]), lambda t: [t, -t]),
    "list": (lambda t: [t, -t], lambda t: [t, -t]),
    "column": (lambda t: np.array([[t], [-t]], np.float32), lambda t: [t, -t]),
    "scalar": (lambda t: np.float32(t), lambda t: [t]),
    "number": (lambda t: float(t), lambda t: [t]),
    "bytes": (lambda t: [t, 255 - t], lambda t: [t, 255 - t]),
    "dict": (lambda t: {"goal": [t, -t], "deep": {"x": 1 + t % 3}},
             lambda t: [t, -t, *np.eye(3)[t % 3]]),
    "tuple": (lambda t: (np.array([t, -t]), np.array([0.5])), lambda t: [t, -t, 0.5]),
    "binary": (lambda t: np.array([[t % 2, 1], [0, 1]], np.int8), lambda t: [t % 2, 1, 0, 1]),
    "discrete": (lambda t: t - 1, lambda t: [*np.eye(9)[t]]),
    "multi": (lambda t: np.array([t, t % 3]), lambda t: [*np.eye(9)[t], *np.eye(3)[t % 3]]),
}  # fmt: skip
KIND = {"list": "box", "column": "box", "number": "scalar"}  # of space, where it is not the observation's name
REWARDS = {
    "array": np.array([2.5]), "list": [2.5], "zero-dimensional": np.array(2.5), "float32": np.float32(2.5),
    "tensor": torch.tensor([2.5]), "none": None, "two": np.array([1.0, 2.0]), "word": "2.5",
}  # fmt: skip
BAD_OBSERVATIONS = {"none": None, "short": np.zeros(1), "ragged": [[1.0], 2.0], "word": ["a", "b"]}


class AnythingEnv(gym.Env):
    """Episodes of six steps; what the observation and the reward of a step are, the tables above say."""

    def __init__(self, observation="box", reward="", discrete=False, statistics=False, bad="", render_mode=None):
        self.observation_space = SPACES[KIND.get(observation, observation)]
        self.action_space = Discrete(3) if discrete else Box(-1, 1, (2,))
        self.of_step, self.reward, self.statistics, self.bad = OBSERVATIONS[observation][0], reward, statistics, bad

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.of_step(0), {}

    def step(self, action):
        self.t += 1
        obs = BAD_OBSERVATIONS[self.bad] if self.bad and self.t == 3 else self.of_step(self.t)
        reward = REWARDS[self.reward] if self.reward else float(self.t)
        ended = self.t == 6
        return obs, reward, ended, False, {"episode": {"r": 0.0}} if ended and self.statistics else {}


class NothingEnv(AnythingEnv):
    """Its episodes begin without an observation."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return None, {}


gym.register("Anything-v0", AnythingEnv)
gym.register("Nothing-v0", NothingEnv)
gym.register("far/Anything-v0", AnythingEnv)
gym.register("Recounted-v0", lambda **options: gym.wrappers.RecordEpisodeStatistics(AnythingEnv()), max_episode_steps=9)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def flags(script: str, **options) -> list[str]:
    """A short run in AnythingEnv."""
    options |= {"discrete": True} if script == "guided_sac_discrete.py" else {}
    return ["--env-id", "Anything-v0", "--env-kwargs", json.dumps(options), *SHORT, *unsupervised(script)]


@pytest.mark.parametrize(("script", "kind"), [
    *((script, kind) for script in SCRIPTS[:2] for kind in OBSERVATIONS),
    *((script, kind) for script in SCRIPTS[2:] for kind in ("number", "dict", "discrete")),
])  # fmt: skip
def test_observations_of_any_kind_are_stored_as_vectors(script, kind, run_here):
    """Six steps an episode: row i is of step i mod 6, and its successor of the next one, also at an episode's end.

    Integers stay integers where the actions are discrete too.
    """
    run = run_here(*flags(script, observation=kind), script=ROOT / script)
    given, vector = OBSERVATIONS[kind]
    if script == "guided_sac_discrete.py" and kind in ("discrete", "multi"):
        vector = lambda t: np.ravel(given(t))  # noqa: E731
        assert run.rb.transitions.observations.dtype == torch.int64
    rows = [i % 6 for i in range(24)]
    for column, step in ((run.rb.transitions.observations, 0), (run.rb.transitions.next_observations, 1)):
        stored = column[:24].double().numpy()
        assert np.allclose(stored, np.array([vector(t + step) for t in rows], dtype=float))


@pytest.mark.parametrize(("script", "reward"), [
    *((SCRIPTS[0], reward) for reward in REWARDS),
    *((script, reward) for script in SCRIPTS[1:] for reward in ("array", "none")),
])  # fmt: skip
def test_a_reward_is_one_number_or_the_run_ends_with_one_line(script, reward, run_here):
    if reward in ("none", "two", "word"):
        with pytest.raises(SystemExit) as ended:
            run_here(*flags(script, reward=reward), script=ROOT / script)
        assert str(ended.value) == (
            f"error: Anything-v0 gives the reward {REWARDS[reward]!r} for a step: it must be one number"
        )
        return
    run = run_here(*flags(script, reward=reward), script=ROOT / script)
    assert run.rb.transitions.rewards[:24].tolist() == [2.5] * 24
    assert [value for _, value in scalars(run.run_name)["charts/episodic_return"]] == [15.0] * 4


@pytest.mark.parametrize(("script", "bad"), [
    *((SCRIPTS[0], bad) for bad in BAD_OBSERVATIONS), *((script, "short") for script in SCRIPTS[1:]),
])  # fmt: skip
def test_an_observation_that_fits_no_space_ends_the_run_with_one_line(script, bad, run_here):
    with pytest.raises(SystemExit) as ended:
        run_here(*flags(script, bad=bad), script=ROOT / script)
    said = str(ended.value)
    assert said.startswith("error: Anything-v0 gives an observation that is none of Box(-inf, inf, (2,), float32): ")
    assert str(BAD_OBSERVATIONS[bad]) in said and "\n" not in said


def test_numbers_are_never_cut_to_the_space_s():
    """Integers in place of bytes are bytes where they fit; a fraction or 256 is an error of the environment's."""
    env = EpisodeTape(make("Anything-v0", None, {"observation": "bytes"}, None))
    obs, _ = env.reset(seed=0)
    assert obs.dtype == np.uint8 and obs.tolist() == [0, 255]
    for wrong in ([0, 256], [-1, 0], [0.5, 1.0]):
        env.unwrapped.of_step = lambda t, wrong=wrong: wrong
        with pytest.raises(SystemExit, match="none of Box"):
            env.step(np.zeros(2, np.float32))


def test_an_error_before_the_run_leaves_no_folder(run_here, capsys):
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", "Nothing-v0", "--supervisor", "none")
    assert ended.value.code == (
        "error: Nothing-v0 gives an observation that is none of Box(-inf, inf, (2,), float32): None "
        "(cannot reshape array of size 1 into shape (2,))"
    )
    assert capsys.readouterr().err == "" and not Path("runs").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_statistics_that_an_environment_brings_leave_ours_alone(script, run_here):
    """As a key in `info`, or by Gymnasium's own wrapper, as Meta-World's environments have it."""
    run = run_here(*flags(script, statistics=True), script=ROOT / script)
    assert [value for _, value in scalars(run.run_name)["charts/episodic_return"]] == [21.0] * 4
    if script != "guided_sac_discrete.py":
        run = run_here(*flags(script), "--env-id", "Recounted-v0", "--env-kwargs", "{}", script=ROOT / script)
        assert [value for _, value in scalars(run.run_name)["charts/episodic_return"]] == [21.0] * 4


@pytest.mark.parametrize(
    ("space", "part"),
    [
        (gym.spaces.Dict(a=Box(0, 1), b=gym.spaces.Sequence(Box(0, 1))), "its part ['b'] is Sequence("),
        (gym.spaces.Tuple([gym.spaces.Dict(g=gym.spaces.Graph(Box(0, 1), None))]), "its part [0]['g'] is Graph("),
        (gym.spaces.Sequence(Discrete(2)), "it is Sequence("),
        (gym.Space((2,), np.float32), "it is "),
    ],
)
def test_what_cannot_be_flattened_is_named(space, part):
    env = make("Anything-v0", None, {}, None)
    env.unwrapped.observation_space = space
    with pytest.raises(
        ValueError, match="the observations of Anything-v0 cannot be flattened into a vector: "
    ) as error:
        flat(env)
    assert part in str(error.value) and "FilterObservation" in str(error.value)


def test_what_networks_take_as_it_is():
    env = make("Anything-v0", None, {}, None)
    for discrete, kinds in ((False, {"box", "bytes"}), (True, {"box", "bytes", "multi"})):
        for kind, space in SPACES.items():
            env.unwrapped.observation_space, env.unwrapped.action_space = space, Discrete(3) if discrete else Box(0, 1)
            assert flat(env) == (kind in kinds), kind


@pytest.mark.parametrize("env_id", ["FetchReach-v4", "PyFlyt/QuadX-Hover-v4"])
def test_an_unknown_id_says_how_a_package_s_are_written(env_id, run_here):
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", env_id, "--supervisor", "none")
    assert f"module:{env_id}" in str(ended.value) and "\n" not in str(ended.value)
    with pytest.raises(gym.error.Error) as error:
        make("gymnasium:NoSuchEnv-v0", None, {}, None)
    assert "module:" not in str(error.value)


def test_a_run_in_a_namespace_has_a_folder_of_its_own_and_goes_on(run_here):
    """The slash of an id names no folder in a folder."""
    of = [*flags("guided_sac_continuous.py"), "--env-id", "far/Anything-v0", "--checkpoint-frequency", "12"]
    run = run_here(*of)
    assert run.run_name.startswith("far_Anything-v0__guided_sac_continuous_none__1__")
    assert [path.name for path in Path("runs").iterdir()] == [run.run_name]
    again = run_here("--resume", f"runs/{run.run_name}", "--total-timesteps", "36")
    assert again.run_name == run.run_name and again.global_step == 36
