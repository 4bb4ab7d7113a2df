"""E3B on SAC: Soft Actor-Critic with Exploration via Elliptical Episodic Bonuses, a baseline of GuidedSAC.

Paper: Henaff, Raileanu, Jiang, Rocktäschel, "Exploration via Elliptical Episodic Bonuses", NeurIPS 2022.
Docs:  docs/e3b_sac.md
"""

import os
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from guided_utils.checkpoint import Checkpoints, claim_run
from guided_utils.console import Progress, end_run, open_log
from guided_utils.environments import (
    EpisodeTape,
    check_spaces,
    clip_action,
    flat,
    integer_observations,
    make,
    not_finite,
    seeds_of,
    tensor_dtype,
)
from guided_utils.evaluation import Evaluator
from guided_utils.interrupts import Interrupts
from guided_utils.memory import check_memory
from guided_utils.optimisation import Adam, Gradients, Logs, affine, compiler, minimise, parameters_of, take_step
from guided_utils.settings import ExperimentArgs, one_line_errors, parse_args, parse_env_kwargs
from guided_utils.statistics import RunningMeanStd


@dataclass
class Args(ExperimentArgs):
    exp_name: str = os.path.basename(__file__)[: -len(".py")]
    """the name of this experiment"""

    # Algorithm specific arguments
    env_id: str = "MountainCarContinuous-v0"
    """the environment's Gymnasium id"""
    env_kwargs: str = "{}"
    """keyword arguments of the environment's constructor, as a JSON object"""
    max_episode_steps: int | None = None
    """time limit of an episode in steps; None: the environment's own"""
    total_timesteps: int = 1_000_000
    """environment steps of the run, all environments together"""
    num_envs: int = 1
    """environments stepped side by side, with one update per step of all of them"""
    buffer_size: int = 1_000_000
    """transitions that the replay buffer holds, ≥ `num_envs`"""
    gamma: float = 0.99
    """discount factor γ, in [0, 1]"""
    tau: float = 0.005
    """soft-update rate τ of the target networks, in (0, 1]"""
    batch_size: int = 256
    """transitions of an update"""
    learning_starts: int = 100
    """environment steps of random actions before the first update (100 as in Stable-Baselines3; CleanRL has 5,000)"""
    policy_lr: float = 3e-4
    """learning rate of the actor (discrete actions have none)"""
    q_lr: float = 3e-4
    """learning rate of the critics; 3e-4 as in Stable-Baselines3, CleanRL has 1e-3"""
    alpha_lr: float = 3e-4
    """learning rate of the temperature"""
    policy_frequency: int = 1
    """the actor is updated every k-th update, k times (CleanRL: 2; the paper, on Stable-Baselines3: 1)"""
    target_network_frequency: int = 1
    """updates between two soft updates of the target networks"""
    alpha: float = 1.0
    """temperature α: the initial one with `--autotune`, else the fixed one"""
    autotune: bool = True
    """learn α so that the policy's entropy stays near a target (`target_entropy`); guided_sac_discrete.py does not"""
    target_entropy_scale: float = 0.89
    """of discrete actions, with `--autotune`: the target of the entropy as a share of its largest value log|A|"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the matrix products while learning continuous actions; weights, targets, losses and acting are float32"""
    compile: bool = False
    """compile acting and updates of continuous actions by torch.compile (needs a C++ compiler; first steps wait)"""
    bonus_lr: float = 3e-4
    """learning rate of the bonus's networks"""
    replay_frequency: int = 0
    """environment steps between videos of a greedy episode (with llm_supervisor.py beside this file); 0 = off"""
    intrinsic_coef: float = 0.01
    """weight of the bonus in SAC's reward r + intrinsic_coef · r_int / σ(r_int); 0 = plain SAC"""
    ridge: float = 0.1
    """λ of C = Σ φφᵀ + λI, ≥ 1e-6 (Henaff et al. 2022: 0.1)"""


# The paper's settings (table in C.1) are that environment's defaults; a flag on the command line still wins.
ENV_DEFAULTS = {
    "Blackjack-v1": dict(
        batch_size=256, gamma=0.5, tau=0.005, autotune=True, alpha=1.0, learning_starts=1_000,
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
# The coefficients are the best of those tried. CliffWalking and Taxi need more in the paper too.
for env_id in ("CliffWalking-v1", "Taxi-v4"):
    ENV_DEFAULTS[env_id]["intrinsic_coef"] = 0.1
ENV_DEFAULTS["MountainCarContinuous-v0"]["intrinsic_coef"] = 100.0


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
    """CleanRL's make_env, and behind its arguments those that go to the environment."""

    def thunk() -> gym.Env:
        make_with = partial(make, env_id, max_episode_steps, env_kwargs)
        if capture_video and idx == 0:
            from llm_supervisor import record_video  # here: the baselines run without the helper

            env = record_video(make_with, f"videos/{run_name}")
        else:
            env = make_with(render_mode)
        env = integer_observations(env)  # (k,) int64 where they are discrete
        if not flat(env):
            env = gym.wrappers.FlattenObservation(env)  # of a Dict, a Tuple, …: one vector
        env = EpisodeTape(gym.wrappers.RecordEpisodeStatistics(env))
        env.action_space.seed(seed)
        return env

    return thunk


class Batch(NamedTuple):
    """B transitions on the buffer's device; observations and actions float32, int64 where they are discrete."""

    observations: torch.Tensor  # (B, *obs)
    next_observations: torch.Tensor  # (B, *obs)
    actions: torch.Tensor  # (B, *action), as executed
    rewards: torch.Tensor  # (B,)
    terminations: torch.Tensor  # (B,), 1 where the episode terminated; a truncation is 0
    rows: torch.Tensor  # (B,) int64, their places in the buffer, for what a script notes beside each transition


class ReplayBuffer:
    """Ring of the newest `buffer_size` transitions. Pages of memory are taken as it fills; images stay uint8 in it."""

    def __init__(self, buffer_size: int, envs: gym.vector.VectorEnv, device: torch.device):
        obs, action = envs.single_observation_space, envs.single_action_space
        obs_dtype = torch.uint8 if obs.dtype == np.uint8 else tensor_dtype(obs)
        new = partial(torch.empty, device=device)
        self.transitions = Batch(
            new((buffer_size, *obs.shape), dtype=obs_dtype),
            new((buffer_size, *obs.shape), dtype=obs_dtype),
            new((buffer_size, *action.shape), dtype=tensor_dtype(action)),
            rewards=new(buffer_size),
            terminations=new(buffer_size),
            rows=torch.arange(buffer_size, device=device),
        )
        self.size, self.num_envs, self.device = buffer_size, envs.num_envs, device
        self.added = 0  # transitions ever

    def __len__(self) -> int:
        return min(self.added, self.size)

    def add(self, obs, next_obs, actions, rewards, terminations) -> torch.Tensor:
        """Store a step of N environments, arrays (N, …), at the rows (N,) that are returned.

        next_obs are the true successors (at an episode's end its last observation), actions those executed.
        """
        rows = (self.added + torch.arange(self.num_envs, device=self.device)) % self.size
        for column, values in zip(self.transitions, (obs, next_obs, actions, rewards, terminations), strict=False):
            column[rows] = torch.as_tensor(values, dtype=column.dtype, device=self.device)
        self.added += self.num_envs
        return rows

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, with replacement."""
        return self.take(torch.randint(len(self), (batch_size,)).to(self.device))

    def take(self, rows: torch.Tensor) -> Batch:
        """The transitions at these rows (B,)."""
        # index_select gathers with all threads, indexing with one
        columns = (column.index_select(0, rows) for column in self.transitions)
        return Batch(*(x.float() if x.dtype == torch.uint8 else x for x in columns))


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
        x = affine(self.biases[0], obs.flatten(1).expand(2, -1, -1), self.weights[0])  # (2, B, hidden)
        x = affine(x, actions.flatten(1).expand(2, -1, -1), self.weights[1]).relu_()
        x = affine(self.biases[1], x, self.weights[2]).relu_()
        # a matrix product with a single column is slow, its gradient slower: a row-wise scalar product instead, which
        # is float32 also where the products before it are not
        return (x * self.weights[3].mT).sum(dim=2) + self.biases[2].squeeze(-1)


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

    def sample(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The actions of `get_action` without the cost of their log-probabilities."""
        mean, log_std = self(obs)
        return self._to_env(mean + log_std.exp() * noise)

    def get_greedy_action(self, obs: torch.Tensor) -> torch.Tensor:
        """The policy's mode before squashing, (B, *action) in environment units."""
        return self._to_env(self(obs)[0])

    def _to_env(self, u: torch.Tensor) -> torch.Tensor:
        return (self.action_scale * u.tanh() + self.action_bias).unflatten(1, self.action_shape)


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


def place_values(space: gym.Space, device: torch.device) -> torch.Tensor | None:
    """What each of a MultiDiscrete observation's k integers counts when they are read as one number, (k,) int64.

    None for observations of floats, and where the number would not fit 63 bits.
    """
    if isinstance(space, gym.spaces.Box) or np.prod(space.nvec.astype(float)) >= 2.0**63:
        return None
    return torch.as_tensor(np.cumprod([1, *space.nvec[:0:-1]])[::-1].copy(), device=device)


def distinct(data: Batch, places: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Each state of the batch once: x (U, *obs), rows (B,), x' (U', *obs), rows' (B,) with s = x[rows], s' = x'[rows'].

    A batch of a finite task holds few different states: the networks are evaluated once for each, s and s' together
    (x' is x then), which the `place_values` of their integers tell apart. Without `places` the observations are left
    as they are, s' apart from s, since no gradient is needed there.
    """
    if places is None:
        rows = torch.arange(len(data.rows), device=data.rows.device)
        return data.observations, rows, data.next_observations, rows
    obs = torch.cat([data.observations, data.next_observations])
    numbers, index = (obs * places).sum(dim=1).unique(return_inverse=True)
    x = obs.new_empty((len(numbers), *obs.shape[1:]))
    x[index] = obs
    rows, next_rows = index.chunk(2)
    return x, rows, x, next_rows


def soft_value(q: torch.Tensor, log_pi: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """V(s) = min_i Q_i(s, a~) − α log π(a~|s) for a~ ~ π (paper, Eq. 6): (2, B), (B,), () → (B,)."""
    return torch.minimum(*q) - alpha * log_pi


def expected_soft_value(q: torch.Tensor, log_pi: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """V(s) = Σ_a π(a|s) [min_i Q_i(s, a) − α log π(a|s)], exact: (2, B, |A|), (B, |A|), () → (B,)."""
    return (log_pi.exp() * (torch.minimum(*q) - alpha * log_pi)).sum(dim=1)


def improved_policy(q: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """log π(·|s) of π ∝ exp(min_i Q_i / α): (2, B, |A|), () → (B, |A|).

    The minimiser of the actor's loss (paper, Eq. 9) and of Lemma 2's projection, which finite actions have in closed
    form. A softmax actor that follows the gradient saturates at a small α on an early mistake and stays there.
    """
    return (torch.minimum(*q) / alpha).log_softmax(dim=1)


def td_target(data: Batch, next_values: torch.Tensor, gamma: float) -> torch.Tensor:
    """y = r + γ (1 − terminated) V(s') (paper, Eq. 8), (B,). A truncated episode goes on: it bootstraps."""
    return data.rewards + gamma * (1 - data.terminations) * next_values


def critic_losses(q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """E[(Q_i(s, a) − y)²] of each critic (paper, Eq. 7): (2, B), (B,) → (2,)."""
    return (q - target).square().mean(dim=1)


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


class E3B(InverseDynamics):
    """A state is new where its features point away from those of the episode's earlier states."""

    def __init__(self, envs: gym.vector.VectorEnv, ridge: float, buffer_rows: int):
        super().__init__(envs)
        self.register_buffer("empty", torch.eye(64, dtype=torch.float64) / ridge)  # C⁻¹ before any state: I/λ
        self.register_buffer("c_inverse", self.empty.repeat(envs.num_envs, 1, 1))  # (N, 64, 64)
        self.register_buffer("collected", torch.zeros(buffer_rows))  # the bonus beside each transition in the buffer
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, data: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The loss (), the bonuses (B,) and what to log.

        The bonuses are those of `score`, when the transitions were collected: they depend on the episode up to then,
        which a sampled transition no longer knows.
        """
        inv_loss = self.inverse_loss(*self.features(data), self.vectors(data.actions))
        return inv_loss, self.collected[data.rows], {"inv_loss": inv_loss.detach()}

    @torch.no_grad()
    def score(self, new: Batch) -> torch.Tensor:
        """The bonuses (N,) of the newest transitions, one of each environment, whose states then count as seen."""
        r_int = self.elliptical_bonus(self.phi(new.next_observations))
        self.collected[new.rows] = r_int
        return r_int

    def elliptical_bonus(self, phi: torch.Tensor) -> torch.Tensor:
        """b = φᵀ C⁻¹ φ, (N,), of features φ (N, 64); then C ← C + φφᵀ (Henaff et al. 2022, Eq. 1 and 2)."""
        phi = phi.double()
        u = (self.c_inverse @ phi[:, :, None]).squeeze(2)  # C⁻¹φ, (N, 64)
        b = (phi * u).sum(dim=1)
        # Sherman-Morrison: (C + φφᵀ)⁻¹ = C⁻¹ − uuᵀ / (1 + b)
        self.c_inverse -= u[:, :, None] * (u / (1 + b)[:, None])[:, None, :]
        self.updates += 1
        if self.updates % 100 == 0:  # rounding makes it asymmetric, and asymmetry grows
            self.c_inverse = (self.c_inverse + self.c_inverse.mT) / 2
        return b.float()

    def reset(self, dones: np.ndarray) -> None:
        """Forget the episodes that are over, dones (N,)."""
        self.c_inverse[torch.as_tensor(dones)] = self.empty


if __name__ == "__main__":
    with one_line_errors():
        args, sources, resumed = parse_args(Args, ENV_DEFAULTS)
        run_name = f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}"
        run_name = claim_run(run_name, args, sources, resumed)
        interrupts = Interrupts()  # from here on SIGTERM and SIGINT end the run after its step

        random.seed(args.seed)
        np.random.seed(args.seed)
        torch.manual_seed(args.seed)
        torch.backends.cudnn.deterministic = args.torch_deterministic
        device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")

        make_run_env = partial(
            make_env, env_kwargs=parse_env_kwargs(args.env_kwargs), max_episode_steps=args.max_episode_steps
        )
        seeds = seeds_of(args.seed, args.num_envs)
        # SAME_STEP: the step that ends an episode also resets it, so that every stored transition is a real one
        envs = gym.vector.SyncVectorEnv(
            [make_run_env(args.env_id, seed, i, args.capture_video, run_name) for i, seed in enumerate(seeds)],
            autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
        )
        envs.action_space.seed(args.seed)
        check_spaces(envs.envs[0])
        check_memory(ReplayBuffer(args.buffer_size, envs, torch.device("meta")).transitions, args, device)
        evaluator = Evaluator(args, lambda i: make_run_env(args.env_id, args.seed, i, False, run_name)())
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
        places = place_values(envs.single_observation_space, device)
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
    q_optimizer = Adam(online, lr=args.q_lr)
    actor_optimizer = Adam(actor_groups, lr=args.policy_lr) if actor_groups else None
    # casts a weight where it is used: a copy kept until the end of an update would be older than the optimiser's step
    mixed_precision = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16", cache_enabled=False)
    # one graph for the whole update, down to Adam and the targets: the compiler fuses within it. Noise is handed in:
    # compiled code draws other numbers. Autocast stays outside: inside, a second run would find the first's networks
    compiled = compiler(args.compile)
    if not discrete:
        act_dim, samplers = len(actor.action_scale), {args.num_envs: compiled(actor.sample)}  # none for evaluations
        actor_parameters = parameters_of(actor_optimizer)

    @torch.no_grad()
    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions (N, *action) of the policy π_θ for observations (N, *obs); discrete ones (N,) int64."""
        x = torch.as_tensor(obs, dtype=tensor_dtype(envs.single_observation_space), device=device)
        if not discrete:
            noise = None if deterministic else torch.randn(len(x), act_dim, device=device)
            actions = actor.get_greedy_action(x) if deterministic else samplers.get(len(x), actor.sample)(x, noise)
            return clip_action(actions.cpu().numpy(), envs.single_action_space)
        log_pi = improved_policy(qf(x), log_alpha.exp())
        indices = log_pi.argmax(dim=1) if deterministic else log_pi.exp().multinomial(1).squeeze(1)
        return (indices + first_action).cpu().numpy()

    def update_discrete(data: Batch) -> Logs:
        """One step on J_Q and, every `policy_frequency` updates, as many on α; the targets when it is time."""
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
            log_pi = log_pi if i == 0 else improved_policy(qf(x).detach(), log_alpha.detach().exp())
            entropy = -(log_pi.exp() * log_pi).sum(dim=1)[s].mean()
            alpha_loss = log_alpha.exp() * (entropy - target_entropy)
            minimise(alpha_loss, actor_optimizer)
            logs["alpha_loss"] = alpha_loss.detach()
        if iteration % args.target_network_frequency == 0:  # Polyak averaging: lerp(φ̄, φ, τ) = (1 − τ) φ̄ + τ φ
            with torch.no_grad():
                torch._foreach_lerp_(targets, online, args.tau)
        return logs

    def critic_gradients(data: Batch, noise: torch.Tensor) -> Gradients:
        """∇(J_Q₁ + J_Q₂), given the noise (2, B, dim(A)) of a~ for s and for s'."""
        with torch.no_grad():
            next_pi, next_log_pi = actor.get_action(data.next_observations, noise[1])
            next_values = soft_value(qf_target(data.next_observations, next_pi), next_log_pi, log_alpha.exp())
            target = td_target(data, next_values, args.gamma)
        q = qf(data.observations, data.actions)  # (2, B)
        losses = critic_losses(q, target)  # (2,)
        return torch.autograd.grad(losses.sum(), online), {"q": q.detach(), "qf_losses": losses.detach()}

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

    @mixed_precision
    @compiled
    def update(data: Batch, noise: torch.Tensor, actor_noise: list[torch.Tensor], soft: bool) -> Logs:
        """One step on the critics, one on the actor and α per `actor_noise`, and one of the targets if `soft`."""
        gradients, logs = critic_gradients(data, noise)
        take_step(q_optimizer, gradients)
        for eps in actor_noise:
            gradients, actor_logs = actor_gradients(data, eps)
            take_step(actor_optimizer, gradients)
            logs |= actor_logs
        if soft:  # Polyak averaging: lerp(φ̄, φ, τ) = (1 − τ) φ̄ + τ φ
            with torch.no_grad():
                torch._foreach_lerp_(targets, online, args.tau)
        return logs

    def update_continuous(data: Batch) -> Logs:
        """One step on J_Q and, every `policy_frequency` updates, as many on J_π and α; the targets when it is time."""
        noise = torch.randn(2, len(data.rows), act_dim, device=device)
        # a delay of k updates is made up for by k steps at once, as in CleanRL, each with noise of its own
        steps = args.policy_frequency if iteration % args.policy_frequency == 0 else 0
        actor_noise = [noise[0] if i == 0 else torch.randn_like(noise[0]) for i in range(steps)]
        return update(data, noise, actor_noise, soft=iteration % args.target_network_frequency == 0)

    rb = ReplayBuffer(args.buffer_size, envs, device)
    obs, _ = envs.reset(seed=seeds)
    recent_returns, logs = deque(maxlen=20), {}
    global_step, iteration = 0, 0
    # SAC's random numbers must be those of a run without a bonus: --intrinsic-coef 0 is plain SAC to the bit
    with torch.random.fork_rng(devices=[]):
        bonus = E3B(envs, args.ridge, rb.size).to(device)
    bonus_optimizer = Adam([p for p in bonus.parameters() if p.requires_grad], lr=args.bonus_lr)
    obs_stats = RunningMeanStd(envs.single_observation_space.shape, device)
    bonus_stats = RunningMeanStd((), device)
    episode_bonuses = np.zeros(args.num_envs)

    def loop() -> tuple:
        """What of the loop a checkpoint holds."""
        return obs, episode_bonuses, recent_returns, logs, global_step, iteration

    with one_line_errors():
        if args.replay_frequency:
            from llm_supervisor import GreedyVideos  # here: without videos the helper is not needed

            env_fn = partial(make_run_env, args.env_id, args.seed, 0, False, run_name)
            videos = GreedyVideos(lambda mode: env_fn(render_mode=mode)(), f"runs/{run_name}")
        parts = dict(envs=envs, rb=rb, qf=qf, qf_target=qf_target, q_optimizer=q_optimizer, log_alpha=log_alpha)
        parts |= dict(bonus=bonus, bonus_optimizer=bonus_optimizer, obs_stats=obs_stats, bonus_stats=bonus_stats)
        parts |= dict(actor=actor) if not discrete else {}
        parts |= dict(actor_optimizer=actor_optimizer) if actor_groups else {}
        checkpoints = Checkpoints(args, run_name, parts | dict(evaluator=evaluator), modules)
        if resumed and resumed.state:
            obs, fresh, episode_bonuses, recent_returns, logs, global_step, iteration = checkpoints.restore(resumed)
            episode_bonuses[fresh] = 0
            bonus.reset(fresh)
        writer = open_log(args, sources, run_name, device, resumed)

    if not (resumed and resumed.state):
        evaluator.run_if_due(act, global_step, writer)
    progress = Progress(args.total_timesteps, global_step)
    while global_step < args.total_timesteps and not interrupts.received:
        checkpoints.save_if_due(global_step, loop, writer)
        random_phase = global_step < args.learning_starts
        actions = envs.action_space.sample() if random_phase else act(obs, deterministic=False)  # (N, *action)

        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        dones = terminations | truncations
        global_step += args.num_envs
        iteration += 1
        real_next_obs = next_obs.copy()
        for i in np.flatnonzero(dones):
            real_next_obs[i] = infos["final_obs"][i]
            episode = infos["final_info"]["episode"]
            recent_returns.append(float(episode["r"][i]))
            writer.add_scalar("charts/episodic_return", episode["r"][i], global_step)
            writer.add_scalar("charts/episodic_length", episode["l"][i], global_step)
        if problem := not_finite(real_next_obs, rewards):
            writer.fail(f"step {global_step:,}: {problem}")
        rows = rb.add(obs, real_next_obs, actions, rewards, terminations)
        obs = next_obs

        # the statistics change here and nowhere else: once per environment step, by the new transitions
        new = rb.take(rows)
        if new.next_observations.is_floating_point():
            obs_stats.update(new.next_observations)
        r_int = bonus.score(normalised(new, obs_stats))  # (N,)
        bonus_stats.update(r_int)
        episode_bonuses += r_int.cpu().numpy()
        for i in np.flatnonzero(dones):
            writer.add_scalar("charts/episode_curiosity_reward", episode_bonuses[i], global_step)
            episode_bonuses[i] = 0
        bonus.reset(dones)

        if global_step > args.learning_starts:
            data = rb.sample(args.batch_size)
            loss, r_int, bonus_logs = bonus(normalised(data, obs_stats))
            minimise(loss, bonus_optimizer)  # the bonus's networks only; SAC gets r_int, a number without gradient
            data = data._replace(rewards=data.rewards + args.intrinsic_coef * r_int / bonus_stats.std)  # (B,)
            logs |= bonus_logs | (update_discrete(data) if discrete else update_continuous(data))
            if iteration % 100 == 0:
                (qf1_value, qf2_value), (qf1_loss, qf2_loss) = logs["q"].mean(1).tolist(), logs["qf_losses"].tolist()
                writer.add_scalar("losses/qf1_values", qf1_value, global_step)
                writer.add_scalar("losses/qf2_values", qf2_value, global_step)
                writer.add_scalar("losses/qf1_loss", qf1_loss, global_step)
                writer.add_scalar("losses/qf2_loss", qf2_loss, global_step)
                writer.add_scalar("losses/qf_loss", (qf1_loss + qf2_loss) / 2, global_step)
                writer.add_scalar("losses/alpha", log_alpha.exp().item(), global_step)
                for name, value in logs.items():
                    if value.dim() == 0:  # actor_loss, alpha_loss, those of the bonus
                        writer.add_scalar(f"losses/{name}", value.item(), global_step)
                writer.add_scalar("charts/SPS", progress.steps_per_second(global_step), global_step)

        if args.replay_frequency and global_step % args.replay_frequency < args.num_envs:
            videos.record(act, args.seed + global_step, global_step, writer)
        evaluator.run_if_due(act, global_step, writer)
        progress.report(global_step, recent_returns)

    checkpoints.finish(global_step, loop, interrupts, writer)
    if args.replay_frequency:
        videos.close()
    envs.close()
    evaluator.close()
    end_run(run_name, global_step, interrupts, writer)
