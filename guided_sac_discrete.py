"""GuidedSAC for discrete actions: Soft Actor-Critic in whose place an LLM-written rule acts for a while.

Paper: "Efficient Soft Actor-Critic with LLM-Based Action-Level Guidance for Continuous Control".
Docs:  docs/guided_sac_discrete.md
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
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import tyro
from torch.utils.tensorboard import SummaryWriter

from llm_supervisor import PolicyError, Supervisor, SupervisorArgs


@dataclass
class Args(SupervisorArgs):
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

    env_id: str = "CliffWalking-v1"
    """the environment's Gymnasium id"""
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

    # --- shared: value network flag ---
    value_network: bool = False
    """learn a state-value network and bootstrap from its target (paper, Eq. 6-8; SAC of 2018)"""
    # --- end ---

    # --- shared: guidance flags ---
    guide_start: int = 0
    """environment step of the first consultation"""
    guide_end: int = 10_000
    """environment step at which all guidance is off (paper, C.1 "End Step")"""
    guide_window: int = 1_000
    """environment steps between two consultations, for which a decision holds (paper, C.1 "Guided Window")"""
    # --- end ---

    # --- shared: discrete flags ---
    target_entropy_scale: float = 0.89
    """of discrete actions, with `--autotune`: the target of the entropy as a share of its largest value log|A|"""
    # --- end ---

    guide_probability: float = 1.0
    """probability that the rule acts at a guided step; below 1 the learner's own mistakes enter the buffer"""
    guide_conservatism: float = 1.0
    """weight of the conservative term on guided transitions (see `conservative_losses`); 0 = off"""
    exact_improvement: bool = True
    """policy in closed form, π = softmax(min Q / α); off: an actor network trained by gradient, as in the paper"""
    paper: bool = False
    """the method as the paper prints it: `PAPER_SETTINGS` are in force"""


# The paper's settings (table in C.1) are that environment's defaults; a flag on the command line still wins.
# The replays' and auditions' lengths are not the paper's: where a task is random, one episode says nothing.
ENV_DEFAULTS = {
    "Blackjack-v1": dict(
        guide_window=2_000, guide_end=5_000, batch_size=256, gamma=0.5, tau=0.005, autotune=True, learning_starts=1_000,
        max_episode_steps=100,  # never reached: a hand ends before
        replay_episodes=500, replay_max_steps=2_000, audition_episodes=50, audition_max_steps=3_000,
    ),
    "CliffWalking-v1": dict(
        guide_window=2_000, guide_end=10_000, batch_size=1_024, gamma=0.99, tau=0.005, autotune=False, alpha=0.01,
        learning_starts=0,
        max_episode_steps=200,  # without a limit an unguided run never ends an episode
    ),
    "FrozenLake-v1": dict(
        guide_window=100, guide_end=5_000, batch_size=64, gamma=0.99, tau=0.005, autotune=False, alpha=0.01,
        learning_starts=0,
        replay_episodes=10, replay_max_steps=1_000, audition_episodes=5, audition_max_steps=1_000,
    ),
    "Taxi-v4": dict(
        guide_window=2_000, guide_end=5_000, batch_size=256, gamma=0.99, tau=0.005, autotune=False, alpha=0.01,
        learning_starts=0,
        replay_episodes=50, replay_max_steps=10_000,
    ),
}  # fmt: skip

# Eq. 6-9 as printed: a state-value network, an actor trained by gradient, direct substitution at every guided step, by
# the coder's rule as it comes.
PAPER_SETTINGS = dict(
    value_network=True, exact_improvement=False, guide_probability=1.0, guide_conservatism=0.0, audition_episodes=0
)


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


def apply_paper(args: Args, sources: dict[str, str]) -> None:
    """Put the paper's settings in force with `--paper`; check this script's own numbers.

    Raises:
        ValueError: the command line gives one of `PAPER_SETTINGS` another value, or a number is out of its range.
    """
    if args.paper:
        asked = tyro.cli(Args, default=replace(args, **PAPER_SETTINGS))  # what differs was asked for
        for name, value in PAPER_SETTINGS.items():
            if getattr(asked, name) != value:
                raise ValueError(f"--paper means --{name.replace('_', '-')} {value}: give one or the other")
            setattr(args, name, value)
            sources[name] = "paper"
    check_ranges(args, {"guide_probability": (0, 1), "target_entropy_scale": (0, 1), "guide_conservatism": (0, np.inf)})
    if args.exact_improvement and args.alpha == 0:
        raise ValueError("--alpha is the temperature of the exact improvement: it must be above 0")


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


def check_spaces(env: gym.Env) -> None:
    """Raise ValueError unless the actions are Discrete and the observations a Box or integers."""
    if isinstance(env.action_space, gym.spaces.Box):
        raise ValueError(f"{env.spec.id} has continuous actions {env.action_space}: use guided_sac_continuous.py")
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise ValueError(f"the action space must be Discrete, that of {env.spec.id} is {env.action_space}")
    if not isinstance(env.observation_space, gym.spaces.Box | gym.spaces.MultiDiscrete):
        raise ValueError(
            "the observation space must be a Box, a Discrete, a MultiDiscrete or a Tuple of Discrete, that of "
            f"{env.spec.id} is {env.observation_space}"
        )


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


class ValueNetwork(StackedMLP):
    """The state value V(s) of the paper's Eq. 6 (only with `--value-network`)."""

    def __init__(self, envs: gym.vector.VectorEnv):
        super().__init__(envs, networks=1, outputs=1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Values (B,) of observations (B, *obs)."""
        return super().forward(obs).flatten()


class Actor(StackedMLP):
    """Categorical policy π_θ(·|s), the softmax of a network's outputs (only without `--exact-improvement`)."""

    def __init__(self, envs: gym.vector.VectorEnv):
        super().__init__(envs, networks=1, outputs=int(envs.single_action_space.n))
        self.first_action = int(envs.single_action_space.start)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, |A|) of all actions for observations (B, *obs)."""
        return super().forward(obs)[0].log_softmax(dim=1)

    def get_greedy_action(self, obs: torch.Tensor) -> torch.Tensor:
        """The most probable action, (B,)."""
        return self(obs).argmax(dim=1) + self.first_action


def intervene(actions: np.ndarray, guidance: np.ndarray, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Direct substitution: a = a_g with the given probability, else a_rl.

    Args:
        actions, guidance: (N,) int64, the learner's and the rule's.

    Returns:
        The actions (N,) to execute, and where (N,) they are the rule's. Drawn with torch's random numbers.
    """
    guided = torch.rand(len(actions)).numpy() < probability
    return np.where(guided, guidance, actions), guided


def conservative_losses(q: torch.Tensor, actions: torch.Tensor, guided: torch.Tensor) -> torch.Tensor:
    """E[1_guided (log Σ_b exp Q_i(s, b) − Q_i(s, a))] of each critic: (2, B, |A|), (B,), (B,) → (2,).

    Under substitution the buffer holds no action but the rule's, and the others keep whatever value the network
    generalises to them, +20 for a drop-off anywhere in Taxi. CQL's regulariser (Kumar et al. 2020, Eq. 4) keeps what
    was never tried below what the rule did; here on guided transitions only, so that it fades as they become few.
    """
    gap = q.logsumexp(dim=2) - q.gather(2, actions.expand(2, -1)[..., None]).squeeze(2)  # (2, B)
    return (gap * guided).mean(dim=1)


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
        apply_paper(args, sources)

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

    qf, qf_target = DiscreteSoftQNetwork(envs).to(device), DiscreteSoftQNetwork(envs).to(device)
    qf_target.load_state_dict(qf.state_dict())
    modules = [qf]  # saved; the first one holds the policy
    critic_parameters = [*qf.parameters()]
    online, targets = [*qf.parameters()], [*qf_target.parameters()]
    if args.value_network:
        vf, vf_target = ValueNetwork(envs).to(device), ValueNetwork(envs).to(device)
        vf_target.load_state_dict(vf.state_dict())
        modules = [qf, vf]
        critic_parameters += vf.parameters()
        online, targets = [*vf.parameters()], [*vf_target.parameters()]  # V̄ takes the place of the target critics
    log_alpha = torch.tensor(args.alpha, device=device).log().requires_grad_(args.autotune)
    actor_groups = []
    if not args.exact_improvement:
        actor = Actor(envs).to(device)
        modules = [actor, *modules]
        actor_groups.append({"params": [*actor.parameters()]})
    if args.autotune:
        actor_groups.append({"params": [log_alpha], "lr": args.alpha_lr})
    q_optimizer = optim.Adam(critic_parameters, lr=args.q_lr, fused=True)
    actor_optimizer = optim.Adam(actor_groups, lr=args.policy_lr, fused=True) if actor_groups else None
    obs_dtype, places = storage_dtype(envs.single_observation_space), place_values(envs.single_observation_space)
    places = None if places is None else places.to(device)
    target_entropy = args.target_entropy_scale * float(np.log(envs.single_action_space.n))
    first_action = int(envs.single_action_space.start)

    def log_policy(x: torch.Tensor) -> torch.Tensor:
        """log π_θ(·|s), (B, |A|), of the unguided policy for observations (B, *obs)."""
        return improved_policy(qf(x), log_alpha.detach().exp()) if args.exact_improvement else actor(x)

    @torch.no_grad()
    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions (N,) int64 of the unguided policy π_θ for observations (N, *obs)."""
        log_pi = log_policy(torch.as_tensor(obs, dtype=obs_dtype, device=device))
        indices = log_pi.argmax(dim=1) if deterministic else log_pi.exp().multinomial(1).squeeze(1)
        return (indices + first_action).cpu().numpy()

    def update_critic(data: Batch, states: States, q: torch.Tensor, log_pi: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step on J_Q (and J_V).

        Args:
            q: (2, U, |A|), the critics' values for states.x, with gradients. log_pi: (U, |A|), of the policy for it.
        """
        x, s, next_x, next_s = states
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            if args.value_network:
                next_values, v_target = vf_target(next_x), expected_soft_value(q, log_pi, alpha)
            else:
                next_log_pi = log_pi if next_x is x else log_policy(next_x)
                next_values = expected_soft_value(qf_target(next_x), next_log_pi, alpha)
            target = td_target(data, next_values[next_s], args.gamma)
        actions = data.actions - first_action
        q_taken = q[:, s, actions]  # (2, B)
        losses = critic_losses(q_taken, target)  # (2,)
        loss, logs = losses.sum(), {"q": q_taken.detach(), "qf_losses": losses.detach()}
        if args.guide_conservatism and supervisor.mode != "none":
            conservative_loss = conservative_losses(q[:, s], actions, guided_rows[data.rows]).sum()
            loss = loss + args.guide_conservatism * conservative_loss
            logs["conservative_loss"] = conservative_loss.detach()
        if args.value_network:
            vf_loss = 0.5 * F.mse_loss(vf(x)[s], v_target[s])  # J_V (paper, Eq. 6)
            loss, logs["vf_loss"] = loss + vf_loss, vf_loss.detach()
        minimise(loss, q_optimizer)
        return logs

    def update_actor(x: torch.Tensor, s: torch.Tensor, log_pi: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step on J_π and on α for the states x[s], given log_pi (U, |A|) for x, with gradients where they exist.

        With the exact improvement only α is left to learn.
        """
        loss, logs = torch.zeros((), device=device), {}
        if not args.exact_improvement:
            with torch.no_grad():
                q = qf(x)
            # J_π = E[Σ_a π(a|s) (α log π(a|s) − min_i Q_i(s, a))] (paper, Eq. 9)
            loss = -expected_soft_value(q, log_pi, log_alpha.detach().exp())[s].mean()
            logs["actor_loss"] = loss.detach()
        if args.autotune:
            entropy = -(log_pi.exp() * log_pi).sum(dim=1)[s].mean().detach()
            alpha_loss = log_alpha.exp() * (entropy - target_entropy)
            loss, logs["alpha_loss"] = loss + alpha_loss, alpha_loss.detach()
        minimise(loss, actor_optimizer)
        return logs

    # --- supervision ---
    with one_line_errors():
        supervisor = Supervisor(
            args,
            env_fn=extra_env,
            act=act,
            intervene=lambda actions, guidance: intervene(actions, guidance, args.guide_probability)[0],
            run_dir=f"runs/{run_name}",
            env_kwargs_given=sources["env_kwargs"] == "command line",
        )
        supervisor.prepare()
    guidance = None
    next_consultation = args.guide_start
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
    print(f"{'supervisor':>12}: {supervisor.description}", flush=True)

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
    episode_steps = np.zeros(args.num_envs, dtype=np.int64)
    guided_rows = torch.zeros(rb.size, dtype=torch.bool, device=device)  # transitions on which the rule acted
    while global_step < args.total_timesteps:
        # --- supervision ---
        if global_step >= next_consultation or supervisor.waiting:
            # the advisor's decision holds for a whole window, w = 1 (guidance) or w = 0 (None); after guide_end w = 0
            if global_step < args.guide_end:
                guidance = supervisor.consult(global_step, list(recent_returns), writer)
                next_consultation = min(global_step + args.guide_window, args.guide_end)
            else:
                supervisor.end(global_step, writer)
                guidance, next_consultation = None, np.inf
        # --- end ---

        # --- shared: act ---
        random_phase = global_step < args.learning_starts
        actions = envs.action_space.sample() if random_phase else act(obs, deterministic=False)  # (N, *action)
        # --- end ---
        # --- supervision ---
        guided = np.zeros(args.num_envs, dtype=bool)
        if guidance is not None:
            try:
                # the executed action is the one that enters the buffer
                actions, guided = intervene(actions, guidance(obs, episode_steps), args.guide_probability)
            except PolicyError as error:  # a failing rule ends the guidance, never the run
                supervisor.report_failure(error, global_step, writer)
                guidance = None
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
        episode_steps = np.where(dones, 0, episode_steps + 1)

        guided_rows[rb.last] = torch.as_tensor(guided)
        if global_step > args.learning_starts:
            data = rb.sample(args.batch_size)
            states = distinct(data, places)
            x, s = states.x, states.rows  # (U, *obs), (B,)
            q = qf(x)  # (2, U, |A|)
            # one policy for both updates: the critics' step leaves π_θ as it is, and the exact one follows at the next
            log_pi = improved_policy(q.detach(), log_alpha.detach().exp()) if args.exact_improvement else actor(x)
            logs |= update_critic(data, states, q, log_pi.detach())
            if actor_optimizer is not None and iteration % args.policy_frequency == 0:
                logs |= update_actor(x, s, log_pi)
                for _ in range(args.policy_frequency - 1):  # make up for the delay, as CleanRL does
                    logs |= update_actor(x, s, log_policy(x))
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

    # --- supervision ---
    supervisor.end(global_step, writer)
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
