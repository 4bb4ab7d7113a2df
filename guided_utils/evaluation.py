"""Returns of the learned policy: a run's evaluations beside training, and those of a saved model."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
from torch.utils.tensorboard import SummaryWriter

from guided_utils.environments import clip_action, evaluation_seeds, tensor_dtype

LONG_RUN, EVALUATIONS = 20_000, 20  # steps of a run that is evaluated unasked, and how often


def check_time_limit(env: gym.Env) -> None:
    """Raise ValueError where an episode need not end: a greedy policy that goes in circles would never return."""
    if env.spec.max_episode_steps is None:
        raise ValueError(
            f"{env.spec.id} has no time limit, so an evaluation may never end: give --max-episode-steps, or to "
            "`evaluate` a make_env with max_episode_steps bound"
        )


def episode_returns(
    envs: list[gym.Env], policy: Callable[[np.ndarray], np.ndarray], seeds: Sequence[int]
) -> list[float]:
    """Undiscounted return of one episode in each environment, the i-th from the i-th seed: equal starts every time.

    Args:
        envs: the environments; only those still running are stepped.
        policy: maps observations (n, *obs) to actions (n, *action).
    """
    obs = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
    returns, running = [0.0] * len(envs), list(range(len(envs)))
    while running:
        ended = set()
        for i, action in zip(running, policy(np.stack([obs[i] for i in running])), strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if terminated or truncated:
                ended.add(i)
        running = [i for i in running if i not in ended]
    return returns


def _usual_frequency(total_timesteps: int, env_fn: Callable[[int], gym.Env]) -> int:
    """Steps between the evaluations of a run for which nobody said it; 0: none."""
    if total_timesteps < LONG_RUN:
        return 0
    env = env_fn(0)
    env.close()
    if env.spec.max_episode_steps is None:
        print("no evaluations: the environment has no time limit (--max-episode-steps gives it one)", flush=True)
        return 0
    return total_timesteps // EVALUATIONS


class Evaluator:
    """The return of the unguided policy, in environments and from starts of its own, the same every time.

    Greedy episodes, and where they are asked for sampled ones from the same starts. Training's random numbers are left
    as they are.

    Args:
        args: a script's settings: eval_frequency (0: no environments are made; None is replaced by what it stands for,
            unless that is none: the run gone on for longer may have some), eval_episodes, eval_sampled_episodes,
            total_timesteps and seed.
        env_fn: makes the i-th environment.

    Raises:
        ValueError: the environment has no time limit.
    """

    def __init__(self, args: Any, env_fn: Callable[[int], gym.Env]):
        self.args = args
        self.seed, self.greedy, self.sampled = args.seed, args.eval_episodes, args.eval_sampled_episodes
        if args.eval_frequency is None:
            args.eval_frequency = _usual_frequency(args.total_timesteps, env_fn) or None
        self.envs = [env_fn(i) for i in range(max(self.greedy, self.sampled) if args.eval_frequency else 0)]
        for env in self.envs:
            check_time_limit(env)
        self.seeds = evaluation_seeds(args.seed, len(self.envs))
        self.points: list[tuple[int, float]] = []  # step and mean greedy return of each evaluation so far

    def run_if_due(
        self, act: Callable[[np.ndarray, bool], np.ndarray], global_step: int, writer: SummaryWriter
    ) -> None:
        """Evaluate at step 0, every `eval_frequency` steps and at the end (see `run`)."""
        args = self.args
        last_step = global_step >= args.total_timesteps
        if args.eval_frequency and (global_step % args.eval_frequency < args.num_envs or last_step):
            self.run(act, global_step, writer)

    def run(self, act: Callable[[np.ndarray, bool], np.ndarray], global_step: int, writer: SummaryWriter) -> None:
        """Log and print the mean returns; `act` maps observations and `deterministic` to actions."""
        returns = self._returns(act, self.greedy, deterministic=True)
        mean = float(np.mean(returns))
        self.points.append((global_step, mean))
        writer.add_scalar("eval/episodic_return", mean, global_step)
        text = f"step {global_step:,}: greedy return {mean:.2f} ± {np.std(returns):.2f}"
        if self.sampled:
            with torch.random.fork_rng():
                # of one evaluation of one run, resumed or not; 32 bits, since the CPU's generator ignores all others
                torch.manual_seed(int(np.random.SeedSequence([self.seed, global_step]).generate_state(1)[0]))
                returns = self._returns(act, self.sampled, deterministic=False)
            writer.add_scalar("eval/sampled_return", np.mean(returns), global_step)
            text += f", sampled {np.mean(returns):.2f} ± {np.std(returns):.2f}"
        print(text, flush=True)

    def _returns(
        self, act: Callable[[np.ndarray, bool], np.ndarray], episodes: int, deterministic: bool
    ) -> list[float]:
        return episode_returns(self.envs[:episodes], lambda obs: act(obs, deterministic), self.seeds[:episodes])

    def state_dict(self) -> dict[str, list[tuple[int, float]]]:
        """Plain data for a checkpoint."""
        return {"points": list(self.points)}

    def load_state_dict(self, state: dict[str, list[tuple[int, float]]]) -> None:
        """Go on from there."""
        self.points[:] = state["points"]

    def close(self) -> None:
        """Close the environments and say what training brought."""
        for env in self.envs:
            env.close()
        if self.points:
            (_, before), *_, (_, after) = self.points * 2  # a single one is both
            print(f"greedy return without guidance: {before:.2f} before training, {after:.2f} after")


def save_model(modules: Sequence[nn.Module], path: str) -> None:
    """Save a tuple of state dicts, whole or not at all; the first one is the policy's, for `evaluate`."""
    try:
        torch.save(tuple(module.state_dict() for module in modules), path + ".part")
        os.replace(path + ".part", path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(path + ".part")
    print(f"model saved to {path}")


def evaluate(
    model_path: str,
    make_env: Callable,
    env_id: str,
    eval_episodes: int,
    run_name: str,
    Model: type[nn.Module],
    device: torch.device | str = "cpu",
    capture_video: bool = False,
) -> list[float]:
    """CleanRL's evaluate: the greedy returns of a saved model.

    Args:
        make_env: a script's `make_env`, with `env_kwargs` and `max_episode_steps` bound by functools.partial where the
            run had any.
        Model: the class of the network that holds the policy.

    Raises:
        ValueError: the environment has no time limit.
    """
    envs = [make_env(env_id, 0, i, capture_video, run_name)() for i in range(eval_episodes)]
    check_time_limit(envs[0])
    actor = Model(gym.vector.SyncVectorEnv([lambda: envs[0]])).to(device)
    actor.load_state_dict(torch.load(model_path, map_location=device, weights_only=True)[0])
    dtype = tensor_dtype(envs[0].observation_space)

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        actions = actor.get_greedy_action(torch.as_tensor(obs, dtype=dtype, device=device)).cpu().numpy()
        return clip_action(actions, envs[0].action_space)

    returns = episode_returns(envs, policy, range(eval_episodes))
    for env in envs:
        env.close()
    return returns
