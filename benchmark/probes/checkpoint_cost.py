"""What a checkpoint costs: seconds, bytes and memory, with a full replay buffer of the 47-variable Humanoid.

    python -m benchmark.probes.checkpoint_cost

Docs: docs/resume.md
"""

import os
import resource
import runpy
import sys
import tempfile
import time
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmark import ROOT

SCRIPT = ROOT / "guided_sac_continuous.py"


@dataclass
class Args:
    transitions: int = 1_000_000
    """rows of the replay buffer, all filled, ≥ 1"""
    repeats: int = 5
    """checkpoints that are written, ≥ 1"""


def peak() -> float:
    """Peak resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(args: Args) -> None:
    """Make a short run, fill its buffer, and write its checkpoints again and again."""
    sys.argv = [str(SCRIPT), "--env-id=Humanoid-v5", "--supervisor=none", "--total-timesteps=200", "--no-cuda",
                f"--buffer-size={args.transitions}"]  # fmt: skip
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder, chdir(folder):
        run = runpy.run_path(str(SCRIPT), run_name="__main__")
        rb, checkpoints, writer = run["rb"], run["checkpoints"], run["writer"]
        for column in rb.transitions[:-1]:
            column.copy_(torch.rand(column.shape))
        rb.added = args.transitions
        before, seconds = peak(), []
        for i in range(args.repeats):
            began = time.perf_counter()
            checkpoints.save(1_000 + i, run["loop"](), writer)
            seconds.append(time.perf_counter() - began)
        (path,) = Path("runs", run["run_name"], "checkpoints").iterdir()
        size = path.stat().st_size / 1e6
    print("| transitions | MB | seconds, median | longest | memory before, GB | after |\n|-|-|-|-|-|-|")
    median = sorted(seconds)[len(seconds) // 2]
    print(f"| {args.transitions:,} | {size:.0f} | {median:.1f} | {max(seconds):.1f} | {before:.2f} | {peak():.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Args))
