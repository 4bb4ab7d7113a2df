"""Environments: making one with errors that say what was wrong, and the spaces in which the scripts train."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from guided_utils.log import end_run_with


def make(
    env_id: str, max_episode_steps: int | None, env_kwargs: dict[str, Any] | None, render_mode: str | None
) -> gym.Env:
    """gym.make with what is set: not every constructor takes every argument.

    Raises:
        ValueError: the constructor failed; it is blamed on `env_kwargs` where there are any.
        gym.error.Error: Gymnasium does not know the environment; the line says how a package's are named.
        ImportError: a module that it needs is not there.
    """
    optional = {"max_episode_steps": max_episode_steps, "render_mode": render_mode}
    given = {name: value for name, value in optional.items() if value is not None}
    try:
        return PlainSteps(gym.make(env_id, **given, **(env_kwargs or {})))
    except (gym.error.NameNotFound, gym.error.NamespaceNotFound) as error:
        if ":" in env_id:
            raise
        hint = f"where a package of its own has it, the module that registers it comes first: module:{env_id}"
        raise type(error)(f"{error} ({hint})") from None
    except (gym.error.Error, ImportError):
        raise
    except Exception as error:  # a constructor may raise anything
        what = f"does not accept --env-kwargs {env_kwargs}" if env_kwargs else "cannot be made"
        raise ValueError(f"{env_id} {what}: {type(error).__name__}: {error}") from error


def tensor_dtype(space: gym.Space) -> torch.dtype:
    """float32 for numbers (Box), int64 for what is counted (Discrete, MultiDiscrete)."""
    return torch.float32 if isinstance(space, gym.spaces.Box) else torch.int64


def is_continuous(space: gym.Space) -> bool:
    """Whether a squashed Gaussian can act in the space: a bounded Box of floats with at least one axis.

    Bounds that float32 takes for infinite, or further apart than it can tell, are none.
    """
    if not (isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) > 0):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        widths = space.high.astype(np.float32) - space.low.astype(np.float32)
    return space.is_bounded() and bool(np.isfinite(widths).all())


def clip_action(actions: np.ndarray, space: gym.Space) -> np.ndarray:
    """Actions (N, *action) in the space's own dtype and within its bounds, out of which rounding takes some.

    Discrete ones are left as they are.
    """
    if not isinstance(space, gym.spaces.Box):
        return actions
    return np.clip(actions.astype(space.dtype), space.low, space.high)


def check_continuous_spaces(env: gym.Env) -> None:
    """Raise ValueError unless the environment has a bounded Box of actions."""
    if isinstance(env.action_space, gym.spaces.Discrete):
        raise ValueError(f"{env.spec.id} has discrete actions {env.action_space}: use guided_sac_discrete.py")
    if not is_continuous(env.action_space):
        raise ValueError(f"the actions must be a bounded Box of floats, those of {env.spec.id} are {env.action_space}")


def check_discrete_spaces(env: gym.Env) -> None:
    """Raise ValueError unless the actions are Discrete."""
    if isinstance(env.action_space, gym.spaces.Box):
        raise ValueError(f"{env.spec.id} has continuous actions {env.action_space}: use guided_sac_continuous.py")
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise ValueError(f"the action space must be Discrete, that of {env.spec.id} is {env.action_space}")


def check_spaces(env: gym.Env) -> None:
    """Raise ValueError unless the actions are those of one of the two checks above."""
    if isinstance(env.action_space, gym.spaces.Discrete):
        check_discrete_spaces(env)
    elif is_continuous(env.action_space):
        check_continuous_spaces(env)
    else:
        raise ValueError(
            f"the actions must be a bounded Box of floats or Discrete, not {env.action_space} ({env.spec.id})"
        )


def integer_space(space: gym.Space) -> gym.spaces.MultiDiscrete | None:
    """The space of the same observations as vectors of k integers; None where they are not integers (or too nested).

    A Discrete observation becomes k = 1 integer, a Tuple of k Discrete becomes k, a MultiDiscrete is flattened.
    """
    if isinstance(space, gym.spaces.MultiDiscrete):
        return gym.spaces.MultiDiscrete(space.nvec.flatten(), start=space.start.flatten())
    parts = space.spaces if isinstance(space, gym.spaces.Tuple) else [space]
    if not all(isinstance(part, gym.spaces.Discrete) for part in parts):
        return None
    return gym.spaces.MultiDiscrete([part.n for part in parts], start=[part.start for part in parts])


def integer_observations(env: gym.Env) -> gym.Env:
    """Let discrete observations arrive as integers (k,), int64 (see `integer_space`); leave others as they are."""
    if (space := integer_space(env.observation_space)) is None:
        return env
    return gym.wrappers.TransformObservation(env, lambda obs: np.array(obs, dtype=np.int64).reshape(-1), space)


def flat(env: gym.Env) -> bool:
    """Whether networks take observations as they are: a Box with an axis, or integers where actions are discrete too.

    Raises:
        ValueError: they do not, and Gymnasium's FlattenObservation does not make one Box of them.
    """
    space = env.observation_space
    if isinstance(space, gym.spaces.MultiDiscrete) and isinstance(env.action_space, gym.spaces.Discrete):
        return True
    if isinstance(space, gym.spaces.Box) and len(space.shape) > 0:
        return True
    if part := _not_flattened(space):
        raise ValueError(
            f"the observations of {env.spec.id} cannot be flattened into a vector: {part}; wrap it so that this is "
            "left out (gymnasium.wrappers.FilterObservation) and register that under an id of its own"
        )
    return False


def _not_flattened(space: gym.Space, name: str = "") -> str:
    """The part of a space of which Gymnasium makes no Box, in words; "" where there is none."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space)
        return next(filter(None, (_not_flattened(part, f"{name}[{key!r}]") for key, part in parts)), "")
    try:
        vector = gym.spaces.flatten_space(space)
    except NotImplementedError:  # a kind of its own, which may inherit from one of Gymnasium's
        vector = None
    return "" if isinstance(vector, gym.spaces.Box) else f"{f'its part {name}' if name else 'it'} is {space}"


class PlainSteps(gym.Wrapper):
    """Rewards as numbers, and the key that RecordEpisodeStatistics needs in `info` left to ours.

    A reward may come as an array or a list of one number; Meta-World's environments bring statistics of their own.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if not isinstance(reward, (float, int)):
            number = np.asarray(reward)
            if number.size != 1 or number.dtype.kind not in "biuf":
                end_run_with(f"{self.spec.id} gives the reward {reward!r} for a step: it must be one number")
            reward = float(number.item())
        if "episode" in info:
            info = {key: value for key, value in info.items() if key != "episode"}
        return obs, reward, terminated, truncated, info


LARGEST = 1e18  # of an observation or a reward: its square still fits float32


def random_numbers(source: np.random.Generator | np.random.RandomState) -> dict[str, Any]:
    """The state of an environment's random numbers; dm_control's are of NumPy's older kind."""
    if isinstance(source, np.random.RandomState):
        return source.get_state(legacy=False)
    return deepcopy(source.bit_generator.state)


def set_random_numbers(source: np.random.Generator | np.random.RandomState, state: dict[str, Any]) -> None:
    """Go on from a state that `random_numbers` gave."""
    if isinstance(source, np.random.RandomState):
        source.set_state(state)
    else:
        source.bit_generator.state = state


class EpisodeTape(gym.Wrapper):
    """Remembers how the present episode began and what was done since, so that it can be played again.

    The outermost wrapper: what it hands out are copies, since an environment may return one array again and again,
    changed in place, also as an episode's last observation. They have the shape of the space, and its kind of numbers.
    """

    on_step: Callable[[bool], None] | None = None  # told after each step whether the episode is over; not in `play`

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.seed, self.actions, self.space = seed, [], self.observation_space
        # a reset without a seed goes on with the environment's random numbers as they are now
        self.generator = random_numbers(self.unwrapped.np_random) if seed is None else None
        obs, info = self.env.reset(seed=seed, options=options)
        return self._array(obs), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self._step(action)
        if self.on_step is not None:
            self.on_step(terminated or truncated)
        return obs, reward, terminated, truncated, info

    def _step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.actions.append(np.array(action))
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._array(obs), reward, terminated, truncated, info

    def _array(self, obs: Any) -> np.ndarray:
        """An observation, which may come as a list or with another number of axes, as an array of its own, (*obs)."""
        space = self.space
        try:
            array = np.array(obs)
            if array.shape != space.shape:
                array = array.reshape(space.shape)
            if array.dtype != space.dtype and not np.can_cast(array.dtype, space.dtype, "same_kind"):
                given, array = array, array.astype(space.dtype)
                if not (array == given).all():
                    raise ValueError(f"{given.dtype} does not fit")
        except (ValueError, TypeError, OverflowError) as error:
            end_run_with(f"{self.spec.id} gives an observation that is none of {space}: {str(obs)[:80]} ({error})")
        return array

    def state_dict(self) -> dict[str, Any]:
        """What `play` needs: the reset's seed or random numbers, the actions, and which episode a video would be of."""
        actions = np.stack(self.actions) if self.actions else None
        episode = self.get_wrapper_attr("episode_id") if self.has_wrapper_attr("episode_id") else None
        return {"seed": self.seed, "generator": self.generator, "actions": actions, "episode": episode}

    def play(self, state: dict[str, Any]) -> np.ndarray:
        """Bring the environment to where it was, and return the observation there, (*obs)."""
        if state["episode"] is not None and self.has_wrapper_attr("episode_id"):
            self.set_wrapper_attr("episode_id", state["episode"] - 1, force=False)
        if state["generator"] is not None:
            set_random_numbers(self.unwrapped.np_random, state["generator"])
        obs, _ = self.reset(seed=state["seed"])
        for action in state["actions"] if state["actions"] is not None else ():
            obs, *_ = self._step(action)
        return obs


def seeds_of(seed: int, num_envs: int) -> list[int]:
    """Seeds of training environments: the first is `seed`, the others are no neighbouring run's."""
    others = np.random.SeedSequence(seed).generate_state(num_envs - 1) if num_envs > 1 else ()
    return [seed, *map(int, others)]


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of an evaluation's episodes, below 2³²: those of one run, and of no other.

    (seed + 1) · 1,000,000 + i while that fits, beyond it what SeedSequence makes of it.
    """
    first = (seed + 1) * 1_000_000
    if first + episodes <= 2**32:
        return [first + i for i in range(episodes)]
    return [int(s) for s in np.random.SeedSequence(first).generate_state(episodes)]


def not_finite(obs: np.ndarray, rewards: np.ndarray) -> str:
    """What of a step of N environments, arrays (N, …), cannot be learned from: "" or environment and value in words."""
    for what, values in (("the observation", obs), ("the reward", rewards)):
        if values.dtype.kind == "f" and not (np.abs(values) < LARGEST).all():
            index = tuple(np.argwhere(~(np.abs(values) < LARGEST))[0].tolist())
            return f"{what} of environment {index[0]} is {values[index]} (at {list(index[1:])})"
    return ""
