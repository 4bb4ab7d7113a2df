"""Where the milliseconds of an environment step go, in the unmodified loop of guided_sac_continuous.py.

    python -m benchmark.probes.profile_update
    python -m benchmark.probes.profile_update --operations 12

What the script calls is wrapped from outside and notes when each call began and ended. The parts of a step are the
spans between these moments, so they add up to it. With `--operations` the table is of torch's operations instead, from
torch's profiler, which slows the step. Without supervisor, on the CPU. Keep the machine idle meanwhile.
Docs: docs/speed.md
"""

import runpy
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from typing import Literal

import numpy as np
import torch
import tyro
from gymnasium.vector import SyncVectorEnv

from benchmark.races.speed import OURS, SCRIPT, machine, versions
from guided_utils import optimisation

PARTS = {  # what has happened since the moment before, when a moment comes
    "step ends": "physics",
    "randn begins": "store, sample",
    "critics' Adam begins": "critics' gradients",
    "critics' Adam ends": "critics' Adam",
    "actor's Adam begins": "actor's gradients",
    "actor's Adam ends": "actor's Adam",
    "lerp ends": "targets",
    "step begins": "logging, acting",  # of the next step
}
COMPILED_PARTS = {  # nothing can be told apart within a graph
    "step ends": "physics",
    "randn begins": "store, sample",
    "update ends": "update",
    "step begins": "logging, acting",
}


@dataclass
class Args:
    env_id: str = "Humanoid-v5"
    """an environment with Gymnasium's own settings"""
    steps: int = 1_000
    """environment steps that count, ≥ 1"""
    warm_up: int = 300
    """steps before them, > 101, of which the first 100 are without updates"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """the script's `--precision`"""
    compile: bool = False
    """the script's `--compile`"""
    operations: int = 0
    """how many of torch's operations to list, those with the most time of their own, ≥ 0; 0: the parts of a step"""
    threads: int | None = None
    """threads of torch; None: its default"""


def timed(function: Callable, name: str, moments: list[tuple[str, float]]) -> Callable:
    """The function, which notes when each of its calls began and ended."""

    def call(*args, **options):
        moments.append((f"{name} begins", perf_counter()))
        result = function(*args, **options)
        moments.append((f"{name} ends", perf_counter()))
        return result

    return call


def parts(moments: list[tuple[str, float]], steps: int, of: dict[str, str] = PARTS) -> dict[str, float]:
    """Mean seconds of each part over the last whole steps, each from one call of the environment to the next."""
    moments = [(name, when) for name, when in moments if name in of]
    begins = [i for i, (name, _) in enumerate(moments) if name == "step begins"]
    names, times = zip(*moments[begins[-1 - steps] : begins[-1] + 1], strict=True)
    if names[1:] != tuple(of) * steps:
        raise ValueError(f"a step of the script is no longer {' → '.join(of)}")
    return dict(zip(of.values(), np.diff(times).reshape(steps, -1).mean(axis=0).tolist(), strict=True))


def recorded(step: Callable, profiler: torch.profiler.profile, first: int, last: int) -> Callable:
    """The environment's step, whose call `first` (from 1) starts the profiler and whose call `last` stops it."""
    calls = count(1)

    def call(*args, **options):
        number = next(calls)
        if number == first:
            profiler.start()
        if number == last:
            profiler.stop()
        return step(*args, **options)

    return call


def operations(profiler: torch.profiler.profile, steps: int, most: int) -> list[tuple[str, float, float]]:
    """Name, calls and own milliseconds per step of the operations with the most time, then of all together."""
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)
    rows = [(f"`{e.key.removeprefix('## Call ')[:32]}`", e.count / steps, 1e-3 * e.self_cpu_time_total / steps)
            for e in events]  # fmt: skip
    return [*rows[:most], ("all", sum(row[1] for row in rows), sum(row[2] for row in rows))]


if __name__ == "__main__":
    args = tyro.cli(Args)
    if args.threads:
        torch.set_num_threads(args.threads)
    about = f"{versions(sys.executable, 'torch', 'gymnasium', 'mujoco')}\n{machine('cpu', args.threads)}"
    moments: list[tuple[str, float]] = []
    optimizers = iter(("critics' Adam", "actor's Adam"))  # in the order in which the script makes them

    class Adam(optimisation.Adam):
        """The script's optimiser, whose steps are moments too."""

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.step = timed(self.step, next(optimizers), moments)

    randn, noise = torch.randn, timed(torch.randn, "randn", moments)
    # an update begins with its noise (2, B, dim(A)); acting draws (N, dim(A))
    torch.randn = lambda *size, **options: (noise if len(size) == 3 else randn)(*size, **options)
    if args.compile:
        compiler = torch.compile
        torch.compile = lambda function, **options: timed(compiler(function, **options), function.__name__, moments)
    else:
        optimisation.Adam = Adam
        torch._foreach_lerp_ = timed(torch._foreach_lerp_, "lerp", moments)
    SyncVectorEnv.step = timed(SyncVectorEnv.step, "step", moments)
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    if args.operations:
        SyncVectorEnv.step = recorded(SyncVectorEnv.step, profiler, args.warm_up + 1, args.warm_up + args.steps + 1)
    sys.argv = [
        str(SCRIPT), f"--env-id={args.env_id}", f"--total-timesteps={args.warm_up + args.steps + 1}",
        "--learning-starts=100", "--no-cuda", f"--precision={args.precision}",
        "--compile" if args.compile else "--no-compile", *OURS,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    settings = f"{args.env_id}, {args.precision}{', compiled' * args.compile}"
    about = f"{about}, {settings}, mean of {args.steps:,} steps, in ms"
    if args.operations:
        print(f"\n{about}, under torch's profiler\n\n| operation | calls a step | own time |\n|-|-|-|")
        for name, calls, own in operations(profiler, args.steps, args.operations):
            print(f"| {name} | {calls:.1f} | {own:.2f} |")
    else:
        spans = parts(moments, args.steps, COMPILED_PARTS if args.compile else PARTS)
        means = {name: 1e3 * seconds for name, seconds in spans.items()}
        print(f"\n{about}\n\n| step | {' | '.join(means)} |\n|{'-|' * (len(means) + 1)}")
        print(f"| {sum(means.values()):.2f} | {' | '.join(f'{mean:.2f}' for mean in means.values())} |")
