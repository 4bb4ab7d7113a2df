"""GuidedSAC for continuous actions: Soft Actor-Critic with residual guidance by an LLM-written rule.

Paper: "Efficient Soft Actor-Critic with LLM-Based Action-Level Guidance for Continuous Control" (arXiv 2603.17468).
Docs:  docs/guided_sac_continuous.md
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
from guided_utils.environments import EpisodeTape, clip_action, flat, make, not_finite, seeds_of, tensor_dtype
from guided_utils.environments import check_continuous_spaces as check_spaces
from guided_utils.evaluation import Evaluator
from guided_utils.interrupts import Interrupts
from guided_utils.memory import check_memory
from guided_utils.optimisation import Adam, Gradients, Logs, affine, compiler, parameters_of, take_step
from guided_utils.settings import ExperimentArgs, one_line_errors, parse_args, parse_env_kwargs
from llm_supervisor import Supervisor, SupervisorArgs


@dataclass
class Args(ExperimentArgs, SupervisorArgs):
    exp_name: str = os.path.basename(__file__)[: -len(".py")]
    """the name of this experiment; who supervises (`_none`, `_bundled`, …) is added to it unless it is given"""

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
    """learning rate of the actor"""
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
    value_network: bool = False
    """learn a state-value network and bootstrap from its target (paper, Eq. 6-8; SAC of 2018)"""
    probe_share: float = 0.5
    """share of the steps in guided time that the agent acts alone, in probes, at least, in [0, 1). Where the
    rule acts throughout, nothing corrects what the critic thinks of the agent's own actions (docs/supervisor.md)"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the matrix products while learning continuous actions; weights, targets, losses and acting are float32"""
    compile: bool = False
    """compile acting and updates of continuous actions by torch.compile (needs a C++ compiler; first steps wait)"""


# The paper's settings (table in C.1) are that environment's defaults; a flag on the command line still wins.
ENV_DEFAULTS = {
    "MountainCarContinuous-v0": dict(
        guide_window=1_000, guide_end=3_000, batch_size=256, gamma=0.99, tau=0.005, autotune=True, learning_starts=0,
        probe_share=0.1,  # not the paper's, which has none; 0.5 reaches 90 500 to 1,000 steps later
    ),
    "Humanoid-v5": dict(
        guide_window=1_000, guide_end=900_000, batch_size=256, gamma=0.99, tau=0.005, autotune=True,
        learning_starts=100,
        # 24 positions and 23 velocities: the paper's "47-dimensional state space"
        env_kwargs='{"exclude_current_positions_from_observation": false, "include_cinert_in_observation": false, '
        '"include_cvel_in_observation": false, "include_qfrc_actuator_in_observation": false, '
        '"include_cfrc_ext_in_observation": false}',
    ),
}  # fmt: skip


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


class ValueNetwork(nn.Module):
    """The state value V(s) of the paper's Eq. 6 (only with `--value-network`)."""

    def __init__(self, envs: gym.vector.VectorEnv, hidden: int = 256):
        super().__init__()
        self.fc1 = nn.Linear(int(np.prod(envs.single_observation_space.shape)), hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Values (B,) of observations (B, *obs)."""
        x = self.fc1(obs.flatten(1)).relu_()
        x = self.fc2(x).relu_()
        return (x * self.fc3.weight).sum(dim=1) + self.fc3.bias  # float32, as in the critics


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


def intervene(actions: np.ndarray, guidance: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """Residual intervention: a = clip(a_rl + a_g, low, high), for (N, *action) both."""
    return np.clip(actions + guidance, space.low, space.high).astype(space.dtype)


def soft_value(q: torch.Tensor, log_pi: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """V(s) = min_i Q_i(s, a~) − α log π(a~|s) for a~ ~ π (paper, Eq. 6): (2, B), (B,), () → (B,)."""
    return torch.minimum(*q) - alpha * log_pi


def td_target(data: Batch, next_values: torch.Tensor, gamma: float) -> torch.Tensor:
    """y = r + γ (1 − terminated) V(s') (paper, Eq. 8), (B,). A truncated episode goes on: it bootstraps."""
    return data.rewards + gamma * (1 - data.terminations) * next_values


def critic_losses(q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """E[(Q_i(s, a) − y)²] of each critic (paper, Eq. 7): (2, B), (B,) → (2,)."""
    return (q - target).square().mean(dim=1)


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

    actor = Actor(envs).to(device)
    qf, qf_target = SoftQNetwork(envs).to(device), SoftQNetwork(envs).to(device)
    qf_target.load_state_dict(qf.state_dict())
    modules = [actor, qf]  # saved; the first one holds the policy
    critic_parameters = [*qf.parameters()]
    online, targets = [*qf.parameters()], [*qf_target.parameters()]
    if args.value_network:
        vf, vf_target = ValueNetwork(envs).to(device), ValueNetwork(envs).to(device)
        vf_target.load_state_dict(vf.state_dict())
        modules = [actor, qf, vf]
        critic_parameters += vf.parameters()
        online, targets = [*vf.parameters()], [*vf_target.parameters()]  # V̄ takes the place of the target critics
    log_alpha = torch.tensor(args.alpha, device=device).log().requires_grad_(args.autotune)
    target_entropy = -float(np.prod(envs.single_action_space.shape))  # −dim(A)
    q_optimizer = Adam(critic_parameters, lr=args.q_lr)
    actor_groups = [{"params": [*actor.parameters()]}]
    if args.autotune:
        actor_groups.append({"params": [log_alpha], "lr": args.alpha_lr})
    actor_optimizer = Adam(actor_groups, lr=args.policy_lr)
    act_dim, actor_parameters = len(actor.action_scale), parameters_of(actor_optimizer)

    # casts a weight where it is used: a copy kept until the end of an update would be older than the optimiser's step
    mixed_precision = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16", cache_enabled=False)
    # one graph for the whole update, down to Adam and the targets: the compiler fuses within it. Noise is handed in:
    # compiled code draws other numbers. Autocast stays outside: inside, a second run would find the first's networks
    compiled = compiler(args.compile)
    samplers = {args.num_envs: compiled(actor.sample)}  # no graphs for what is left of an evaluation's environments

    @torch.no_grad()
    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions (N, *action) of the unguided policy π_θ for observations (N, *obs)."""
        x = torch.as_tensor(obs, dtype=torch.float32, device=device)
        noise = None if deterministic else torch.randn(len(x), act_dim, device=device)
        actions = actor.get_greedy_action(x) if deterministic else samplers.get(len(x), actor.sample)(x, noise)
        return clip_action(actions.cpu().numpy(), envs.single_action_space)

    def critic_gradients(data: Batch, noise: torch.Tensor) -> Gradients:
        """∇(J_Q₁ + J_Q₂) (and ∇J_V), given the noise (2, B, dim(A)) of a~ for s and for s'."""
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            if args.value_network:
                next_values = vf_target(data.next_observations)
                pi, log_pi = actor.get_action(data.observations, noise[0])  # (B, *action), (B,)
                v_target = soft_value(qf(data.observations, pi), log_pi, alpha)
            else:
                next_pi, next_log_pi = actor.get_action(data.next_observations, noise[1])
                next_values = soft_value(qf_target(data.next_observations, next_pi), next_log_pi, alpha)
            target = td_target(data, next_values, args.gamma)
        q = qf(data.observations, data.actions)  # (2, B)
        losses = critic_losses(q, target)  # (2,)
        loss, logs = losses.sum(), {"q": q.detach(), "qf_losses": losses.detach()}
        if args.value_network:
            vf_loss = 0.5 * F.mse_loss(vf(data.observations), v_target)  # J_V (paper, Eq. 6)
            loss, logs["vf_loss"] = loss + vf_loss, vf_loss.detach()
        return torch.autograd.grad(loss, critic_parameters), logs

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

    rb = ReplayBuffer(args.buffer_size, envs, device)
    episode_steps = np.zeros(args.num_envs, dtype=np.int64)
    recent_returns, logs = deque(maxlen=20), {}
    global_step, iteration, next_consultation = 0, 0, args.guide_start

    def loop() -> tuple:
        """What of the loop a checkpoint holds."""
        return obs, episode_steps, recent_returns, logs, global_step, iteration, next_consultation

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
        parts |= dict(actor=actor, actor_optimizer=actor_optimizer)
        parts |= dict(vf=vf, vf_target=vf_target) if args.value_network else {}
        checkpoints = Checkpoints(args, run_name, parts | dict(supervisor=supervisor, evaluator=evaluator), modules)
        if resumed and resumed.state:
            obs, fresh, episode_steps, recent_returns, logs, *counters = checkpoints.restore(resumed)
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
        if guidance is not None:
            guidance_actions, guided = guidance(obs, episode_steps)  # (N, *action), (N,)
            if guided.any():
                # a = clip(a_rl + a_g, low, high): the executed action is the one that enters the buffer
                learned = act(obs, deterministic=False) if random_phase else actions
                actions[guided] = intervene(learned, guidance_actions, envs.single_action_space)[guided]

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
        rb.add(obs, real_next_obs, actions, rewards, terminations)
        transitions = obs, episode_steps, actions, rewards, real_next_obs, terminations, truncations
        supervisor.observe(global_step, *transitions, writer)
        obs = next_obs
        episode_steps = np.where(dones, 0, episode_steps + 1)

        if global_step > args.learning_starts:
            data = rb.sample(args.batch_size)
            noise = torch.randn(2, args.batch_size, act_dim, device=device)
            # a delay of k updates is made up for by k steps at once, as in CleanRL, each with noise of its own
            steps = args.policy_frequency if iteration % args.policy_frequency == 0 else 0
            actor_noise = [noise[0] if i == 0 else torch.randn_like(noise[0]) for i in range(steps)]
            logs |= update(data, noise, actor_noise, soft=iteration % args.target_network_frequency == 0)
            if iteration % 100 == 0:
                (qf1_value, qf2_value), (qf1_loss, qf2_loss) = logs["q"].mean(1).tolist(), logs["qf_losses"].tolist()
                writer.add_scalar("losses/qf1_values", qf1_value, global_step)
                writer.add_scalar("losses/qf2_values", qf2_value, global_step)
                writer.add_scalar("losses/qf1_loss", qf1_loss, global_step)
                writer.add_scalar("losses/qf2_loss", qf2_loss, global_step)
                writer.add_scalar("losses/qf_loss", (qf1_loss + qf2_loss) / 2, global_step)
                writer.add_scalar("losses/alpha", log_alpha.exp().item(), global_step)
                for name, value in logs.items():
                    if value.dim() == 0:  # actor_loss, alpha_loss, vf_loss
                        writer.add_scalar(f"losses/{name}", value.item(), global_step)
                writer.add_scalar("charts/SPS", progress.steps_per_second(global_step), global_step)

        evaluator.run_if_due(act, global_step, writer)
        progress.report(global_step, recent_returns, supervisor.who_acted)

    checkpoints.finish(global_step, loop, interrupts, writer)
    supervisor.end(global_step, writer)
    envs.close()
    evaluator.close()
    end_run(run_name, global_step, interrupts, writer)
