"""What a confined policy costs: time to start its process, and time of a call beside the same policy in this process.

    python -m benchmark.probes.sandbox_latency

The targets on an idle machine: start ≤ 300 ms; a call ≤ 60 µs at the median and ≤ 200 µs at the 99th percentile.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro

from supervision.sandbox.confinement import missing_layers
from supervision.sandbox.messages import BoxAction, Observation
from supervision.sandbox.policy import SandboxedPolicy

SOURCE = """
import math

import numpy as np


def policy(obs, t):
    lean = 2.0 * (float(obs[3]) * float(obs[5]) - float(obs[4]) * float(obs[6]))
    action = np.zeros(17)
    action[5] = -0.5 * lean - 0.02 * float(obs[35])
    action[9] = 0.05 * math.sin(0.1 * t)
    return np.clip(action, -0.4, 0.4)
"""


@dataclass
class Args:
    calls: int = 20_000
    """calls one after another"""
    paused_calls: int = 1_000
    """calls with a pause before each, in which caches grow cold, as they do while the learner learns"""
    pause: float = 0.005
    """seconds of that pause"""
    starts: int = 20
    """processes to start"""
    obs_size: int = 47
    """variables of an observation, ≥ 36"""


def timed(call: Callable[[], object], repeats: int, pause: float = 0.0) -> np.ndarray:
    """Return the seconds that each of the calls took."""
    seconds = np.empty(repeats)
    for i in range(repeats):
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        call()
        seconds[i] = time.perf_counter() - start
    return seconds


def row(what: str, seconds: np.ndarray, unit: str, scale: float) -> str:
    """A row of the table: median, 90th and 99th percentile and maximum, in a unit of 1 / scale seconds."""
    values = [*np.percentile(scale * seconds, [50, 90, 99]), scale * seconds.max()]
    return f"| {what} | {len(seconds):,} | " + " | ".join(f"{value:.1f} {unit}" for value in values) + " |"


if __name__ == "__main__":
    args = tyro.cli(Args)
    bound = np.full(17, 0.4)

    def make() -> SandboxedPolicy:
        observation = Observation("floats", (args.obs_size,))
        return SandboxedPolicy(SOURCE, observation=observation, action=BoxAction(-bound, bound))

    obs, t = np.random.default_rng(0).normal(size=(1, args.obs_size)), np.array([7])
    scope: dict = {}
    exec(SOURCE, scope)  # this file's own policy, not a model's
    load = os.getloadavg()[0]
    sleep = f"after {1e3 * args.pause:g} ms of sleep"

    def plain() -> object:
        return scope["policy"](obs[0], 7)

    with make() as policy:

        def confined() -> np.ndarray:
            return policy(obs, t)

        confined()
        rows = [
            row("call in this process", timed(plain, args.calls), "µs", 1e6),
            row("call, confined", timed(confined, args.calls), "µs", 1e6),
            row(f"call in this process, {sleep}", timed(plain, args.paused_calls, args.pause), "µs", 1e6),
            row(f"call, confined, {sleep}", timed(confined, args.paused_calls, args.pause), "µs", 1e6),
        ]
    rows.append(row("start", timed(lambda: make().close(), args.starts), "ms", 1e3))
    print(f"{os.cpu_count()} cores, load average {load:.1f}, missing layers: {', '.join(missing_layers()) or 'none'}\n")
    print("| what | times | median | 90 % | 99 % | longest |\n|-|-|-|-|-|-|")
    print("\n".join(rows))
