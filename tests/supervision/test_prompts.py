"""Prompt files, and the facts of any environment that fill them."""

import json
import re
import runpy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT
from rules import CONTENT, INTERVENE, vectors

from supervision import prompts
from supervision.answers import Advice, SupervisionError, parse_advice, parse_code
from supervision.episodes import Episodes, Stretch
from supervision.prompts import (
    ADVISOR_HEADINGS,
    CODER_HEADINGS,
    FACTS,
    default_prompts,
    describe_env,
    facts_of,
    fill,
    load_prompt,
    read_prompt,
    rule_spaces,
)
from supervision.sandbox.language import check_source
from supervision.sandbox.messages import DiscreteAction, Observation, PolicyError
from supervision.sandbox.policy import SandboxedPolicy


@pytest.mark.parametrize("folder", sorted(p.name for p in (ROOT / "prompts").iterdir()))
def test_shipped_prompts_are_complete(folder):
    env_id = {"default": "Pendulum-v1", "default-discrete": "CartPole-v1"}.get(folder, folder)
    env = gym.make(env_id)
    values = describe_env(env, env_id) | dict.fromkeys(FACTS, "known")
    for name, headings in (("advisor.md", ADVISOR_HEADINGS), ("coder.md", CODER_HEADINGS)):
        text = load_prompt(ROOT / "prompts" / folder / name, headings, values)
        assert "{{" not in text and len(text) > 1_000
    assert "keep_current_policy" in load_prompt(ROOT / "prompts" / folder / "advisor.md", (), values)
    if not folder.startswith("default"):
        check_source((ROOT / "prompts" / folder / "bundled_policy.py").read_text())


DEFAULTS = {  # environment: what the coder must be told of obs and of the action
    "Pendulum-v1": ("a float64 NumPy array of shape (3,)", "a NumPy array of shape (1,)"),
    "Humanoid-v5": ("a float64 NumPy array of shape (348,)", "a NumPy array of shape (17,)"),
    "InvertedPendulum-v5": ("a float64 NumPy array of shape (4,)", "a NumPy array of shape (1,)"),
    "CartPole-v1": ("a float64 NumPy array of shape (4,)", "an int from 0 to 1"),
    "Taxi-v4": ("an int", "an int from 0 to 5"),
    "Blackjack-v1": ("a tuple of 3 ints", "an int from 0 to 1"),
}


@pytest.mark.parametrize("env_id", DEFAULTS)
def test_default_prompt_fits_any_environment(env_id):
    """Each kind of action space has its own: a residual for Box, a substitute for Discrete; its template runs."""
    given, returned = DEFAULTS[env_id]
    env = gym.make(env_id)
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    folder, values = ROOT / "prompts" / ("default-discrete" if discrete else "default"), describe_env(env, env_id)
    advisor = load_prompt(folder / "advisor.md", ADVISOR_HEADINGS, values)
    coder = load_prompt(folder / "coder.md", CODER_HEADINGS, values)
    assert f"obs is {given}" in coder and f"It returns {returned}" in coder
    for text in (advisor, coder):
        assert env_id in text and " ".join(env.unwrapped.__doc__.split()[:4]) in " ".join(text.split())
        assert ("residual" in text) != discrete and ("replaces" in text) == discrete
    template = parse_code(coder.partition("## Code template")[2])
    check_source(template)
    if discrete:
        observation, action = rule_spaces(env)
        with SandboxedPolicy(template, observation=observation, action=action) as policy:
            assert policy(np.zeros((1, *observation.row_shape), int), np.array([0])).shape == (1,)


class OddEnv(gym.Env):
    """A Discrete action space that begins at 3; what the space of its observations is, the test says."""

    action_space = gym.spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_the_spaces_of_a_rule():
    env = OddEnv()
    for space, observation in (
        (gym.spaces.Discrete(5, start=2), Observation("int")),
        (gym.spaces.MultiDiscrete([3, 4]), Observation("ints", (2,))),
        (gym.spaces.Tuple([gym.spaces.Discrete(3)] * 2), Observation("tuple", (2,))),
        (gym.spaces.Box(-1, 1, (2, 3)), Observation("floats", (2, 3))),
    ):
        env.observation_space = space
        assert rule_spaces(env) == (observation, DiscreteAction(2, 3))
    assert "from 3 to 4" in describe_env(env, "Odd")["rule_returns"]
    assert rule_spaces(vectors("Taxi-v4")) == (Observation("int"), DiscreteAction(6))
    assert rule_spaces(vectors("Blackjack-v1")) == (Observation("tuple", (3,)), DiscreteAction(2))
    assert describe_env(vectors("Taxi-v4"), "Taxi-v4")["observation_space"] == "Discrete(500)"
    env.observation_space = gym.spaces.Tuple([gym.spaces.Box(-1, 1)])
    with pytest.raises(ValueError, match="a rule needs observations of a Box, a Discrete"):
        rule_spaces(env)
    env.observation_space, env.action_space = gym.spaces.Discrete(2), gym.spaces.MultiDiscrete([2, 2])
    with pytest.raises(ValueError, match="a rule needs actions of a Box or a Discrete, not MultiDiscrete"):
        rule_spaces(env)


def test_malformed_prompt_files_are_refused(tmp_path):
    path = tmp_path / "advisor.md"
    for text, expected in (
        (None, "cannot be read"),
        ("## Task definition\n## Background\n## Domain hints\n", "lacks the heading ## Chain of thought"),
        ("".join(f"## {h}\n" for h in ADVISOR_HEADINGS) + "{{nonsense}}", "unknown placeholder {{nonsense}}"),
        (b"\xff\xfe\x00", "cannot be read"),
    ):
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=expected.replace("{", r"\{")):
            load_prompt(path, ADVISOR_HEADINGS, {"env_id": "x"})


@pytest.mark.parametrize(
    "answer",
    [
        INTERVENE,
        f"Here is my decision:\n```json\n{INTERVENE}\n```\nGood luck.",
        f"<think>Perhaps {CONTENT}? No.</think>{INTERVENE}",
        f"The set {{1, 2}} is no object. {INTERVENE} trailing",
    ],
)
def test_advice_is_found_in_what_models_write(answer):
    advice = parse_advice(answer, has_rule=True)
    assert (advice.intervene, advice.advice, advice.keep_current_policy) == (True, "pump energy", False)


def test_what_small_models_leave_out_of_their_advice():
    """Decided by what is there: no analysis, no rule to keep, no advice that nobody would read."""
    assert parse_advice('{"intervene": false}', has_rule=True) == Advice("", False)
    assert parse_advice('{"intervene": true, "advice": "push"}', has_rule=True) == Advice("", True, "push")
    assert parse_advice('{"intervene": true, "keep_current_policy": true}', has_rule=True) == Advice("", True, "", True)
    with pytest.raises(SupervisionError, match=r'"advice" is missing$'):
        parse_advice('{"intervene": true}', has_rule=True)


def test_a_rule_is_not_written_from_nothing():
    """Where there is no rule to keep, the coder needs advice, whatever the advisor thinks is there."""
    assert parse_advice('{"intervene": false, "keep_current_policy": true}', has_rule=False).intervene is False
    with pytest.raises(SupervisionError, match=r'"advice" is missing$'):
        parse_advice('{"intervene": true, "keep_current_policy": true}', has_rule=False)
    for keep, has_rule in ((True, False), (False, True), (False, False)):
        answer = json.dumps({"intervene": True, "advice": " \n", "keep_current_policy": keep})
        with pytest.raises(SupervisionError, match='"advice" must not be empty'):
            parse_advice(answer, has_rule)


@pytest.mark.parametrize("answer", ["", "I cannot help.", "{}", '{"intervene": "yes"}', INTERVENE[:-1],
                                    '{"intervene": true, "keep_current_policy": 1}'])  # fmt: skip
def test_unusable_advice_is_refused(answer):
    with pytest.raises(SupervisionError):
        parse_advice(answer, has_rule=True)


def test_code_is_found_in_what_models_write():
    code = "X = 1\n\ndef helper(o):\n    return o\n\ndef policy(obs, t):\n    return helper(obs)\n"
    assert parse_code(f"Text.\n```python\n{code}```\nMore text.") == code
    assert parse_code(f"<think>```python\ndef policy(obs, t): pass\n```</think>\n```\n{code}```") == code
    assert parse_code(f"```python\nprint(1)\n```\n```py\n{code}```") == code
    assert parse_code(code) == code
    with pytest.raises(PolicyError, match="more than one"):
        parse_code(f"```python\n{code}```\nor\n```python\n{code}```")
    with pytest.raises(PolicyError, match="defines policy"):
        parse_code("```python\ndef act(obs):\n    return 0\n```")


CLASSIC = ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
TOY_TEXT = [
    "Blackjack-v1",
    "CliffWalking-v1",
    "CliffWalkingSlippery-v1",
    "FrozenLake-v1",
    "FrozenLake8x8-v1",
    "Taxi-v4",
]
MUJOCO = [f"{name}-v5" for name in (
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum",
    "Pusher", "Reacher", "Swimmer", "Walker2d",
)]  # fmt: skip


def seen(env: gym.Env, steps: int = 200, seed: int = 0, uniform: bool = True) -> list[Stretch]:
    """Episodes of a uniformly random policy."""
    observation, _ = rule_spaces(env)
    row = lambda obs: np.asarray(obs).reshape(observation.row_shape)  # noqa: E731
    env.action_space.seed(seed)
    episodes, (obs, _) = Episodes(1), env.reset(seed=seed)
    for step in range(steps):
        stretch = episodes.present[0] or episodes.begin(0, step, 0, guided=False, uniform=uniform)
        before, action = obs, env.action_space.sample()
        obs, reward, terminated, truncated, _ = env.step(action)
        stretch.add(row(before), action, reward, row(obs))
        if terminated or truncated:
            episodes.end(0, "terminated" if terminated else "truncated")
            obs, _ = env.reset()
    return episodes.latest(guided=False)


def filled(env: gym.Env, env_id: str, seed: int = 0) -> tuple[dict[str, str], str, str]:
    """The placeholders' values and the default advisor and coder prompts of an environment."""
    values = describe_env(env, env_id)
    values |= facts_of(seen(env, seed=seed), rule_spaces(env)[0])
    folder = default_prompts(rule_spaces(env)[1])
    return values, *(
        load_prompt(folder / name, headings, values)
        for name, headings in (("advisor.md", ADVISOR_HEADINGS), ("coder.md", CODER_HEADINGS))
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("env_id", [*CLASSIC, *TOY_TEXT, *MUJOCO])
def test_default_prompts_hold_the_facts_of_every_environment(env_id):
    """Against a second environment of its own, stepped here; the code template is a valid rule as it stands."""
    env, twin = gym.make(env_id), gym.make(env_id)
    values, advisor, coder = filled(env, env_id, seed=7)
    twin.action_space.seed(7)
    (obs, _), action, rewards = twin.reset(seed=7), twin.action_space.sample(), []
    for step in range(200):
        _, reward, terminated, truncated, _ = twin.step(twin.action_space.sample() if step else action)
        rewards.append(float(reward))
        if step == 0:
            first = f", reward {reward:.4g}, next observation "
        if terminated or truncated:
            twin.reset()
    limit = gym.spec(env_id).max_episode_steps
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    for text in (advisor, coder):
        assert ("residual" in text) != discrete and ("replaces" in text) == discrete
        assert f"Environment: {env_id}\n" in text
        assert f"Time limit of an episode in steps: {limit or 'none'}\n" in text
        # of short episodes not all are kept
        measured = re.search(r"measured: (\S+) to (\S+) in (\d+) steps of training \(uniformly random actions\)", text)
        least, most, steps = map(float, measured.groups())
        assert min(rewards) - 1e-3 * abs(min(rewards)) <= least and most <= max(rewards) + 1e-3 * abs(max(rewards))
        assert 20 <= steps <= 200 and (first in text or steps < 200)
        assert f"Bounds of an observation: {values['observation_bounds']}\n" in text
        assert str(env.unwrapped.observation_space) in text and str(env.action_space) in text
        assert "{{" not in text.replace(values["env_doc"], "") and len(values["env_doc"]) <= 8_000
    template = parse_code(coder.partition("## Code template")[2])
    check_source(template)
    names: dict = {}
    exec(template, names)
    answer = names["policy"](np.asarray(obs, dtype=np.float64), 0)
    assert env.action_space.contains(np.asarray(answer, dtype=env.action_space.dtype)[()])


@pytest.mark.parametrize(
    ("env_id", "options", "bounds"),
    [
        ("MountainCarContinuous-v0", {}, "from [-1.2 -0.07] to [0.6 0.07]"),
        ("CartPole-v1", {}, "from [-4.8 -inf -0.4189 -inf] to [4.8 inf 0.4189 inf]"),
        ("Hopper-v5", {}, "every component unbounded"),
        ("Taxi-v4", {}, "from 0 to 499"),
        ("Blackjack-v1", {}, "from (0, 0, 0) to (31, 10, 1)"),
        ("AnyObservation-v0", {"kind": "discrete"}, "from -3 to 3"),
        ("AnyObservation-v0", {"kind": "tuple"}, "from (0, 4) to (4, 5)"),
        ("AnyObservation-v0", {"kind": "multi"}, "from [ 2 -1] to [4 2]"),
        ("AnyObservation-v0", {"kind": "box"}, "every component from -1 to 1"),
    ],
)
def test_bounds_by_hand(env_id, options, bounds):
    assert describe_env(gym.make(env_id, **options), env_id)["observation_bounds"] == bounds


def test_facts_of_an_environment_by_hand():
    """Rewards 1, …, 5 and 1, …, 7; the first observation is [id, 0, 0, 0], the next [id, 0, 1, action]."""
    env = gym.make("Counter-v0")
    number = env.unwrapped.id
    stretches, observation = seen(env, 12, seed=4), rule_spaces(env)[0]
    facts = facts_of(stretches, observation)
    action = gym.spaces.Box(-0.5, 0.5, (1,), np.float32, seed=4).sample()
    assert facts["reward_range"] == "1 to 7 in 12 steps of training (uniformly random actions)"
    assert facts["sample_transition"] == (
        f"observation [{number} 0 0 0], action [{action[0]:.4g}], reward 1, next observation [{number} 0 1 "
        f"{action[0]:.4g}], terminated False, truncated False"
    )
    stretches[1].guided, stretches[1].uniform = True, False
    assert facts_of(stretches, observation)["reward_range"].endswith("(guided, uniformly random actions)")
    values = describe_env(env, "Counter-v0")
    assert values["max_episode_steps"] == "none" and values["action_shape"] == "(1,)"
    assert (values["action_low"], values["action_high"]) == ("np.float32(-0.5)", "np.float32(0.5)")


def test_one_step_may_be_an_episode():
    """Of Blackjack; the observation is the environment's own."""
    env = vectors("Blackjack-v1")
    (obs, _), episode = env.reset(seed=3), Stretch(0, 0, 0, guided=False, uniform=False)
    next_obs, reward, terminated, _, _ = env.step(0)
    episode.add(obs, np.int64(0), reward, next_obs)
    episode.end = "terminated"
    cards = tuple(obs.tolist())
    assert terminated and facts_of([episode], rule_spaces(env)[0])["sample_transition"] == (
        f"observation {cards}, action 0, reward {reward:.4g}, next observation {cards}, terminated True, "
        "truncated False"
    )


def test_an_environment_is_described_without_a_step():
    """Nor a reset: what it is asked for is its spaces, its limit and its documentation."""
    env = gym.make("Counter-v0")
    describe_env(env, "Counter-v0")
    assert env.unwrapped.episode == -1


def test_what_only_training_can_tell_is_filled_later(tmp_path):
    """A prompt is checked before training; what looks like a placeholder in a documentation is none."""
    path = tmp_path / "advisor.md"
    path.write_text("".join(f"## {h}\n" for h in ADVISOR_HEADINGS) + "{{env_id}} {{env_doc}} {{reward_range}}")
    text = read_prompt(path, ADVISOR_HEADINGS, ["env_id", "env_doc"])
    values = {"env_id": "X", "env_doc": "x^{{reward_range}}"}
    assert fill(text, values | {"reward_range": "0 to 1"}).endswith("X x^{{reward_range}} 0 to 1")
    assert load_prompt(path, ADVISOR_HEADINGS, values).endswith("X x^{{reward_range}} {{reward_range}}")


NESTED = gym.spaces.Dict(
    goal=gym.spaces.Box(-1, 1, (3,)),
    switch=gym.spaces.Discrete(4, start=2),
    camera=gym.spaces.Box(0, 255, (2, 2, 3), np.uint8),
    arm=gym.spaces.Dict(angle=gym.spaces.Box(-1, 1, ()), hand=gym.spaces.Tuple([gym.spaces.MultiBinary(5),
                                                                                gym.spaces.MultiDiscrete([2, 3])])),
)  # fmt: skip


@pytest.mark.parametrize("script", ["guided_sac_continuous.py", "guided_sac_discrete.py"])
def test_the_prompt_tells_which_index_is_which_part(script):
    """As `make_env` flattens it, against Gymnasium's own flattening of each part."""
    names = runpy.run_path(str(ROOT / script), run_name="imported")
    env = names["make_env"]("Nested-v0", 1, 0, False, "")()
    _, _, coder = filled(env, "Nested-v0")
    (line,) = [line for line in coder.splitlines() if line.startswith("- Observation space: ")]
    told = re.findall(r"index (\d+)(?:-(\d+))?: ([\w.\[\]]+)", line)
    parts = {
        "goal": lambda o: o["goal"], "switch": lambda o: np.eye(4)[o["switch"] - 2],
        "camera": lambda o: o["camera"].ravel(), "arm.angle": lambda o: [o["arm"]["angle"]],
        "arm.hand[0]": lambda o: o["arm"]["hand"][0],
        "arm.hand[1]": lambda o: [*np.eye(2)[o["arm"]["hand"][1][0]], *np.eye(3)[o["arm"]["hand"][1][1]]],
    }  # fmt: skip
    assert {name for *_, name in told} == set(parts)
    flat, own = env.reset(seed=3)[0], env.unwrapped.last
    assert sum(int(last or first) - int(first) + 1 for first, last, _ in told) == len(flat) == 30
    for first, last, name in told:
        assert np.allclose(flat[int(first) : int(last or first) + 1], parts[name](own)), name
    assert "switch (one-hot: 1 at the place of its value, which is one of 2 to 5)" in line
    assert "camera (an array of shape (2, 2, 3), row by row)" in line
    assert "obs is a float64 NumPy array of shape (30,)" in coder
    observation, _ = rule_spaces(env)
    assert observation == Observation("floats", (30,))


class NestedEnv(OddEnv):
    """Parts of every kind."""

    observation_space = NESTED

    def reset(self, *, seed=None, options=None):
        self.last = self.observation_space.sample()
        return self.last, {}


gym.register("Nested-v0", NestedEnv)


def test_parts_without_a_name_are_numbered_and_a_vector_has_none():
    env = OddEnv()
    for space, expected in (
        (gym.spaces.Tuple([gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiBinary(1)]),
         "Box([-1. -1.  0.], 1.0, (3,), float32), flattened: index 0-1: part 0, index 2: part 1"),
        (gym.spaces.MultiBinary([2, 2]),
         "Box(0, 1, (4,), int8), flattened: index 0-3: the observation (an array of shape (2, 2), row by row)"),
    ):  # fmt: skip
        env.observation_space = space
        assert describe_env(gym.wrappers.FlattenObservation(env), "Odd")["observation_space"] == expected
    stacked = gym.wrappers.FrameStackObservation(gym.wrappers.FlattenObservation(env), 2)
    assert "flattened" not in describe_env(stacked, "Odd")["observation_space"]  # indices would be those of one frame
    env.observation_space = gym.spaces.Box(-1, 1, (2,))
    assert describe_env(env, "Odd")["observation_space"] == "Box(-1.0, 1.0, (2,), float32)"


class PictureEnv(gym.Env):
    """Observations of 28,224 numbers, actions with bounds of their own for each component."""

    observation_space = gym.spaces.Box(np.arange(28_224, dtype=np.float32).reshape(84, 84, 4) - 1, 1e6)
    action_space = gym.spaces.Box(np.float32([-0.1, 0.2]), np.float32([0.7, 1e6 + 0.1]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action):
        return self.observation_space.low, 0.0, False, False, {}


def test_huge_spaces_are_shortened_and_action_bounds_are_exact():
    env = PictureEnv()
    values, _, _ = filled(env, "Picture")
    assert len(values["observation_bounds"]) < 2_000 and len(values["sample_transition"]) < 4_000
    assert values["env_doc"].startswith("Observations of 28,224 numbers")
    for name, bound in (("action_low", env.action_space.low), ("action_high", env.action_space.high)):
        literal = eval(values[name], {"np": np})
        assert literal.dtype == bound.dtype and (literal == bound).all()
    assert values["action_high"].startswith("np.float32([0.7, ")


# -- where prompts are ------------------------------------------------------------------------------------------------


def test_a_person_s_own_prompts_come_before_those_that_come_along(monkeypatch, tmp_path):
    """`./prompts/<env-id>` where it is there, namespaced ids among them; else the packaged one, there or not."""
    monkeypatch.setattr(prompts, "PROMPTS", tmp_path / "packaged")
    (tmp_path / "packaged" / "CartPole-v1").mkdir(parents=True)
    assert prompts.prompt_folder("CartPole-v1") == tmp_path / "packaged" / "CartPole-v1"
    assert prompts.prompt_folder("ALE/Pong-v5") == tmp_path / "packaged" / "ALE" / "Pong-v5"
    for env_id in ("CartPole-v1", "ALE/Pong-v5"):
        (tmp_path / "prompts" / env_id).mkdir(parents=True)
        assert prompts.prompt_folder(env_id) == tmp_path / "prompts" / env_id


def test_the_folder_of_a_checkout_is_the_same_seen_from_within(monkeypatch):
    """A run's header names it alike, wherever the run was started."""
    outside = prompts.prompt_folder("Taxi-v4")
    monkeypatch.chdir(ROOT)
    assert prompts.prompt_folder("Taxi-v4") == outside == ROOT / "prompts" / "Taxi-v4"


def test_new_prompts_are_not_written_into_an_installed_copy(monkeypatch):
    assert prompts.new_prompt_folder("ALE/Pong-v5") == ROOT / "prompts" / "ALE" / "Pong-v5"
    monkeypatch.setattr(prompts, "PROMPTS", prompts.INSTALLED)
    assert prompts.new_prompt_folder("ALE/Pong-v5") == Path("prompts", "ALE", "Pong-v5")
