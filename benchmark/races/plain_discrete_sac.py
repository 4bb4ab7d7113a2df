"""Discrete SAC as one writes it down, after CleanRL's sac_atari.py: what discrete_speed.py is measured against.

Separate networks on one-hot inputs, plain Adam, a loop over the targets' parameters. No logging.
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import tyro


@dataclass
class Args:
    env_id: str = "Taxi-v4"
    """an environment with Discrete actions, and observations that Gymnasium can flatten"""
    total_timesteps: int = 100_000
    """environment steps"""
    learning_starts: int = 100
    """environment steps of random actions before the first update"""
    buffer_size: int = 100_000
    """transitions of the replay buffer, which is a ring"""
    batch_size: int = 256
    """transitions of an update; there is one after each step"""
    gamma: float = 0.99
    """discount factor"""
    tau: float = 0.005
    """soft-update rate of the targets"""
    alpha: float = 0.01
    """temperature, fixed"""


def network(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers of 256."""
    return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))


if __name__ == "__main__":
    args = tyro.cli(Args)
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(gym.make(args.env_id)))],
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    inputs, actions_n = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    actor, qf1, qf2, qf1_target, qf2_target = (network(inputs, actions_n) for _ in range(5))
    qf1_target.load_state_dict(qf1.state_dict())
    qf2_target.load_state_dict(qf2.state_dict())
    q_optimizer = optim.Adam([*qf1.parameters(), *qf2.parameters()], lr=3e-4)
    actor_optimizer = optim.Adam(actor.parameters(), lr=3e-4)
    shapes = [(inputs,), (inputs,), (), (), ()]  # s, s', a, r, terminated
    store = [np.zeros((args.buffer_size, *shape), np.float32) for shape in shapes]
    obs, _ = envs.reset(seed=1)
    for global_step in range(args.total_timesteps):
        if global_step < args.learning_starts:
            actions = envs.action_space.sample()
        else:
            with torch.no_grad():
                actions = torch.distributions.Categorical(logits=actor(torch.Tensor(obs))).sample().numpy()
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        real_next_obs = infos["final_obs"] if (terminations | truncations).any() else next_obs
        transition = (obs[0], real_next_obs[0], actions[0], rewards[0], terminations[0])
        for array, value in zip(store, transition, strict=True):
            array[global_step % args.buffer_size] = value
        obs = next_obs
        if global_step < args.learning_starts:
            continue

        rows = np.random.randint(0, min(global_step + 1, args.buffer_size), size=args.batch_size)
        s, next_s, a, r, d = (torch.as_tensor(array[rows]) for array in store)
        with torch.no_grad():
            next_log_pi = F.log_softmax(actor(next_s), dim=1)
            next_q = torch.min(qf1_target(next_s), qf2_target(next_s))
            next_value = (next_log_pi.exp() * (next_q - args.alpha * next_log_pi)).sum(dim=1)
            target = r + (1 - d) * args.gamma * next_value
        qf1_loss = F.mse_loss(qf1(s).gather(1, a.long()[:, None]).view(-1), target)
        qf2_loss = F.mse_loss(qf2(s).gather(1, a.long()[:, None]).view(-1), target)
        q_optimizer.zero_grad()
        (qf1_loss + qf2_loss).backward()
        q_optimizer.step()

        log_pi = F.log_softmax(actor(s), dim=1)
        with torch.no_grad():
            min_q = torch.min(qf1(s), qf2(s))
        actor_loss = (log_pi.exp() * (args.alpha * log_pi - min_q)).sum(dim=1).mean()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()

        for net, target_net in ((qf1, qf1_target), (qf2, qf2_target)):
            for param, target_param in zip(net.parameters(), target_net.parameters(), strict=True):
                target_param.data.copy_(args.tau * param.data + (1 - args.tau) * target_param.data)
