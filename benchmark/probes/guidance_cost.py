"""What a guided step pays for its rule: the time of the rule's call beside that of all else in the same step.

    python -m benchmark.probes.guidance_cost

Both are taken inside one run of the unmodified script on the CPU, so the machine's drift, which decides a race between
two runs (`added_cost.py`), touches both alike.

Docs: docs/speed.md
"""

import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.spaces import Discrete
from gymnasium.vector import SyncVectorEnv

from benchmark.probes.added_cost import GUIDED_FLAGS
from benchmark.races.speed import SCRIPT
from supervision.sandbox.policy import SandboxedPolicy


@dataclass
class Args:
    env_id: str = "Humanoid-v5"
    """an environment with a bundled rule"""
    steps: int = 1_200
    """guided steps that count, ≥ 2"""
    warm_up: int = 300
    """steps before them, of which the first 100 are without updates"""


def timed(method: Callable, spans: list[tuple[float, float]]) -> Callable:
    """The method, which notes when each of its calls began and ended."""

    def call(*args):
        begin = time.perf_counter()
        result = method(*args)
        spans.append((begin, time.perf_counter()))
        return result

    return call


if __name__ == "__main__":
    args = tyro.cli(Args)
    calls: list[tuple[float, float]] = []
    steps: list[tuple[float, float]] = []
    SandboxedPolicy.__call__ = timed(SandboxedPolicy.__call__, calls)
    SyncVectorEnv.step = timed(SyncVectorEnv.step, steps)
    discrete = isinstance(gym.make(args.env_id).action_space, Discrete)
    script = SCRIPT.with_name("guided_sac_discrete.py") if discrete else SCRIPT
    sys.argv = [
        str(script), f"--env-id={args.env_id}", f"--total-timesteps={args.warm_up + args.steps}",
        "--learning-starts=100", "--no-cuda", *GUIDED_FLAGS,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        runpy.run_path(str(script), run_name="__main__")
    call = np.diff(np.array(calls[-args.steps :])).mean()  # seconds
    step = np.diff(np.array(steps[-args.steps :])[:, 0]).mean()
    print(f"\n{args.env_id}, mean of {args.steps:,} guided steps: {1e3 * step:.2f} ms, of which the rule's call takes "
          f"{1e3 * call:.2f} ms: {call / (step - call):+.1%}")  # fmt: skip
