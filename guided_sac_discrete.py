"""GuidedSAC for discrete actions: Soft Actor-Critic in whose place an LLM-written rule acts for a while.

Paper: "Efficient Soft Actor-Critic with LLM-Based Action-Level Guidance for Continuous Control" (arXiv 2603.17468).
Docs:  docs/guided_sac_discrete.md
"""

import os
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from guided_utils.checkpoint import Checkpoints, claim_run
from guided_utils.console import Progress, end_run, open_log
from guided_utils.environments import EpisodeTape, flat, integer_observations, make, not_finite, seeds_of, tensor_dtype
from guided_utils.environments import check_discrete_spaces as check_spaces
from guided_utils.evaluation import Evaluator
from guided_utils.interrupts import Interrupts
from guided_utils.memory import check_memory
from guided_utils.optimisation import Adam, minimise
from guided_utils.settings import ExperimentArgs, one_line_errors, parse_args, parse_env_kwargs
from llm_supervisor import Supervisor, SupervisorArgs


@dataclass
class Args(ExperimentArgs, SupervisorArgs):
    exp_name: str = os.path.basename(__file__)[: -len(".py")]
    """the name of this experiment; who supervises (`_none`, `_bundled`, …) is added to it unless it is given"""

    # Algorithm specific arguments
    env_id: str = "CliffWalking-v1"
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
    """learning rate of the actor network (the exact improvement has none)"""
    q_lr: float = 3e-4
    """learning rate of the critics (and the value network); 3e-4 as in Stable-Baselines3, CleanRL has 1e-3"""
    alpha_lr: float = 3e-4
    """learning rate of the temperature"""
    policy_frequency: int = 1
    """the actor is updated every k-th update, k times (CleanRL: 2; the paper, on Stable-Baselines3: 1)"""
    target_network_frequency: int = 1
    """updates between two soft updates of the target networks"""
    alpha: float = 0.01
    """temperature α: the initial one with `--autotune`, else the fixed one"""
    autotune: bool = False
    """learn α so that the policy's entropy stays near a target (`target_entropy` in the script). Off, unlike CleanRL:
    the conservative term keeps a guided policy narrow, and α can grow until entropy outweighs reward
    (benchmark/results/supervision.md); fixed at 0.01, as the paper has it in three of its four tasks"""
    target_entropy_scale: float = 0.89
    """with `--autotune`: the target of the entropy as a share of its largest value log|A|, in [0, 1]"""
    value_network: bool = False
    """learn a state-value network and bootstrap from its target (paper, Eq. 6-8; SAC of 2018)"""
    guide_probability: float = 1.0
    """probability that the rule acts at a guided step; below 1 the learner's own mistakes enter the buffer"""
    guide_conservatism: float = 1.0
    """weight of the conservative term on guided transitions (see `conservative_losses`); 0 = off"""
    exact_improvement: bool = True
    """policy in closed form, π = softmax(min Q / α); off: an actor network trained by gradient, as in the paper"""
    paper: bool = False
    """the method as the paper prints it: `PAPER_SETTINGS` are in force"""


# The paper's settings (table in C.1) are that environment's defaults; a flag on the command line still wins.
ENV_DEFAULTS = {
    "Blackjack-v1": dict(
        guide_window=2_000, guide_end=5_000, batch_size=256, gamma=0.5, tau=0.005, autotune=True, alpha=1.0,
        learning_starts=1_000,
        max_episode_steps=100,  # never reached: a hand ends before
    ),
    "CliffWalking-v1": dict(
        guide_window=2_000, guide_end=10_000, batch_size=1_024, gamma=0.99, tau=0.005, autotune=False, alpha=0.01,
        learning_starts=0,
        max_episode_steps=200,  # without a limit an unguided run never ends an episode
    ),
    "FrozenLake-v1": dict(
        guide_window=100, guide_end=5_000, batch_size=64, gamma=0.99, tau=0.005, autotune=False, alpha=0.01,
        learning_starts=0,
    ),
    "Taxi-v4": dict(
        guide_window=2_000, guide_end=5_000, batch_size=256, gamma=0.99, tau=0.005, autotune=False, alpha=0.01,
        learning_starts=0,
    ),
}  # fmt: skip

# Eq. 6-9 as printed: a state-value network, an actor trained by gradient, direct substitution at every guided step, by
# the coder's rule as it comes.
PAPER_SETTINGS = dict(
    value_network=True, exact_improvement=False, guide_probability=1.0, guide_conservatism=0.0, trial_pairs=0
)


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


if __name__ == "__main__":
    with one_line_errors():
        args, sources, resumed = parse_args(Args, ENV_DEFAULTS, PAPER_SETTINGS)
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
    q_optimizer = Adam(critic_parameters, lr=args.q_lr)
    actor_optimizer = Adam(actor_groups, lr=args.policy_lr) if actor_groups else None
    obs_dtype = tensor_dtype(envs.single_observation_space)
    places = place_values(envs.single_observation_space, device)
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

    def update_critic(data: Batch, states: tuple, q: torch.Tensor, log_pi: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step on J_Q (and J_V).

        Args:
            states: of `distinct`: x, … q: (2, U, |A|), the critics' values for x, with gradients. log_pi: (U, |A|).
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

    rb = ReplayBuffer(args.buffer_size, envs, device)
    guided_rows = torch.zeros(rb.size, dtype=torch.bool, device=device)  # transitions on which the rule acted
    episode_steps = np.zeros(args.num_envs, dtype=np.int64)
    recent_returns, actor_logs = deque(maxlen=20), {}
    global_step, iteration, next_consultation = 0, 0, args.guide_start

    def loop() -> tuple:
        """What of the loop a checkpoint holds."""
        return obs, episode_steps, recent_returns, actor_logs, global_step, iteration, next_consultation

    with one_line_errors():
        supervisor = Supervisor(
            args,
            envs,
            env_fn=lambda mode: make_run_env(args.env_id, args.seed, 0, False, run_name, render_mode=mode)(),
            run_dir=f"runs/{run_name}",
            env_kwargs_given=sources["env_kwargs"] == "command line",
            interrupted=lambda: interrupts.received is not None,
            evaluations=evaluator.points,
            forked_at=resumed.step if resumed and resumed.changed else 0,
        )
        supervisor.prepare()
        obs, _ = envs.reset(seed=seeds)
        parts = dict(envs=envs, rb=rb, qf=qf, qf_target=qf_target, q_optimizer=q_optimizer, log_alpha=log_alpha)
        parts |= dict(guided_rows=guided_rows)
        parts |= dict(actor=actor) if not args.exact_improvement else {}
        parts |= dict(actor_optimizer=actor_optimizer) if actor_groups else {}
        parts |= dict(vf=vf, vf_target=vf_target) if args.value_network else {}
        checkpoints = Checkpoints(args, run_name, parts | dict(supervisor=supervisor, evaluator=evaluator), modules)
        if resumed and resumed.state:
            obs, fresh, episode_steps, recent_returns, actor_logs, *counters = checkpoints.restore(resumed)
            global_step, iteration, next_consultation = counters
            episode_steps[fresh] = 0
            if next_consultation > args.guide_end:  # guidance was over; in a fork it may not be
                next_consultation = global_step
        writer = open_log(args, sources, run_name, device, resumed)
    print(f"{'supervisor':>12}: {supervisor.description}", flush=True)

    if not (resumed and resumed.state):
        evaluator.run_if_due(act, global_step, writer)
    guidance, progress = supervisor.guiding, Progress(args.total_timesteps, global_step)
    while global_step < args.total_timesteps and not interrupts.received:
        if global_step >= next_consultation or supervisor.waiting:
            # the advisor's decision holds for a whole window, w = 1 (guidance) or w = 0 (None); after guide_end w = 0
            if global_step < args.guide_end:
                with progress.paused():
                    guidance = supervisor.consult(global_step, writer)
                if interrupts.received:
                    break
                next_consultation = min(global_step + args.guide_window, args.guide_end)
            else:
                supervisor.end(global_step, writer)
                guidance, next_consultation = None, np.inf
        checkpoints.save_if_due(global_step, loop, writer)

        random_phase = global_step < args.learning_starts
        actions = envs.action_space.sample() if random_phase else act(obs, deterministic=False)  # (N, *action)
        guided = np.zeros(args.num_envs, dtype=bool)  # where the rule's action was executed
        if guidance is not None:
            guidance_actions, mask = guidance(obs, episode_steps)  # (N,) int64, (N,)
            if mask.any():
                learned = act(obs, deterministic=False) if random_phase else actions
                mixed, substituted = intervene(learned, guidance_actions, args.guide_probability)
                actions, guided = np.where(mask, mixed, actions), mask & substituted

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
        guided_rows[rows] = torch.as_tensor(guided, device=device)
        transitions = obs, episode_steps, actions, rewards, real_next_obs, terminations, truncations
        supervisor.observe(global_step, *transitions, writer)
        obs = next_obs
        episode_steps = np.where(dones, 0, episode_steps + 1)

        if global_step > args.learning_starts:
            data = rb.sample(args.batch_size)
            states = distinct(data, places)
            x, s, _, _ = states  # (U, *obs), (B,)
            q = qf(x)  # (2, U, |A|)
            # one policy for both updates: the critics' step leaves π_θ as it is, and the exact one follows at the next
            log_pi = improved_policy(q.detach(), log_alpha.detach().exp()) if args.exact_improvement else actor(x)
            critic_logs = update_critic(data, states, q, log_pi.detach())
            # a delay of k updates is made up for by k steps at once, as in CleanRL
            for i in range(args.policy_frequency if actor_groups and iteration % args.policy_frequency == 0 else 0):
                actor_logs = update_actor(x, s, log_pi if i == 0 else log_policy(x))
            if iteration % args.target_network_frequency == 0:
                # Polyak averaging: lerp(φ̄, φ, τ) = (1 − τ) φ̄ + τ φ
                with torch.no_grad():
                    torch._foreach_lerp_(targets, online, args.tau)
            if iteration % 100 == 0:
                logs = critic_logs | actor_logs
                (qf1_value, qf2_value), (qf1_loss, qf2_loss) = logs["q"].mean(1).tolist(), logs["qf_losses"].tolist()
                writer.add_scalar("losses/qf1_values", qf1_value, global_step)
                writer.add_scalar("losses/qf2_values", qf2_value, global_step)
                writer.add_scalar("losses/qf1_loss", qf1_loss, global_step)
                writer.add_scalar("losses/qf2_loss", qf2_loss, global_step)
                writer.add_scalar("losses/qf_loss", (qf1_loss + qf2_loss) / 2, global_step)
                writer.add_scalar("losses/alpha", log_alpha.exp().item(), global_step)
                for name, value in logs.items():
                    if value.dim() == 0:  # actor_loss, alpha_loss, vf_loss, conservative_loss
                        writer.add_scalar(f"losses/{name}", value.item(), global_step)
                writer.add_scalar("charts/SPS", progress.steps_per_second(global_step), global_step)

        evaluator.run_if_due(act, global_step, writer)
        progress.report(global_step, recent_returns, supervisor.who_acted)

    checkpoints.finish(global_step, loop, interrupts, writer)
    supervisor.end(global_step, writer)
    envs.close()
    evaluator.close()
    end_run(run_name, global_step, interrupts, writer)
