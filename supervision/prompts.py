"""The prompt files, and the facts of an environment that fill them."""

import inspect
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from supervision.documentation import documentation
from supervision.episodes import Stretch
from supervision.sandbox.messages import BoxAction, DiscreteAction, Observation

INSTALLED = Path(__file__).resolve().parent / "prompts"  # where a wheel puts them
PROMPTS = INSTALLED if INSTALLED.is_dir() else INSTALLED.parents[1] / "prompts"  # else those of a checkout
ADVISOR_HEADINGS = ("Task definition", "Background", "Chain of thought", "Domain hints")
CODER_HEADINGS = (*ADVISOR_HEADINGS, "Code template")  # the paper's five components (section 3.3)


def prompt_folder(env_id: str) -> Path:
    """Where the environment's own prompts are looked for: in the working folder, else among those that come along."""
    own = Path.cwd() / "prompts" / env_id
    return own if own.is_dir() else PROMPTS / env_id


def new_prompt_folder(env_id: str) -> Path:
    """Where prompts for the environment are to be written: a person's own beside an installed copy, not into it."""
    return (Path("prompts") if PROMPTS == INSTALLED else PROMPTS) / env_id


def default_prompts(action: BoxAction | DiscreteAction) -> Path:
    """The folder of prompts for any environment with such actions: a residual for a Box, else a substitute."""
    return PROMPTS / ("default" if isinstance(action, BoxAction) else "default-discrete")


FACTS = ("reward_range", "sample_transition")  # placeholders that `facts_of` fills, once training has seen something


def read_prompt(path: Path, headings: Sequence[str], values: Collection[str]) -> str:
    """Read a prompt file, and check its headings and placeholders.

    Args:
        values: names of the placeholders that it may use, beside those of `FACTS`.

    Raises:
        ValueError: the file is missing or unreadable, lacks one of the headings, or names an unknown placeholder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt file {path} cannot be read: {error}") from None
    found = re.findall(r"^## +(.+?) *$", text, flags=re.MULTILINE)
    if missing := [h for h in headings if h not in found]:
        raise ValueError(f"prompt file {path} lacks the heading{'s' * (len(missing) > 1)} "
                         f"{', '.join(f'## {h}' for h in missing)}")  # fmt: skip
    known = dict.fromkeys([*values, *FACTS])
    if unknown := set(re.findall(r"\{\{(.*?)\}\}", text)) - set(known):
        raise ValueError(f"prompt file {path} has the unknown placeholder {{{{{min(unknown)}}}}}; "
                         f"known are {', '.join(known)}")  # fmt: skip
    return text


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values into the {{placeholders}} of a prompt; those without one stay."""
    return re.sub(r"\{\{(.*?)\}\}", lambda m: values.get(m[1], m[0]), text)


def load_prompt(path: Path, headings: Sequence[str], values: Mapping[str, str]) -> str:
    """Read a prompt file as `read_prompt` does and fill it; placeholders of `FACTS` without a value stay."""
    return fill(read_prompt(path, headings, values), values)


class PromptFolder:
    """The folder of an environment's prompts and bundled rule, which may be there and describe another task.

    Args:
        prompt_dir: the folder that the user names, if any.
        env_kwargs_given: whether `--env-kwargs` differs from the environment's default, which the folders describe.
    """

    def __init__(self, env_id: str, prompt_dir: str | None, env_kwargs_given: bool):
        self.named = bool(prompt_dir)
        self.path = Path(prompt_dir) if prompt_dir else prompt_folder(env_id)
        self.passed_over = ""  # why it is there and not used
        if env_kwargs_given and not prompt_dir and self.path.is_dir():
            self.passed_over = (
                f"{self.path} describes the environment with its default --env-kwargs "
                f"(--prompt-dir {self.path} uses it anyway)"
            )
        self.taken = ""  # which prompts are taken and why, in words

    @property
    def has_rule(self) -> bool:
        """Whether it has a bundled rule and threshold for this task."""
        rule = all((self.path / name).is_file() for name in ("bundled_policy.py", "bundled.toml"))
        return rule and not self.passed_over

    def bundled(self, name: str) -> Path:
        """A file of the bundled supervisor; ValueError where it is for another task."""
        if self.passed_over:
            raise ValueError(
                f"--supervisor bundled has neither a rule nor a threshold for these --env-kwargs: {self.passed_over}"
            )
        return self.path / name

    def for_prompts(self, action: BoxAction | DiscreteAction) -> Path:
        """The folder from which prompts are taken: this one, or the default prompts for such actions."""
        own = self.named or (self.path.is_dir() and not self.passed_over)
        folder = self.path if own else default_prompts(action)
        self.taken = f"prompts of {folder}" + (f", since {self.passed_over}" if self.passed_over else "")
        return folder


def _own_space(env: gym.Env) -> gym.Space:
    """The observation space that a rule is written for: the environment's own, where a script made vectors of it."""
    return env.observation_space if isinstance(env.observation_space, spaces.Box) else env.unwrapped.observation_space


def rule_spaces(env: gym.Env) -> tuple[Observation, BoxAction | DiscreteAction]:
    """What a rule is given and what it must return in this environment.

    Observations are handed over as the environment gives them where its space is a Box, else as integers (N, k) of the
    k components of the environment's own (unwrapped) space.

    Raises:
        ValueError: no rule can be asked for such spaces; it says which can.
    """
    match _own_space(env):
        case spaces.Box(shape=shape):
            observation = Observation("floats", shape)
        case spaces.Discrete():
            observation = Observation("int")
        case spaces.MultiDiscrete(shape=shape):
            observation = Observation("ints", shape)
        case spaces.Tuple(spaces=parts) if all(isinstance(part, spaces.Discrete) for part in parts):
            observation = Observation("tuple", (len(parts),))
        case space:
            raise ValueError(
                f"a rule needs observations of a Box, a Discrete, a MultiDiscrete or a Tuple of Discrete, not {space}"
            )
    match env.action_space:
        case spaces.Box(low=low, high=high):
            return observation, BoxAction(low, high)
        case spaces.Discrete(n=n, start=start):
            return observation, DiscreteAction(int(n), int(start))
        case space:
            raise ValueError(f"a rule needs actions of a Box or a Discrete, not {space}")


def _flattened_parts(env: gym.Env) -> str:
    """Which indices of a flattened observation hold which part of the environment's own; "" where none was flattened.

    `make_env` flattens what is neither a Box nor made of integers by Gymnasium's FlattenObservation.
    """
    shape = env.observation_space.shape
    while isinstance(env, gym.Wrapper) and not isinstance(env, gym.wrappers.FlattenObservation):
        env = env.env
    if not isinstance(env, gym.wrappers.FlattenObservation) or env.observation_space.shape != shape:
        return ""  # nothing was flattened, or an environment's own wrapper made something else of it (a stack, say)
    first, texts = 0, []
    for name, space in _leaves(env.env.observation_space):
        size = spaces.flatdim(space)
        texts.append(f"index {first}{f'-{first + size - 1}' if size > 1 else ''}: {name}{_encoding(space)}")
        first += size
    return ", ".join(texts)


def _leaves(space: gym.Space, name: str = "") -> Iterator[tuple[str, gym.Space]]:
    """The parts of a Dict or a Tuple, however deep, with their names, in the order in which they are flattened."""
    match space:
        case spaces.Dict(spaces=parts):
            for key, part in parts.items():
                yield from _leaves(part, f"{name}.{key}" if name else str(key))
        case spaces.Tuple(spaces=parts):
            for number, part in enumerate(parts):
                yield from _leaves(part, f"{name}[{number}]" if name else f"part {number}")
        case _:
            yield name or "the observation", space


def _encoding(space: gym.Space) -> str:
    """How a part is written as numbers, where its name does not say it."""
    match space:
        case spaces.Discrete(n=n, start=start):
            return f" (one-hot: 1 at the place of its value, which is one of {start} to {start + n - 1})"
        case spaces.MultiDiscrete(nvec=nvec):
            return f" (one-hot, one value after another, which have {nvec.ravel().tolist()} values)"
        case spaces.Box(shape=shape) | spaces.MultiBinary(shape=shape) if len(shape) > 1:
            return f" (an array of shape {shape}, row by row)"
    return ""


def _numbers(value: Any) -> str:
    """Numbers as text, to four significant digits; of more than a hundred the first and the last three."""
    if not isinstance(value, np.ndarray):
        return str(value)
    value = value.ravel() if value.size > 100 else value
    return np.array2string(value, threshold=100, max_line_width=10_000, formatter={"float_kind": "{:.4g}".format})


def _bounds(space: gym.Space) -> str:
    """The smallest and the largest element of a space, in words."""
    match space:
        case spaces.Box(low=low, high=high):
            if np.isinf(low).all() and np.isinf(high).all():
                return "every component unbounded"
            if (low == low.flat[0]).all() and (high == high.flat[0]).all():
                return f"every component from {low.flat[0]:.4g} to {high.flat[0]:.4g}"
        case spaces.Tuple(spaces=parts):
            low, high = tuple(int(p.start) for p in parts), tuple(int(p.start + p.n - 1) for p in parts)
        case spaces.MultiDiscrete(start=low, nvec=n) | spaces.Discrete(start=low, n=n):
            high = low + n - 1
    return f"from {_numbers(low)} to {_numbers(high)}"


def _action_literal(bound: np.ndarray) -> str:
    """A bound of a Box of actions as an expression for a rule's source: exact, one number where all are equal."""
    if (bound == bound.flat[0]).all():
        return repr(bound.flat[0])
    text = np.array2string(bound, separator=", ", threshold=bound.size, max_line_width=100, formatter={"all": str})
    return f"np.{bound.dtype}({text})"


def facts_of(stretches: Sequence[Stretch], observation: Observation) -> dict[str, str]:
    """What of an environment is known from steps alone, for the placeholders of `FACTS`."""
    rewards = [reward for s in stretches for reward in s.rewards]
    shown = next((s for s in stretches if s.obs), None)
    if shown is None:
        return dict.fromkeys(FACTS, "nothing is known yet")
    over = shown.end if len(shown) == 1 else ""
    behaviours, alone = {"guided" for s in stretches if s.guided}, [s for s in stretches if not s.guided]
    behaviours |= {"uniformly random" for s in alone if s.uniform_steps}
    behaviours |= {"sampled" for s in alone if s.uniform_steps < len(s)}
    return {
        "reward_range": f"{min(rewards):.4g} to {max(rewards):.4g} in {len(rewards):,} steps of training "
        f"({', '.join(sorted(behaviours))} actions)",
        "sample_transition": f"observation {_numbers(observation.own(shown.obs[0]))}, action "
        f"{_numbers(shown.actions[0])}, reward {shown.rewards[0]:.4g}, next observation "
        f"{_numbers(observation.own(shown.next_obs[0]))}, terminated {over == 'terminated'}, truncated "
        f"{over == 'truncated'}",
    }


def describe_env(env: gym.Env, env_id: str) -> dict[str, str]:
    """Values of the placeholders that prompt files may use, but for those of `FACTS`. No step is taken."""
    observation, action = rule_spaces(env)
    if isinstance(action, BoxAction):
        returned = f"a NumPy array of shape {action.low.shape}, finite in every component and within the bounds"
        shape, low, high = action.low.shape, _action_literal(action.low), _action_literal(action.high)
    else:
        shape, low, high = (), action.start, action.start + action.n - 1
        returned = f"an int from {low} to {high}"
    given = {
        "floats": f"a float64 NumPy array of shape {observation.shape}",
        "int": "an int",
        "tuple": f"a tuple of {math.prod(observation.shape)} ints",
        "ints": f"an int64 NumPy array of shape {observation.shape}",
    }
    limit = env.spec.max_episode_steps if env.spec else None
    doc = documentation(inspect.getdoc(env.unwrapped) or "(the environment has no documentation)")
    space, parts = " ".join(line.strip() for line in str(_own_space(env)).splitlines()), _flattened_parts(env)
    return {
        "env_id": env_id,
        "env_doc": doc,
        "observation_space": space + (f", flattened: {parts}" if parts else ""),
        "observation_bounds": _bounds(_own_space(env)),
        "action_space": f"{env.action_space}: {_bounds(env.action_space)}",
        "action_shape": str(shape),
        "action_low": str(low),
        "action_high": str(high),
        "max_episode_steps": str(limit or "none"),
        "rule_is_given": given[observation.kind],
        "rule_returns": returned,
    }
