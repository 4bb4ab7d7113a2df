"""Where does the guided Taxi agent fail when guidance ends? It splits the 300 starts by whether training ever saw them.

    python benchmark/taxi_coverage.py --seeds 1 2 3 4 5

Docs: docs/guided_sac_discrete.md
"""

import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

SCRIPT = Path(__file__).resolve().parent.parent / "guided_sac_discrete.py"


@dataclass
class Args:
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of the runs"""
    total_timesteps: int = 5_000
    """environment steps of a run; 5,000 is where the guidance of Taxi-v4 ends"""


def run(seed: int, total_timesteps: int) -> dict:
    """Run the unmodified script in this process and return its variables."""
    sys.argv = [str(SCRIPT), "--env-id=Taxi-v4", "--supervisor=bundled", f"--seed={seed}",
                f"--total-timesteps={total_timesteps}"]  # fmt: skip
    return runpy.run_path(str(SCRIPT), run_name="__main__")


def solved(start: int, act: Callable[[np.ndarray, bool], np.ndarray], env: gym.Env) -> bool:
    """Whether the greedy policy delivers from this start within the time limit."""
    env.reset()
    env.unwrapped.s = state = start
    for _ in range(env.spec.max_episode_steps):
        state, _, terminated, _, _ = env.step(int(act(np.array([[state]]), True)[0]))
        if terminated:
            return True
    return False


if __name__ == "__main__":
    args = tyro.cli(Args)
    sys.path.insert(0, str(SCRIPT.parent))  # where the script's own modules lie
    env = gym.make("Taxi-v4")
    starts = np.flatnonzero(env.unwrapped.initial_state_distrib)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in args.seeds:
            script = run(seed, args.total_timesteps)
            visited = np.isin(starts, script["rb"].obs[: script["rb"].written].flatten().numpy())
            ok = np.array([solved(int(start), script["act"], env) for start in starts])
            rows.append(
                f"| {seed} | {ok[visited].sum()} of {visited.sum()} | {ok[~visited].sum()} of {(~visited).sum()} |"
            )
        os.chdir(SCRIPT.parent)
    print(f"\nTaxi-v4, bundled rule, greedy policy after {args.total_timesteps:,} steps:\n")
    print("| seed | solved starts that training saw | solved starts that it never saw |\n|-|-|-|")
    print("\n".join(rows))
