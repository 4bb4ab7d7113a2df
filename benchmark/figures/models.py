"""What saved models do: greedy episodes, the policy over a plane of states, and the gait that foot contacts show.

torch, which takes seconds to load, is loaded where a model is: most tables and figures need none.
Docs: docs/benchmark.md
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import gymnasium as gym
import numpy as np
from scipy.ndimage import binary_closing

from benchmark.sweeps.studies import Run

if TYPE_CHECKING:
    import torch

FEET = ("left_foot", "right_foot")  # geoms of MuJoCo's Humanoid
SETTINGS = "settings.json"  # of a run, beside its model
GAP = 2  # steps without contact, 0.03 s of Humanoid, that are a bounce and no lifted foot


class Model(NamedTuple):
    """A saved policy, and the environment that it was trained in."""

    act: Callable[[np.ndarray], np.ndarray]  # the greedy actions (N, *action) for observations (N, *obs)
    sample: Callable[[np.ndarray], np.ndarray]  # those that training draws
    make_env: Callable[[str | None], gym.Env]  # render mode → environment


class Episode(NamedTuple):
    """An episode of T steps."""

    observations: np.ndarray  # (T + 1, *obs)
    episodic_return: float
    speed: float  # forward, mean over the steps, in m/s; nan where the environment does not tell it
    feet: np.ndarray  # (T, 2) bool, whether the left and the right foot are on the floor; (T, 0) without such feet
    frames: list[np.ndarray]


class Landscape(NamedTuple):
    """A policy of MountainCarContinuous over its plane of states."""

    step: int  # of training
    positions: np.ndarray  # (P,)
    velocities: np.ndarray  # (V,)
    actions: np.ndarray  # (V, P), greedy
    path: np.ndarray  # (T, 2) positions and velocities of a greedy episode
    episodic_return: float  # of that episode


class Gait(NamedTuple):
    """How a robot used its feet."""

    alternation: float  # share of the footfalls that follow one of the other foot; nan with fewer than two footfalls
    double_support: float  # share of the time with both feet on the floor
    flight: float  # share of the time with none
    footfalls: int
    frequency: float  # footfalls a second, of both feet; it and the shares are nan where there are no feet


def load_model(run: Run, folder: Path) -> Model:
    """The policy for continuous actions that a finished run with `--save-model` left below its folder.

    Raises:
        ValueError: there is no such model.
    """
    import torch

    path = saved_model(folder)
    settings = json.loads((path.parent / SETTINGS).read_text())["args"]
    weights = torch.load(path, map_location="cpu", weights_only=True)[0]
    return model_of(run.script, run.env, settings["env_kwargs"], settings["max_episode_steps"], weights)


def keep_model(folder: Path, target: Path) -> None:
    """Copy what `load_model` and the command `watch` need of a finished run: its settings, and the policy alone.

    Raises:
        ValueError: there is no such model.
    """
    import torch

    path = saved_model(folder)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path.parent / SETTINGS, target / SETTINGS)
    part = target / f"{path.name}.part"
    torch.save(torch.load(path, map_location="cpu", weights_only=True)[:1], part)
    os.replace(part, target / path.name)


def saved_model(folder: Path) -> Path:
    """The one model below a folder; ValueError where there is none, or several."""
    paths = list(folder.rglob("*.cleanrl_model"))
    if len(paths) != 1:
        raise ValueError(f"{folder} must hold one saved model, not {len(paths)}: does the study set save-model?")
    return paths[0]


def model_of(script: Path, env_id: str, env_kwargs: str, limit: int | None, weights: dict[str, torch.Tensor]) -> Model:
    """The policy of a script for continuous actions, in its environment.

    Args:
        env_kwargs: as `--env-kwargs` takes it.
        limit: as `--max-episode-steps` does.
        weights: of its Actor.
    """
    import torch

    defined = runpy.run_path(str(script), run_name="imported")
    make_env = partial(defined["make_env"], env_id, 1, 0, False, "", json.loads(env_kwargs), limit)
    env = gym.vector.SyncVectorEnv([make_env()])
    actor = defined["Actor"](env)
    env.close()
    actor.load_state_dict(weights)

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        return actor.get_greedy_action(torch.as_tensor(obs, dtype=torch.float32)).numpy()

    @torch.no_grad()
    def sample(obs: np.ndarray) -> np.ndarray:
        return actor.get_action(torch.as_tensor(obs, dtype=torch.float32))[0].numpy()

    return Model(act, sample, lambda render_mode: make_env(render_mode)())


def play(act: Callable[[np.ndarray], np.ndarray], env: gym.Env, seed: int, film: range = range(0)) -> Episode:
    """An episode under `act` of a model, rendered at the steps of `film`."""
    obs, _ = env.reset(seed=seed)
    observations, rewards, speeds, feet, frames, ended = [obs], [], [], [], [], False
    while not ended:
        if len(rewards) in film:
            frames.append(np.ascontiguousarray(env.render()))
        obs, reward, terminated, truncated, info = env.step(act(obs[None])[0])
        ended = terminated or truncated
        observations.append(obs)
        rewards.append(float(reward))
        speeds.append(float(info.get("x_velocity", np.nan)))
        feet.append(feet_on_floor(env))
    return Episode(np.array(observations), sum(rewards), float(np.mean(speeds)), np.array(feet, dtype=bool), frames)


# --- MountainCarContinuous: the policy's landscape ---
def landscape(model: Model, step: int, size: int = 61) -> Landscape:
    """The policy of a training step over the plane of positions and velocities."""
    env = model.make_env(None)
    positions, velocities = np.linspace(env.observation_space.low, env.observation_space.high, size).T
    plane = np.stack(np.meshgrid(positions, velocities), axis=-1)  # (V, P, 2)
    actions = model.act(plane.reshape(-1, 2)).reshape(size, size)
    episode = play(model.act, env, seed=0)
    env.close()
    return Landscape(step, positions, velocities, actions, episode.observations, episode.episodic_return)


def oscillation(landscape: Landscape) -> float:
    """Share of the plane in which the action pushes as the car moves: 1 is the bundled rule, ½ is no relation."""
    moving = landscape.velocities != 0
    same = np.sign(landscape.actions) == np.sign(landscape.velocities)[:, None]
    return float(same[moving].mean())


# --- Humanoid: gait ---
def feet_on_floor(env: gym.Env) -> list[bool]:
    """For each of the robot's feet, whether MuJoCo has a contact of it with the floor; empty for what has no feet."""
    model = getattr(env.unwrapped, "model", None)
    if model is None:
        return []
    names = [model.geom(i).name for i in range(model.ngeom)]
    if not {"floor", *FEET} <= set(names):
        return []
    touching = {frozenset((names[a], names[b])) for a, b in env.unwrapped.data.contact.geom}
    return [frozenset(("floor", foot)) in touching for foot in FEET]


def gait(episodes: list[np.ndarray], dt: float) -> Gait:
    """The gait in contacts (T, 2) of episodes: is the left, is the right foot on the floor at each step of dt seconds?

    A footfall is a step at which a foot comes down that had been on the floor and was lifted: the landing with which an
    episode begins is none. It alternates when the one before was the other foot alone; two feet at once never do.
    """
    if not episodes[0].shape[1]:
        return Gait(np.nan, np.nan, np.nan, 0, np.nan)
    pairs, footfalls = [], 0
    bridged = [np.stack([bridge(foot) for foot in feet.T], axis=1) for feet in episodes]
    for feet in bridged:
        walked = np.logical_or.accumulate(feet, axis=0)
        down = feet[1:] & ~feet[:-1] & walked[:-1]
        down = down[down.any(axis=1)]  # (footfalls, 2)
        footfalls += len(down)
        pairs.append((down[1:] != down[:-1]).all(axis=1))
    alternating, feet = np.concatenate(pairs), np.concatenate(bridged)
    return Gait(
        alternating.mean() if len(alternating) else np.nan,
        feet.all(axis=1).mean(),
        (~feet).all(axis=1).mean(),
        footfalls,
        footfalls / (len(feet) * dt),
    )


def bridge(foot: np.ndarray) -> np.ndarray:
    """Contacts (T,) of a foot with gaps of up to GAP steps closed."""
    padded = np.pad(foot, GAP)  # or contacts at the ends would be worn off
    return binary_closing(padded, np.ones(GAP + 1))[GAP:-GAP]
