"""Environment steps per second of guided_sac_discrete.py beside a plain discrete SAC: same environment, batch, networks.

    OMP_NUM_THREADS=1 python benchmark/discrete_speed.py

Contestants take turns, block by block, each in a process of its own; while one runs, the others wait. Every step is
followed by an update. Keep the machine idle meanwhile.
Docs: docs/guided_sac_discrete.md
"""

import multiprocessing
import os
import platform
import re
import runpy
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import tyro

SCRIPT = Path(__file__).resolve().parent.parent / "guided_sac_discrete.py"
CONTESTANTS = {
    "guided_sac_discrete.py, unguided": ["--supervisor", "none"],
    "guided_sac_discrete.py, guided at every step": [
        "--supervisor", "bundled", "--advisor-always", "--guide-window", "1000000000", "--guide-end", "1000000000",
        "--replay-max-steps", "200", "--replay-frames", "0",
    ],
    "plain discrete SAC": None,
}  # fmt: skip


@dataclass
class Args:
    env_id: str = "Taxi-v4"
    """an environment with a Discrete observation, and a bundled rule"""
    batch_size: int = 256
    """transitions of an update"""
    blocks: int = 7
    """timed blocks of each contestant, ≥ 1; the table has their median"""
    steps: int = 300
    """environment steps of a block, ≥ 1"""
    warm_up: int = 600
    """steps of each contestant before the first block, of which the first 100 are without updates"""


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))


def plain_discrete_sac(env_id: str, batch_size: int, gamma=0.99, tau=0.005, alpha=0.01, size=1_000_000) -> None:
    """Discrete SAC as one writes it down, after CleanRL's sac_atari.py: one network each, one-hot inputs, no end."""
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(gym.make(env_id)))],
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    inputs, actions_n = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    actor, qf1, qf2, qf1_target, qf2_target = (network(inputs, actions_n) for _ in range(5))
    qf1_target.load_state_dict(qf1.state_dict())
    qf2_target.load_state_dict(qf2.state_dict())
    q_optimizer = optim.Adam([*qf1.parameters(), *qf2.parameters()], lr=3e-4)
    actor_optimizer = optim.Adam(actor.parameters(), lr=3e-4)
    store = [np.zeros((size, inputs), np.float32), np.zeros((size, inputs), np.float32), np.zeros(size, np.int64),
             np.zeros(size, np.float32), np.zeros(size, np.float32)]  # fmt: skip
    obs, _ = envs.reset(seed=1)
    for global_step in range(size):
        if global_step < 100:
            actions = envs.action_space.sample()
        else:
            with torch.no_grad():
                actions = torch.distributions.Categorical(logits=actor(torch.Tensor(obs))).sample().numpy()
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)
        real_next_obs = infos["final_obs"] if (terminations | truncations).any() else next_obs
        transition = (obs[0], real_next_obs[0], actions[0], rewards[0], terminations[0])
        for array, value in zip(store, transition, strict=True):
            array[global_step] = value
        obs = next_obs
        if global_step < 100:
            continue

        rows = np.random.randint(0, global_step + 1, size=batch_size)
        s, next_s, a, r, d = (torch.as_tensor(array[rows]) for array in store)
        with torch.no_grad():
            next_log_pi = F.log_softmax(actor(next_s), dim=1)
            next_q = torch.min(qf1_target(next_s), qf2_target(next_s))
            next_value = (next_log_pi.exp() * (next_q - alpha * next_log_pi)).sum(dim=1)
            target = r + (1 - d) * gamma * next_value
        qf1_loss = F.mse_loss(qf1(s).gather(1, a[:, None]).view(-1), target)
        qf2_loss = F.mse_loss(qf2(s).gather(1, a[:, None]).view(-1), target)
        q_optimizer.zero_grad()
        (qf1_loss + qf2_loss).backward()
        q_optimizer.step()

        log_pi = F.log_softmax(actor(s), dim=1)
        with torch.no_grad():
            min_q = torch.min(qf1(s), qf2(s))
        actor_loss = (log_pi.exp() * (alpha * log_pi - min_q)).sum(dim=1).mean()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()

        for net, target_net in ((qf1, qf1_target), (qf2, qf2_target)):
            for param, target_param in zip(net.parameters(), target_net.parameters(), strict=True):
                target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)


def compete(flags: list[str] | None, args: Args, folder: str, connection: Connection) -> None:
    """A contestant's process: train, halting before each block until its number of steps is ordered.

    The only foothold in the training loop is the vector environment's `step`, which both call once a step.
    """
    os.chdir(folder)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    step, left, start = gym.vector.SyncVectorEnv.step, 0, None

    def paced(envs: gym.vector.SyncVectorEnv, actions: np.ndarray):
        nonlocal left, start
        if left == 0:
            if start is not None:
                connection.send(time.perf_counter() - start)
            left, start = connection.recv(), time.perf_counter()
        left -= 1
        return step(envs, actions)

    gym.vector.SyncVectorEnv.step = paced
    if flags is None:
        plain_discrete_sac(args.env_id, args.batch_size)
    sys.path.insert(0, str(SCRIPT.parent))
    sys.argv = [str(SCRIPT), "--env-id", args.env_id, "--batch-size", str(args.batch_size), "--learning-starts", "100",
                *flags]  # fmt: skip
    runpy.run_path(str(SCRIPT), run_name="__main__")


def race(args: Args) -> dict[str, list[float]]:
    """Steps per second of each block of each contestant, sorted."""
    context, rates = multiprocessing.get_context("spawn"), {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        connections, processes = {}, []
        for name, flags in CONTESTANTS.items():
            connections[name], theirs = context.Pipe()
            processes.append(context.Process(target=compete, args=(flags, args, folder, theirs), daemon=True))
            processes[-1].start()
            theirs.close()  # so that the end of the process ends the waiting
            connections[name].send(args.warm_up)
            connections[name].recv()
        for _ in range(args.blocks):
            for name, connection in connections.items():
                connection.send(args.steps)
                rates[name].append(args.steps / connection.recv())
        for process in processes:
            process.kill()
            process.join()
    return {name: sorted(blocks) for name, blocks in rates.items()}


if __name__ == "__main__":
    args = tyro.cli(Args)
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    print(
        f"Python {platform.python_version()}, torch {version('torch')}, gymnasium {version('gymnasium')}, "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, load average "
        f"{os.getloadavg()[0]:.1f}; {args.env_id}, batch {args.batch_size}, {args.blocks} blocks of {args.steps} "
        "steps\n"
    )
    rates = race(args)
    plain = statistics.median(rates["plain discrete SAC"])
    print("| contestant | steps/s, median | lowest | highest | to the plain one |\n|-|-|-|-|-|")
    for name, blocks in rates.items():
        rate = statistics.median(blocks)
        print(f"| {name} | {rate:.0f} | {blocks[0]:.0f} | {blocks[-1]:.0f} | {rate / plain:.2f} × |")
