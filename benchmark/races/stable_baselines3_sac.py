"""Stable-Baselines3's SAC with the command line, the evaluation and the log of our scripts: an arm of studies.

    python benchmark/races/stable_baselines3_sac.py --env-id Hopper-v5

Its settings are Stable-Baselines3's defaults, which our scripts share, but for the random phase, which is ours.
Docs: docs/speed.md
"""

import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from torch.utils.tensorboard import SummaryWriter


@dataclass
class Args:
    env_id: str = "Hopper-v5"
    """a Gymnasium id"""
    exp_name: str = "stable_baselines3_sac"
    """the experiment's name, part of the run's folder"""
    seed: int = 1
    """seed of the random numbers"""
    total_timesteps: int = 100_000
    """environment steps of the run"""
    learning_starts: int = 100
    """environment steps of uniformly random actions before the first update"""
    eval_frequency: int = 10_000
    """environment steps between evaluations of the greedy policy"""
    eval_episodes: int = 10
    """episodes of an evaluation"""


class Evaluation(BaseCallback):
    """Logs the mean greedy return, from the starts that our scripts give this seed."""

    def __init__(self, args: Args, writer: SummaryWriter):
        super().__init__()
        self.args, self.writer = args, writer
        self.env = gym.make(args.env_id)

    def episode(self, seed: int) -> float:
        """The return of a greedy episode from the start with this seed."""
        obs, _ = self.env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = self.env.step(self.model.predict(obs, deterministic=True)[0])
            total, over = total + float(reward), terminated or truncated
        return total

    def evaluate(self) -> None:
        """Log and print the mean return of the episodes from the seed's own starts."""
        first = (self.args.seed + 1) * 1_000_000
        returns = [self.episode(first + i) for i in range(self.args.eval_episodes)]
        self.writer.add_scalar("eval/episodic_return", np.mean(returns), self.num_timesteps)
        print(f"step {self.num_timesteps:,}: greedy return {np.mean(returns):.2f}", flush=True)

    def _on_training_start(self) -> None:
        self.evaluate()

    def _on_step(self) -> bool:
        # before this step's update, ours evaluate behind it
        if self.num_timesteps % self.args.eval_frequency == 0 or self.num_timesteps == self.args.total_timesteps:
            self.evaluate()
        return True


if __name__ == "__main__":
    args = tyro.cli(Args)
    writer = SummaryWriter(f"runs/{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}")
    settings = {**vars(args), "torch_num_threads": torch.get_num_threads()}
    rows = "\n".join(f"|{name}|{value}|" for name, value in settings.items())
    writer.add_text("hyperparameters", f"|param|value|\n|-|-|\n{rows}")
    model = SAC("MlpPolicy", args.env_id, learning_starts=args.learning_starts, seed=args.seed, device="cpu")
    model.learn(args.total_timesteps, callback=Evaluation(args, writer))
    writer.close()
