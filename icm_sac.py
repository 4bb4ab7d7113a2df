"""ICM on SAC: Soft Actor-Critic with the bonus of the Intrinsic Curiosity Module, a baseline of GuidedSAC.

Paper: Pathak, Agrawal, Efros, Darrell, "Curiosity-driven Exploration by Self-supervised Prediction", ICML 2017.
Docs:  docs/icm_sac.md
"""

import json
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import partial
from typing import Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import tyro
from torch.utils.tensorboard import SummaryWriter


@dataclass
class Args:
    # --- shared: experiment flags ---
    exp_name: str = os.path.basename(__file__)[: -len(".py")]
    """the name of this experiment"""
    seed: int = 1
    """seed of the experiment, ≥ 0"""
    torch_deterministic: bool = True
    """let cuDNN use deterministic algorithms only (sets `torch.backends.cudnn.deterministic`)"""
    cuda: bool = True
    """use a GPU where there is one"""
    track: bool = False
    """track the run with Weights & Biases (needs `pip install wandb`)"""
    wandb_project_name: str = "guided-sac"
    """the wandb project's name"""
    wandb_entity: str | None = None
    """the entity (team) of the wandb project"""
    capture_video: bool = False
    """record training episodes of the first environment to `videos/{run_name}`"""
    save_model: bool = False
    """save the networks to `runs/{run_name}/{exp_name}.cleanrl_model`"""
    eval_frequency: int = 0
    """environment steps between greedy evaluations of the unguided policy; 0 = off"""
    eval_episodes: int = 10
    """episodes of an evaluation, ≥ 1"""
    # --- end ---

    # --- shared: environment flag ---
    env_id: str = "MountainCarContinuous-v0"
    """the environment's Gymnasium id"""
    # --- end ---

    # --- shared: algorithm flags ---
    env_kwargs: str = "{}"
    """keyword arguments of the environment's constructor, as a JSON object"""
    max_episode_steps: int | None = None
    """time limit of an episode in steps; None: the environment's own"""
    total_timesteps: int = 1_000_000
    """environment steps of the run, all environments together"""
    num_envs: int = 1
    """environments stepped side by side, with one update per step of all of them"""
    buffer_size: int = 1_000_000
    """observations that the replay buffer holds (an episode's last observation takes a place of its own)"""
    gamma: float = 0.99
    """discount factor γ, in [0, 1]"""
    tau: float = 0.005
    """soft-update rate τ of the target networks, in (0, 1]"""
    batch_size: int = 256
    """transitions of an update"""
    learning_starts: int = 5_000
    """environment steps of uniformly random actions before the first update"""
    policy_lr: float = 3e-4
    """learning rate of the actor network (discrete actions need none by default)"""
    q_lr: float = 3e-4
    """learning rate of the critics (and the value network); 3e-4 as in Stable-Baselines3, CleanRL has 1e-3"""
    alpha_lr: float = 3e-4
    """learning rate of the temperature"""
    policy_frequency: int = 1
    """the actor is updated every k-th update, k times (CleanRL: 2; the paper, on Stable-Baselines3: 1)"""
    target_network_frequency: int = 1
    """updates between two soft updates of the target networks"""
    alpha: float = 1.0
    """temperature α: the initial one with `--autotune`, else the fixed one"""
    autotune: bool = True
    """learn α so that the policy's entropy stays near a target (`target_entropy` in the script)"""
    # --- end ---

    # --- shared: discrete flags ---
    target_entropy_scale: float = 0.89
    """of discrete actions, with `--autotune`: the target of the entropy as a share of its largest value log|A|"""
    # --- end ---

    # --- shared: speed flags ---
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the matrix products while learning continuous actions; weights, targets, losses and acting are float32"""
    compile: bool = False
    """compile the gradients of continuous actions with torch.compile (needs a C++ compiler, some time at the start)"""
    # --- end ---

    # --- shared: bonus flags ---
    bonus_lr: float = 3e-4
    """learning rate of the bonus's networks"""
    replay_frequency: int = 0
    """environment steps between videos of a greedy episode (with llm_supervisor.py beside this file); 0 = off"""
    # --- end ---
    intrinsic_coef: float = 0.01
    """weight of the bonus in SAC's reward r + intrinsic_coef · r_int / σ(r_int); 0 = plain SAC"""
    beta: float = 0.2
    """weight β of the forward loss beside the inverse one's 1 − β, in [0, 1] (Pathak et al. 2017, 3)"""


# --- shared: settings of the paper ---
# The paper's settings (table in C.1) are that environment's defaults; a flag on the command line still wins.
ENV_DEFAULTS = {
    "Blackjack-v1": dict(
        batch_size=256, gamma=0.5, tau=0.005, autotune=True, learning_starts=1_000,
        max_episode_steps=100,  # never reached: a hand ends before
    ),
    "CliffWalking-v1": dict(
        batch_size=1_024, gamma=0.99, tau=0.005, autotune=False, alpha=0.01, learning_starts=0,
        max_episode_steps=200,  # without a limit an unguided run never ends an episode
    ),
    "FrozenLake-v1": dict(batch_size=64, gamma=0.99, tau=0.005, autotune=False, alpha=0.01, learning_starts=0),
    "Taxi-v4": dict(batch_size=256, gamma=0.99, tau=0.005, autotune=False, alpha=0.01, learning_starts=0),
    "MountainCarContinuous-v0": dict(batch_size=256, gamma=0.99, tau=0.005, autotune=True, learning_starts=0),
    "Humanoid-v5": dict(
        batch_size=256, gamma=0.99, tau=0.005, autotune=True, learning_starts=100,
        # 24 positions and 23 velocities: the paper's "47-dimensional state space"
        env_kwargs='{"exclude_current_positions_from_observation": false, "include_cinert_in_observation": false, '
        '"include_cvel_in_observation": false, "include_qfrc_actuator_in_observation": false, '
        '"include_cfrc_ext_in_observation": false}',
    ),
}  # fmt: skip
# --- end ---
ENV_DEFAULTS["MountainCarContinuous-v0"]["intrinsic_coef"] = 30.0  # the best of those tried
BONUS_RANGES = {"beta": (0, 1)}


# --- shared: settings ---
def parse_args() -> tuple[Args, dict[str, str]]:
    """Read the command line over the environment's defaults over the general ones.

    Returns:
        The settings in force and, for each field, where it came from: "command line" (where that changes it),
        "environment" or "default".
    """
    flags = [flag for flag in sys.argv[1:] if flag not in ("-h", "--help")]  # help is to show that environment's values
    env_id = tyro.cli(Args, args=flags).env_id
    base = replace(Args(), env_id=env_id, **ENV_DEFAULTS.get(env_id, {}))
    args = tyro.cli(Args, default=base)
    sources = {}
    for f in fields(Args):
        value = getattr(args, f.name)
        if value != getattr(base, f.name) or (f.name == "env_id" and value != Args().env_id):
            sources[f.name] = "command line"
        else:
            sources[f.name] = "environment" if f.name in ENV_DEFAULTS.get(env_id, {}) else "default"
    return args, sources


def check_ranges(args: Args, ranges: dict[str, tuple[float, float]]) -> None:
    """Raise ValueError for a number outside its range from low to high, both included unless infinite."""
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not (low <= value <= high and value < np.inf):
            raise ValueError(
                f"--{name.replace('_', '-')} must lie in [{low}, {high}{']' if high < np.inf else ')'}, not {value}"
            )


def check_args(args: Args) -> None:
    """Raise ValueError for a number out of its range."""
    check_ranges(args, {
        **dict.fromkeys(("num_envs", "buffer_size", "batch_size", "total_timesteps", "max_episode_steps",
                         "eval_episodes", "policy_frequency", "target_network_frequency"), (1, np.inf)),
        **dict.fromkeys(("learning_starts", "eval_frequency", "policy_lr", "q_lr", "alpha_lr", "alpha"), (0, np.inf)),
        "gamma": (0, 1), "tau": (0, 1), "seed": (0, 2**32 - 1),
    })  # fmt: skip
    if args.autotune and args.alpha == 0:
        raise ValueError("--alpha is the initial temperature that --autotune scales: it must be above 0")
    if args.tau == 0:
        raise ValueError("--tau 0 would leave the target networks as they begin: it must be above 0")


@contextmanager
def one_line_errors():
    """Turn what bad input raises into one line and exit status 1."""
    try:
        yield
    except (ValueError, OSError, ImportError, gym.error.Error) as error:
        message = "; ".join(line.strip() for line in str(error).splitlines())
        raise SystemExit(f"{os.path.basename(__file__)}: error: {message}") from None


# --- end ---


# --- shared: settings of the bonus ---
def check_bonus_args(args: Args) -> None:
    """Raise ValueError for a number out of its range."""
    ranges = dict.fromkeys(("intrinsic_coef", "bonus_lr", "replay_frequency"), (0, np.inf))
    check_ranges(args, {**ranges, "target_entropy_scale": (0, 1), **BONUS_RANGES})


# --- end ---


# --- shared: make_env with discrete observations ---
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


def make_env(
    env_id: str,
    seed: int,
    idx: int,
    capture_video: bool,
    run_name: str,
    env_kwargs: dict | None = None,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
) -> Callable[[], gym.Env]:
    """CleanRL's make_env, and behind its arguments those that go to the environment.

    Discrete observations arrive as integers (k,), int64 (see `integer_space`).

    Raises (when the thunk is called):
        ValueError: the environment does not accept `env_kwargs`, or could not be made.
    """

    def thunk() -> gym.Env:
        record = capture_video and idx == 0
        mode = "rgb_array" if record else render_mode
        try:
            env = gym.make(env_id, max_episode_steps=max_episode_steps, render_mode=mode, **(env_kwargs or {}))
        except (TypeError, KeyError, AttributeError, AssertionError) as error:  # an environment checks as it likes
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{env_id} does not accept --env-kwargs {env_kwargs or {}}: {reason}") from error
        if record:
            env = gym.wrappers.RecordVideo(env, f"videos/{run_name}")
        env = gym.wrappers.RecordEpisodeStatistics(env)
        if (space := integer_space(env.observation_space)) is not None:
            env = gym.wrappers.TransformObservation(env, lambda obs: np.array(obs, dtype=np.int64).reshape(-1), space)
        env.action_space.seed(seed)
        return env

    return thunk


# --- end ---


# --- shared: env kwargs ---
def parse_env_kwargs(text: str) -> dict:
    """`--env-kwargs` as a dictionary; ValueError when it is not a JSON object."""
    try:
        env_kwargs = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--env-kwargs must be a JSON object such as '{{\"frame_skip\": 5}}': {error}") from None
    if not isinstance(env_kwargs, dict):
        raise ValueError(f"--env-kwargs must be a JSON object, not {text}")
    return env_kwargs


# --- end ---


# --- shared: continuous actions ---
def is_continuous(space: gym.Space) -> bool:
    """Whether a squashed Gaussian can act in the space: a bounded Box of floats with at least one axis."""
    return (
        isinstance(space, gym.spaces.Box)
        and space.is_bounded()
        and np.issubdtype(space.dtype, np.floating)
        and len(space.shape) > 0
    )


# --- end ---


# --- shared: spaces of both kinds ---
def check_spaces(env: gym.Env) -> None:
    """Raise ValueError unless the actions are a bounded Box of floats or Discrete, and the observations fit them."""
    actions, observations = env.action_space, env.observation_space
    if is_continuous(actions):
        if not isinstance(observations, gym.spaces.Box):
            raise ValueError(
                f"with continuous actions the observation space must be a Box, that of {env.spec.id} is {observations}"
            )
    elif not isinstance(actions, gym.spaces.Discrete):
        raise ValueError(f"the actions must be a bounded Box of floats or Discrete, not {actions} ({env.spec.id})")
    elif not isinstance(observations, gym.spaces.Box | gym.spaces.MultiDiscrete):
        raise ValueError(
            "the observation space must be a Box, a Discrete, a MultiDiscrete or a Tuple of Discrete, that of "
            f"{env.spec.id} is {observations}"
        )


# --- end ---


# --- shared: replay buffer ---
class Batch(NamedTuple):
    """B transitions on the buffer's device, float32; observations and actions int64 where they are discrete."""

    observations: torch.Tensor  # (B, *obs)
    next_observations: torch.Tensor  # (B, *obs)
    actions: torch.Tensor  # (B, *action), as executed
    rewards: torch.Tensor  # (B,)
    terminations: torch.Tensor  # (B,), 1 where the episode terminated; a truncation is 0
    rows: torch.Tensor  # (B,) int64, their places in the buffer, for what a script notes beside each transition


def storage_dtype(space: gym.Space) -> torch.dtype:
    """float32 for numbers (Box), int64 for what is counted (Discrete, MultiDiscrete)."""
    return torch.float32 if isinstance(space, gym.spaces.Box) else torch.int64


class ReplayBuffer:
    """Ring of transitions that point into a ring of observations, in which each observation stands once.

    The next observation of a transition is the observation of its successor, except at an episode's end, whose last
    observation gets a slot of its own. Half the memory of storing s and s': 1M transitions of 348 floats in 1.5 GB.
    Slots are numbered by age (0, 1, 2, …; number modulo capacity is the place), so a transition has expired exactly
    when the number of its s is a capacity or more behind the newest.
    """

    def __init__(self, buffer_size: int, envs: gym.vector.VectorEnv, device: torch.device):
        num_envs, obs_space, action_space = envs.num_envs, envs.single_observation_space, envs.single_action_space
        # 4 · num_envs more: the newest s may be followed by the resets of its step, then by s' and resets of the next
        self.capacity, self.num_envs, self.device = buffer_size + 4 * num_envs, num_envs, device
        self.size = -(-buffer_size // num_envs) * num_envs  # a multiple of num_envs: a step is written in one piece
        self.obs = torch.zeros((self.capacity, *obs_space.shape), dtype=storage_dtype(obs_space), device=device)
        self.slots = torch.zeros((self.size, 2), dtype=torch.int64)  # numbers of s and s'
        self.actions = torch.zeros((self.size, *action_space.shape), dtype=storage_dtype(action_space), device=device)
        self.rewards = torch.zeros(self.size, device=device)
        self.terminations = torch.zeros(self.size, device=device)
        self.written = 0  # observations ever written
        self.oldest, self.added = 0, 0  # transitions expired and transitions ever added

    def __len__(self) -> int:
        return self.added - self.oldest

    def _write(self, obs: np.ndarray) -> torch.Tensor:
        """Store observations (n, *obs) and return their numbers (n,)."""
        numbers = torch.arange(self.written, self.written + len(obs))
        obs = torch.as_tensor(obs, dtype=self.obs.dtype, device=self.device)
        self.obs.index_copy_(0, (numbers % self.capacity).to(self.device), obs)
        self.written += len(obs)
        return numbers

    def reset(self, obs: np.ndarray) -> None:
        """Start every environment's first episode at obs (N, *obs)."""
        self.current = self._write(obs)  # (N,)

    def add(self, actions, rewards, terminations, dones, next_obs, final_obs) -> None:
        """Store one vector step, at the rows `self.last`.

        Args:
            actions: (N, *action) as executed. rewards, terminations, dones: (N,); done = terminated or truncated.
            next_obs: (N, *obs), the new episode's first observation where done.
            final_obs: (N, *obs), the true successor of the step; differs from next_obs only where done.
        """
        row = self.added % self.size
        self.last = rows = slice(row, row + self.num_envs)
        following = self._write(final_obs)  # (N,)
        self.slots[rows] = torch.stack([self.current, following], dim=1)
        self.actions[rows] = torch.as_tensor(actions, dtype=self.actions.dtype)
        self.rewards[rows] = torch.as_tensor(rewards, dtype=torch.float32)
        self.terminations[rows] = torch.as_tensor(terminations, dtype=torch.float32)
        self.added += self.num_envs
        self.current = following
        if dones.any():
            self.current = self.current.clone()
            self.current[torch.as_tensor(dones)] = self._write(next_obs[dones])
        self.oldest = max(self.oldest, self.added - self.size)
        while self.slots[self.oldest % self.size :][: self.num_envs, 0].min() < self.written - self.capacity:
            self.oldest += self.num_envs  # short episodes: their last observations took the place

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, with replacement."""
        return self.take(torch.randint(self.oldest, self.added, (batch_size,)) % self.size)

    def take(self, rows: torch.Tensor) -> Batch:
        """The transitions at these rows (B,)."""
        places = (self.slots[rows].T % self.capacity).to(self.device)  # (2, B)
        rows = rows.to(self.device)
        # index_select gathers with all threads, indexing with one
        return Batch(
            *(self.obs.index_select(0, place) for place in places),
            *(x.index_select(0, rows) for x in (self.actions, self.rewards, self.terminations)),
            rows,
        )


# --- end ---


# --- shared: critics ---
class SoftQNetwork(nn.Module):
    """The twin critics Q₁, Q₂ as one batched network: each layer is one batched product for both.

    The first layer's product is split into that of the observations and that of the actions. So nothing is joined into
    one input, and the actor's loss, which needs the gradient for the actions alone, gets it from their few columns.
    """

    def __init__(self, envs: gym.vector.VectorEnv, hidden: int = 256):
        super().__init__()
        obs_dim = int(np.prod(envs.single_observation_space.shape))
        act_dim = int(np.prod(envs.single_action_space.shape))
        fan_in = [obs_dim + act_dim, obs_dim + act_dim, hidden, hidden]
        shapes = [(obs_dim, hidden), (act_dim, hidden), (hidden, hidden), (hidden, 1)]
        self.weights = nn.ParameterList(torch.empty(2, *shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.empty(2, 1, out) for out in (hidden, hidden, 1))
        for parameter, fan in zip([*self.weights, *self.biases], [*fan_in, *fan_in[1:]], strict=True):
            nn.init.uniform_(parameter, -(fan**-0.5), fan**-0.5)  # as torch.nn.Linear initialises both

    def forward(self, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Values (2, B) of observations (B, *obs) and actions (B, *action) in environment units."""
        x = torch.baddbmm(self.biases[0], obs.flatten(1).expand(2, -1, -1), self.weights[0])  # (2, B, hidden)
        x = torch.baddbmm(x, actions.flatten(1).expand(2, -1, -1), self.weights[1]).relu_()
        x = torch.baddbmm(self.biases[1], x, self.weights[2]).relu_()
        # a matrix product with a single column is slow, its gradient slower: a row-wise scalar product instead, which
        # is float32 also where the products before it are not
        return (x * self.weights[3].mT).sum(dim=2) + self.biases[2].squeeze(-1)


# --- end ---


# --- shared: continuous actor ---
class Actor(nn.Module):
    """Squashed Gaussian policy: a = scale · tanh(u) + bias, u ~ N(mean(s), std(s))."""

    def __init__(self, envs: gym.vector.VectorEnv, hidden: int = 256):
        super().__init__()
        self.action_shape = envs.single_action_space.shape
        act_dim = int(np.prod(self.action_shape))
        self.fc1 = nn.Linear(int(np.prod(envs.single_observation_space.shape)), hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc_mean_logstd = nn.Linear(hidden, 2 * act_dim)  # both heads in one product
        low, high = (torch.as_tensor(x, dtype=torch.float32).flatten() for x in
                     (envs.single_action_space.low, envs.single_action_space.high))  # fmt: skip
        self.register_buffer("action_scale", (high - low) / 2)
        self.register_buffer("action_bias", (high + low) / 2)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation of u, both (B, dim(A)), for observations (B, *obs)."""
        x = self.fc1(obs.flatten(1)).relu_()
        x = self.fc2(x).relu_()
        # products in bfloat16, where they are wanted, end here: the density needs float32
        mean, log_std = self.fc_mean_logstd(x).to(self.action_scale.dtype).chunk(2, dim=1)
        return mean, log_std.clamp(-20, 2)  # differs from CleanRL (tanh to [-5, 2]): as in SAC and Stable-Baselines3

    def get_action(self, obs: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample actions (B, *action) in environment units, with their log-probabilities (B,).

        The density is that of tanh(u) ∈ (−1, 1): the target entropy −dim(A) then means the same in any unit.
        (differs from CleanRL, which takes the density in environment units)

        Args:
            noise: (B, dim(A)) from N(0, I); None: drawn here.
        """
        mean, log_std = self(obs)
        noise = torch.randn_like(mean) if noise is None else noise
        u = mean + log_std.exp() * noise
        # log N(u) − log |d tanh(u)/du|, with log(1 − tanh²u) = 2 (log 2 − u − softplus(−2u)): exact in saturation
        log_prob = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
        log_prob = log_prob - 2 * (np.log(2) - u - F.softplus(-2 * u))
        return self._to_env(u), log_prob.sum(dim=1)

    def get_greedy_action(self, obs: torch.Tensor) -> torch.Tensor:
        """The policy's mode before squashing, (B, *action) in environment units."""
        return self._to_env(self(obs)[0])

    def _to_env(self, u: torch.Tensor) -> torch.Tensor:
        return (self.action_scale * u.tanh() + self.action_bias).unflatten(1, self.action_shape)


# --- end ---


# --- shared: discrete networks ---
class StackedMLP(nn.Module):
    """Several networks of two hidden layers evaluated as one: each layer is one batched product for all of them.

    One-hot observations need no product in the first layer: one_hot(s) W is the row W[s], looked up. An observation of
    k integers is the sum of k rows.
    """

    def __init__(self, envs: gym.vector.VectorEnv, networks: int, outputs: int, hidden: int = 256):
        super().__init__()
        space = envs.single_observation_space
        self.one_hot = isinstance(space, gym.spaces.MultiDiscrete)
        inputs = int(space.nvec.sum()) if self.one_hot else int(np.prod(space.shape))
        if self.one_hot:  # integer j of an observation, counted from its start, has its rows behind those before it
            offsets = np.cumsum(space.nvec) - space.nvec - space.start
            self.register_buffer("offsets", torch.as_tensor(offsets, dtype=torch.int64), persistent=False)
        self.weights = nn.ParameterList(
            [torch.empty(inputs, networks * hidden), torch.empty(networks, hidden, hidden),
             torch.empty(networks, hidden, outputs)]
        )  # fmt: skip
        self.biases = nn.ParameterList(torch.empty(networks, 1, out) for out in (hidden, hidden, outputs))
        for weight, bias, fan_in in zip(self.weights, self.biases, (inputs, hidden, hidden), strict=True):
            for parameter in (weight, bias):
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)  # as torch.nn.Linear initialises both

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Outputs (networks, B, outputs) for observations (B, *obs)."""
        if self.one_hot:
            x = F.embedding_bag(obs + self.offsets, self.weights[0], mode="sum")  # (B, networks · hidden)
        else:
            x = obs.flatten(1) @ self.weights[0]
        x = x.unflatten(1, (len(self.biases[0]), -1)).transpose(0, 1)  # (networks, B, hidden)
        x = (x + self.biases[0]).relu_()
        x = torch.baddbmm(self.biases[1], x, self.weights[1]).relu_()
        return torch.baddbmm(self.biases[2], x, self.weights[2])


class DiscreteSoftQNetwork(StackedMLP):
    """The twin critics Q₁, Q₂ of all actions: observations (B, *obs) → (2, B, |A|)."""

    def __init__(self, envs: gym.vector.VectorEnv):
        super().__init__(envs, networks=2, outputs=int(envs.single_action_space.n))
        self.first_action = int(envs.single_action_space.start)

    def get_greedy_action(self, obs: torch.Tensor) -> torch.Tensor:
        """argmax_a min_i Q_i(s, a), (B,): the mode of the exact improvement's policy at every temperature."""
        return torch.minimum(*self(obs)).argmax(dim=1) + self.first_action


def place_values(space: gym.Space) -> torch.Tensor | None:
    """What each of a MultiDiscrete observation's k integers counts when they are read as one number, (k,) int64.

    None for observations of floats, and where the number would not fit 63 bits.
    """
    if isinstance(space, gym.spaces.Box) or np.prod(space.nvec.astype(float)) >= 2.0**63:
        return None
    return torch.as_tensor(np.cumprod([1, *space.nvec[:0:-1]])[::-1].copy())


class States(NamedTuple):
    """The states of a batch, s = x[rows] and s' = next_x[next_rows]."""

    x: torch.Tensor  # (U, *obs)
    rows: torch.Tensor  # (B,) int64
    next_x: torch.Tensor  # (U', *obs); x itself where both have the same
    next_rows: torch.Tensor  # (B,) int64


def distinct(data: Batch, places: torch.Tensor | None) -> States:
    """Each state of the batch once, s and s' together, with the `place_values` of its integers.

    A batch of a finite task holds few different states: the networks are evaluated once for each. Without `places`
    the observations are left as they are, s' apart from s, since no gradient is needed there.
    """
    if places is None:
        rows = torch.arange(len(data.rows), device=data.rows.device)
        return States(data.observations, rows, data.next_observations, rows)
    obs = torch.cat([data.observations, data.next_observations])
    numbers, index = (obs * places).sum(dim=1).unique(return_inverse=True)
    x = obs.new_empty((len(numbers), *obs.shape[1:]))
    x[index] = obs
    rows, next_rows = index.chunk(2)
    return States(x, rows, x, next_rows)


# --- end ---


# --- shared: continuous soft value ---
def soft_value(q: torch.Tensor, log_pi: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """V(s) = min_i Q_i(s, a~) − α log π(a~|s) for a~ ~ π (paper, Eq. 6): (2, B), (B,), () → (B,)."""
    return torch.minimum(*q) - alpha * log_pi


# --- end ---


# --- shared: discrete soft value ---
def expected_soft_value(q: torch.Tensor, log_pi: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """V(s) = Σ_a π(a|s) [min_i Q_i(s, a) − α log π(a|s)], exact: (2, B, |A|), (B, |A|), () → (B,)."""
    return (log_pi.exp() * (torch.minimum(*q) - alpha * log_pi)).sum(dim=1)


def improved_policy(q: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """log π(·|s) of π ∝ exp(min_i Q_i / α): (2, B, |A|), () → (B, |A|).

    The minimiser of the actor's loss (paper, Eq. 9) and of Lemma 2's projection, which finite actions have in closed
    form. A softmax actor that follows the gradient saturates at a small α on an early mistake and stays there.
    """
    return (torch.minimum(*q) / alpha).log_softmax(dim=1)


# --- end ---


# --- shared: losses ---
def td_target(data: Batch, next_values: torch.Tensor, gamma: float) -> torch.Tensor:
    """y = r + γ (1 − terminated) V(s') (paper, Eq. 8), (B,). A truncated episode goes on: it bootstraps."""
    return data.rewards + gamma * (1 - data.terminations) * next_values


def critic_losses(q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """E[(Q_i(s, a) − y)²] of each critic (paper, Eq. 7): (2, B), (B,) → (2,)."""
    return (q - target).square().mean(dim=1)


# --- end ---


# --- shared: gradients ---
Gradients = tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]
"""Gradients of an optimiser's parameters, and what to log of the losses."""

# --- end ---


# --- shared: optimiser step ---
def parameters_of(optimizer: optim.Optimizer) -> list[torch.Tensor]:
    """The parameters of all its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def take_step(optimizer: optim.Optimizer, gradients: tuple[torch.Tensor, ...]) -> None:
    """One step with these gradients of the optimiser's parameters."""
    for parameter, gradient in zip(parameters_of(optimizer), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


# --- end ---


# --- shared: minimise ---
def minimise(loss: torch.Tensor, optimizer: optim.Optimizer) -> None:
    """One step on the loss, with gradients for the optimiser's parameters and none for what lies between."""
    take_step(optimizer, torch.autograd.grad(loss, parameters_of(optimizer)))


# --- end ---


# --- shared: parts of a bonus ---
class RunningMeanStd:
    """Mean and standard deviation of all samples so far, as tensors of a sample's shape.

    They begin with one sample of zeros (differs from CleanRL: variance 1 at weight 1e-4), so that the first real one
    already has a deviation of its own size, whatever its unit.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self.count = 1
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros(shape, dtype=torch.float64, device=device)  # Σ (x − mean)²

    def update(self, samples: torch.Tensor) -> None:
        """Take in samples (n, *shape) by the pairwise rule of Chan, Golub and LeVeque (1979)."""
        n, mean = len(samples), samples.double().mean(0)
        delta, total = mean - self.mean, self.count + n
        self.squares += (samples - mean).square().sum(0) + delta.square() * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def std(self) -> torch.Tensor:
        return (self.squares / self.count).sqrt().clamp_min(1e-8)


def normalised(data: Batch, stats: RunningMeanStd) -> Batch:
    """The batch as the bonus sees it: numbers in units of their deviation, clipped to ±5 (Burda et al. 2018, 2.4).

    Integers stay as they are: the networks read them as one-hot vectors.
    """
    if not data.observations.is_floating_point():
        return data
    mean, std = stats.mean.float(), stats.std.float()
    both = torch.stack([data.observations, data.next_observations])  # (2, B, *obs)
    obs, next_obs = ((both - mean) / std).clamp_(-5, 5)
    return data._replace(observations=obs, next_observations=next_obs)


class FeatureNetwork(StackedMLP):
    """Features (B, 64) of observations (B, *obs), smaller than SAC's networks so that a bonus costs less than SAC."""

    def __init__(self, envs: gym.vector.VectorEnv):
        super().__init__(envs, networks=1, outputs=64, hidden=128)
        # As CleanRL's RND. With StackedMLP's initialisation the features of 500 one-hot states would be nearly the
        # same: variance between states would be about 0.5 % of their mean square, here it is about half.
        for weight in self.weights:
            nn.init.orthogonal_(weight.view(-1, weight.shape[-1]), 2**0.5)
        for bias in self.biases:
            nn.init.zeros_(bias)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return super().forward(obs)[0]


# --- end ---


# --- shared: inverse dynamics ---
class InverseDynamics(nn.Module):
    """Features φ from which the action between two states can be told, and the inverse model that tells it.

    They hold what the actions change, and not what changes by itself (Pathak et al. 2017, section 2.2).
    """

    def __init__(self, envs: gym.vector.VectorEnv):
        super().__init__()
        self.action_space = envs.single_action_space
        self.discrete = isinstance(self.action_space, gym.spaces.Discrete)
        self.action_dim = int(self.action_space.n if self.discrete else np.prod(self.action_space.shape))
        self.phi = FeatureNetwork(envs)
        self.inverse = nn.Sequential(nn.Linear(2 * 64, 128), nn.ReLU(), nn.Linear(128, self.action_dim))

    def features(self, data: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """φ(s) and φ(s'), (B, 64) both."""
        return self.phi(torch.cat([data.observations, data.next_observations])).chunk(2)

    def vectors(self, actions: torch.Tensor) -> torch.Tensor:
        """Discrete actions (B,) as one-hot vectors (B, |A|), continuous ones in [−1, 1] (B, dim(A))."""
        space = self.action_space
        if self.discrete:
            return F.one_hot(actions - int(space.start), self.action_dim).float()
        low, high = (actions.new_tensor(bound) for bound in (space.low, space.high))
        width = torch.where(high > low, high - low, 1)  # a coordinate that cannot move is 0
        return ((2 * actions - low - high) / width).flatten(1)

    def inverse_loss(self, phi: torch.Tensor, next_phi: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the discrete action, mean squared error of the continuous one, for `vectors` of actions."""
        predicted = self.inverse(torch.cat([phi, next_phi], dim=1))  # (B, |A|) or (B, dim(A)), as the actions
        return F.cross_entropy(predicted, actions) if self.discrete else F.mse_loss(predicted, actions)


# --- end ---


class ICM(InverseDynamics):
    """A forward model predicts the features of s' from those of s and the action: where it fails, there is news."""

    def __init__(self, envs: gym.vector.VectorEnv, beta: float):
        super().__init__(envs)
        self.beta = beta
        self.dynamics = nn.Sequential(nn.Linear(64 + self.action_dim, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, data: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The loss (), the bonuses (B,) and what to log.

        r_int = η/2 ‖φ̂(s') − φ(s')‖² of a sampled batch, from the networks as they are now: the value at the
        transition's own time would be stale, since the bonus falls while the transition waits in the buffer. η is 1,
        as r_int / σ(r_int) does not depend on it.
        """
        (phi, next_phi), actions = self.features(data), self.vectors(data.actions)
        r_int = 0.5 * (self.dynamics(torch.cat([phi, actions], dim=1)) - next_phi).square().sum(dim=1)
        fwd_loss, inv_loss = r_int.mean(), self.inverse_loss(phi, next_phi, actions)
        # φ learns from both losses (Pathak et al. 2017, Eq. 7): the inverse one keeps it from collapsing
        loss = (1 - self.beta) * inv_loss + self.beta * fwd_loss
        return loss, r_int.detach(), {"fwd_loss": fwd_loss.detach(), "inv_loss": inv_loss.detach()}

    @torch.no_grad()
    def score(self, new: Batch) -> torch.Tensor:
        """The bonuses (N,) of transitions."""
        return self(new)[1]


# --- shared: evaluation ---
def check_time_limit(env: gym.Env) -> None:
    """Raise ValueError where an episode need not end: a greedy policy that goes in circles would never return."""
    if env.spec.max_episode_steps is None:
        raise ValueError(
            f"{env.spec.id} has no time limit, so an evaluation may never end: give --max-episode-steps, or to "
            "`evaluate` a make_env with max_episode_steps bound"
        )


def greedy_returns(envs: list[gym.Env], policy: Callable[[np.ndarray], np.ndarray], seed: int) -> list[float]:
    """Undiscounted return of one episode in each environment, the i-th from seed + i: equal starts every time.

    Args:
        envs: the environments; only those still running are stepped.
        policy: maps observations (n, *obs) to actions (n, *action).
    """
    obs = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
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
        make_env: this script's `make_env`, with `env_kwargs` and `max_episode_steps` bound by functools.partial where
            the run had any.
        Model: the actor's class.
    """
    envs = [make_env(env_id, 0, i, capture_video, run_name)() for i in range(eval_episodes)]
    check_time_limit(envs[0])
    dtype = storage_dtype(envs[0].observation_space)
    actor = Model(gym.vector.SyncVectorEnv([lambda: envs[0]])).to(device)
    actor.load_state_dict(torch.load(model_path, map_location=device, weights_only=True)[0])

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        return actor.get_greedy_action(torch.as_tensor(obs, dtype=dtype, device=device)).cpu().numpy()

    returns = greedy_returns(envs, policy, seed=0)
    for env in envs:
        env.close()
    return returns


# --- end ---

if __name__ == "__main__":
    # --- shared: arguments ---
    with one_line_errors():
        args, sources = parse_args()
        check_args(args)
    # --- end ---

    with one_line_errors():
        check_bonus_args(args)

    # --- shared: setup ---
    with one_line_errors():
        if args.track:
            import wandb
        make_run_env = partial(
            make_env, env_kwargs=parse_env_kwargs(args.env_kwargs), max_episode_steps=args.max_episode_steps
        )
        run_name = f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}"

        def extra_env(render_mode: str | None) -> gym.Env:
            """An environment beside training, for replays, auditions and rendering trials."""
            return make_run_env(args.env_id, args.seed, 0, False, run_name, render_mode=render_mode)()

        if args.capture_video:
            from llm_supervisor import open_rendered, own_opengl_context  # here: the baselines run without the helper

            trial, reason = open_rendered(extra_env)
            if trial is None:
                print(f"no videos: {reason}")
                args.capture_video = False
            else:
                trial.close()

        random.seed(args.seed)
        np.random.seed(args.seed)
        torch.manual_seed(args.seed)
        torch.backends.cudnn.deterministic = args.torch_deterministic
        device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")

        # SAME_STEP: the step that ends an episode also resets it, so that every stored transition is a real one
        envs = gym.vector.SyncVectorEnv(
            [make_run_env(args.env_id, args.seed + i, i, args.capture_video, run_name) for i in range(args.num_envs)],
            autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
        )
        envs.action_space.seed(args.seed)
        if args.capture_video:
            own_opengl_context(envs.envs[0])
        eval_envs = [
            make_run_env(args.env_id, args.seed, i, False, run_name)()
            for i in range(args.eval_episodes if args.eval_frequency else 0)
        ]
        check_spaces(envs.envs[0])
        if eval_envs:
            check_time_limit(eval_envs[0])
    # --- end ---

    # --- shared: soft actor-critic ---
    with one_line_errors():
        discrete = isinstance(envs.single_action_space, gym.spaces.Discrete)
        if discrete and args.alpha == 0:
            raise ValueError("--alpha is the temperature of the policy softmax(min Q / α): it must be above 0")
        if discrete and (args.compile or args.precision != "fp32"):
            raise ValueError("--compile and --precision bf16 are for continuous actions only")

    # All of SAC as guided_sac_discrete.py and guided_sac_continuous.py have it, to the bit
    if discrete:
        qf, qf_target = DiscreteSoftQNetwork(envs).to(device), DiscreteSoftQNetwork(envs).to(device)
        modules, actor_groups = [qf], []  # saved; the first one holds the policy, which has no network of its own
        target_entropy = args.target_entropy_scale * float(np.log(envs.single_action_space.n))
        first_action = int(envs.single_action_space.start)
        places = place_values(envs.single_observation_space)
        places = None if places is None else places.to(device)
    else:
        actor = Actor(envs).to(device)
        qf, qf_target = SoftQNetwork(envs).to(device), SoftQNetwork(envs).to(device)
        modules, actor_groups = [actor, qf], [{"params": [*actor.parameters()]}]
        target_entropy = -float(np.prod(envs.single_action_space.shape))  # −dim(A)
    qf_target.load_state_dict(qf.state_dict())
    online, targets = [*qf.parameters()], [*qf_target.parameters()]
    log_alpha = torch.tensor(args.alpha, device=device).log().requires_grad_(args.autotune)
    if args.autotune:
        actor_groups.append({"params": [log_alpha], "lr": args.alpha_lr})
    q_optimizer = optim.Adam(online, lr=args.q_lr, fused=True)
    actor_optimizer = optim.Adam(actor_groups, lr=args.policy_lr, fused=True) if actor_groups else None
    if not discrete:
        act_dim, actor_parameters = len(actor.action_scale), parameters_of(actor_optimizer)

    @torch.no_grad()
    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions (N, *action) of the policy π_θ for observations (N, *obs); discrete ones (N,) int64."""
        x = torch.as_tensor(obs, dtype=storage_dtype(envs.single_observation_space), device=device)
        if not discrete:
            return (actor.get_greedy_action(x) if deterministic else actor.get_action(x)[0]).cpu().numpy()
        log_pi = improved_policy(qf(x), log_alpha.exp())
        indices = log_pi.argmax(dim=1) if deterministic else log_pi.exp().multinomial(1).squeeze(1)
        return (indices + first_action).cpu().numpy()

    def update_discrete(data: Batch) -> dict[str, torch.Tensor]:
        """One step on J_Q and, every `policy_frequency` updates, as many on α."""
        x, s, next_x, next_s = distinct(data, places)
        q, alpha = qf(x), log_alpha.detach().exp()  # (2, U, |A|)
        log_pi = improved_policy(q.detach(), alpha)  # (U, |A|): one policy for both steps
        with torch.no_grad():
            next_log_pi = log_pi if next_x is x else improved_policy(qf(next_x), alpha)  # (U', |A|)
            next_values = expected_soft_value(qf_target(next_x), next_log_pi, alpha)[next_s]
            target = td_target(data, next_values, args.gamma)
        q = q[:, s, data.actions - first_action]  # (2, B)
        losses = critic_losses(q, target)  # (2,)
        minimise(losses.sum(), q_optimizer)
        logs = {"q": q.detach(), "qf_losses": losses.detach()}
        for i in range(args.policy_frequency if args.autotune and iteration % args.policy_frequency == 0 else 0):
            if i > 0:
                with torch.no_grad():
                    log_pi = improved_policy(qf(x), log_alpha.exp())
            entropy = -(log_pi.exp() * log_pi).sum(dim=1)[s].mean()
            alpha_loss = log_alpha.exp() * (entropy - target_entropy)
            minimise(alpha_loss, actor_optimizer)
            logs["alpha_loss"] = alpha_loss.detach()
        return logs

    # --- end ---

    # --- shared: speed ---
    # a decorator of all that leads to a gradient: it casts each weight once per call, and must not outlive the step
    mixed_precision = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")
    # forward and backward pass in one graph: in two, compilation brings next to nothing. Noise is an argument, because
    # random numbers drawn in compiled code are others. Autocast is the outer decorator: were it compiled too, networks
    # would be looked up by module name, and a second run in one process would find those of the first
    torch._dynamo.config.trace_autograd_ops = args.compile
    compiled = partial(torch.compile, dynamic=False, fullgraph=True, disable=not args.compile)
    # --- end ---

    # --- shared: critic gradients ---
    @mixed_precision
    @compiled
    def critic_gradients(data: Batch, noise: torch.Tensor) -> Gradients:
        """∇(J_Q₁ + J_Q₂), given the noise (2, B, dim(A)) of a~ for s and for s'."""
        with torch.no_grad():
            next_pi, next_log_pi = actor.get_action(data.next_observations, noise[1])
            next_values = soft_value(qf_target(data.next_observations, next_pi), next_log_pi, log_alpha.exp())
            target = td_target(data, next_values, args.gamma)
        q = qf(data.observations, data.actions)  # (2, B)
        losses = critic_losses(q, target)  # (2,)
        return torch.autograd.grad(losses.sum(), online), {"q": q.detach(), "qf_losses": losses.detach()}

    # --- end ---

    # --- shared: actor gradients ---
    @mixed_precision
    @compiled
    def actor_gradients(data: Batch, noise: torch.Tensor) -> Gradients:
        """∇J_π and that of α's loss, given the noise (B, dim(A)) of a~ for s."""
        pi, log_pi = actor.get_action(data.observations, noise)  # (B, *action), (B,)
        # J_π = E[α log π(a~|s) − min_i Q_i(s, a~)] (paper, Eq. 9)
        loss = -soft_value(qf(data.observations, pi), log_pi, log_alpha.detach().exp()).mean()
        logs = {"actor_loss": loss.detach()}
        if args.autotune:  # J_π does not depend on log α, nor this loss on θ: one backward pass serves both
            alpha_loss = -log_alpha.exp() * (log_pi.detach() + target_entropy).mean()
            loss, logs["alpha_loss"] = loss + alpha_loss, alpha_loss.detach()
        return torch.autograd.grad(loss, actor_parameters), logs

    # --- end ---

    # --- shared: continuous update ---
    def update_continuous(data: Batch) -> dict[str, torch.Tensor]:
        """One step on J_Q and, every `policy_frequency` updates, as many on J_π and α."""
        noise = torch.randn(2, len(data.rows), act_dim, device=device)
        gradients, logs = critic_gradients(data, noise)
        take_step(q_optimizer, gradients)
        # a delay of k updates is made up for by k steps at once, as in CleanRL, each with noise of its own
        for i in range(args.policy_frequency if iteration % args.policy_frequency == 0 else 0):
            gradients, actor_logs = actor_gradients(data, noise[0] if i == 0 else torch.randn_like(noise[0]))
            take_step(actor_optimizer, gradients)
            logs |= actor_logs
        return logs

    # --- end ---

    # --- shared: compilation ---
    if args.compile:
        # the first call compiles: with zeros and without a step, before the log and the clock are started and after a
        # supervisor has taken the key out of the environment, which the compiler's processes inherit
        print("compiling …", flush=True)
        shapes = [envs.single_observation_space.shape] * 2 + [envs.single_action_space.shape, (), ()]
        zeros = [torch.zeros(args.batch_size, *shape, device=device) for shape in shapes]
        data = Batch(*zeros, rows=torch.zeros(args.batch_size, dtype=torch.int64, device=device))
        noise = torch.zeros(2, args.batch_size, act_dim, device=device)
        with one_line_errors():
            try:
                critic_gradients(data, noise)
                actor_gradients(data, noise[0])
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"--compile failed: {reason}; it needs a C++ compiler such as g++") from error
    # --- end ---

    # --- shared: logging ---
    if args.track:
        wandb.init(
            project=args.wandb_project_name, entity=args.wandb_entity, sync_tensorboard=True, config=vars(args),
            name=run_name, monitor_gym=True, save_code=True,
        )  # fmt: skip
    with one_line_errors():
        writer = SummaryWriter(f"runs/{run_name}")
    settings = {**vars(args), "torch_num_threads": torch.get_num_threads(), "device": str(device)}
    rows = "\n".join(f"|{k}|{v}|{sources.get(k, 'machine')}|" for k, v in settings.items())
    writer.add_text("hyperparameters", f"|param|value|source|\n|-|-|-|\n{rows}")
    for source in sorted(set(sources.values())):
        print(f"{source:>12}: " + " ".join(f"{k}={v}" for k, v in settings.items() if sources.get(k) == source))
    print(f"{'machine':>12}: {device} with {torch.get_num_threads()} threads, logging to runs/{run_name}", flush=True)
    # --- end ---

    # --- shared: start ---
    rb = ReplayBuffer(args.buffer_size, envs, device)
    obs, _ = envs.reset(seed=args.seed)
    rb.reset(obs)
    recent_returns, evaluations, logs = deque(maxlen=20), [], {}
    global_step, iteration = 0, 0

    def evaluate_greedy() -> None:
        """Log the greedy return of the unguided policy, from the same starts every time: this seed's own."""
        returns = greedy_returns(eval_envs, partial(act, deterministic=True), seed=(args.seed + 1) * 1_000_000)
        evaluations.append(np.mean(returns))
        writer.add_scalar("eval/episodic_return", evaluations[-1], global_step)
        print(f"step {global_step:,}: greedy return {np.mean(returns):.2f} ± {np.std(returns):.2f}", flush=True)

    if args.eval_frequency:
        evaluate_greedy()
    start_time = last_print = time.time()
    # --- end ---

    # --- shared: replay video ---
    if args.replay_frequency:
        with one_line_errors():
            from llm_supervisor import open_rendered, record_replay, save_video  # here: without videos it is not needed
        replay_env, reason = open_rendered(extra_env)
        if replay_env is None:
            print(f"no replays: {reason}", flush=True)
            args.replay_frequency = 0
    # --- end ---

    # SAC's random numbers must be those of a run without a bonus: --intrinsic-coef 0 is plain SAC to the bit
    with torch.random.fork_rng(devices=[]):
        bonus = ICM(envs, args.beta).to(device)
    # --- shared: statistics ---
    bonus_optimizer = optim.Adam([p for p in bonus.parameters() if p.requires_grad], lr=args.bonus_lr, fused=True)
    obs_stats = RunningMeanStd(envs.single_observation_space.shape, device)
    bonus_stats = RunningMeanStd((), device)
    episode_bonuses = np.zeros(args.num_envs)
    # --- end ---
    while global_step < args.total_timesteps:
        # --- shared: act ---
        random_phase = global_step < args.learning_starts
        actions = envs.action_space.sample() if random_phase else act(obs, deterministic=False)  # (N, *action)
        # --- end ---

        # --- shared: step ---
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        dones = terminations | truncations
        final_obs = next_obs
        if dones.any():
            final_obs = next_obs.copy()
            for i in np.flatnonzero(dones):
                final_obs[i] = infos["final_obs"][i]
                episode = infos["final_info"]["episode"]
                recent_returns.append(float(episode["r"][i]))
                writer.add_scalar("charts/episodic_return", episode["r"][i], global_step + args.num_envs)
                writer.add_scalar("charts/episodic_length", episode["l"][i], global_step + args.num_envs)
        rb.add(actions, rewards, terminations, dones, next_obs, final_obs)
        obs = next_obs
        global_step += args.num_envs
        iteration += 1
        # --- end ---

        # --- shared: bonus of the step ---
        # the statistics change here and nowhere else: once per environment step, by the new transitions
        new = rb.take(torch.arange(rb.last.start, rb.last.stop))
        if new.next_observations.is_floating_point():
            obs_stats.update(new.next_observations)
        r_int = bonus.score(normalised(new, obs_stats))  # (N,)
        bonus_stats.update(r_int)
        episode_bonuses += r_int.cpu().numpy()
        for i in np.flatnonzero(dones):
            writer.add_scalar("charts/episode_curiosity_reward", episode_bonuses[i], global_step)
            episode_bonuses[i] = 0
        # --- end ---
        if global_step > args.learning_starts:
            # --- shared: learn ---
            data = rb.sample(args.batch_size)
            loss, r_int, bonus_logs = bonus(normalised(data, obs_stats))
            minimise(loss, bonus_optimizer)  # the bonus's networks only; SAC gets r_int, a number without gradient
            data = data._replace(rewards=data.rewards + args.intrinsic_coef * r_int / bonus_stats.std)  # (B,)
            logs |= bonus_logs | (update_discrete(data) if discrete else update_continuous(data))
            # --- end ---
            # --- shared: targets and losses ---
            if iteration % args.target_network_frequency == 0:
                # Polyak averaging: lerp(φ̄, φ, τ) = (1 − τ) φ̄ + τ φ
                with torch.no_grad():
                    torch._foreach_lerp_(targets, online, args.tau)
            if iteration % 100 == 0:
                (qf1_value, qf2_value), (qf1_loss, qf2_loss) = logs["q"].mean(1).tolist(), logs["qf_losses"].tolist()
                scalars = {
                    "losses/qf1_values": qf1_value, "losses/qf2_values": qf2_value, "losses/qf1_loss": qf1_loss,
                    "losses/qf2_loss": qf2_loss, "losses/qf_loss": (qf1_loss + qf2_loss) / 2,
                    "losses/alpha": log_alpha.exp().item(),
                }  # fmt: skip
                scalars |= {f"losses/{name}": value.item() for name, value in logs.items() if value.dim() == 0}
                for tag, value in scalars.items():
                    writer.add_scalar(tag, value, global_step)
                writer.add_scalar("charts/SPS", int(global_step / (time.time() - start_time)), global_step)
            # --- end ---

        # --- shared: replay ---
        if args.replay_frequency and global_step % args.replay_frequency < args.num_envs:
            seed = args.seed + global_step
            replay = record_replay(replay_env, act, episodes=1, max_steps=1_000, seed=seed, frames=16)
            save_video(replay, replay_env, f"runs/{run_name}", "eval/replay", global_step, writer)
        # --- end ---

        # --- shared: evaluate ---
        last_step = global_step >= args.total_timesteps
        if args.eval_frequency and (global_step % args.eval_frequency < args.num_envs or last_step):
            evaluate_greedy()
        if time.time() - last_print > 5 or last_step:
            last_print = time.time()
            sps = global_step / (last_print - start_time)
            left = timedelta(seconds=int((args.total_timesteps - global_step) / sps))
            mean = f"{np.mean(recent_returns):.1f}" if recent_returns else "-"
            progress = f"step {global_step:,}/{args.total_timesteps:,}  {sps:,.0f} steps/s  {left} left"
            print(f"{progress}  return {mean}", flush=True)
        # --- end ---

    # --- shared: close the replay ---
    if args.replay_frequency:
        replay_env.close()
    # --- end ---
    # --- shared: finish ---
    if args.save_model:
        model_path = f"runs/{run_name}/{args.exp_name}.cleanrl_model"
        torch.save(tuple(m.state_dict() for m in modules), model_path + ".part")
        os.replace(model_path + ".part", model_path)
        print(f"model saved to {model_path}")
    for env in [*eval_envs, envs]:
        env.close()
    writer.close()
    if evaluations:
        print(f"greedy return without guidance: {evaluations[0]:.2f} before training, {evaluations[-1]:.2f} after")
    print(f"logs are in runs/{run_name}; see them with: tensorboard --logdir runs")
    # --- end ---
