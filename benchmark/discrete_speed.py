"""Environment steps per second of guided_sac_discrete.py beside a plain discrete SAC on equal terms.

    python benchmark/discrete_speed.py

The race is that of speed.py: contestants take turns, block by block, each in a process of its own. Keep the machine
idle meanwhile. The plain one is plain_discrete_sac.py.
Docs: docs/guided_sac_discrete.md
"""

import os
import statistics
import sys
import tempfile
from dataclasses import dataclass

import speed
import torch
import tyro
from speed import PEER, Contestant, take_turns

ALWAYS_GUIDED = ["--supervisor", "bundled", "--advisor-always", "--guide-window", "1000000000", "--guide-end",
                 "1000000000", "--replay-max-steps", "200", "--replay-frames", "0"]  # fmt: skip
FLAGS = {
    "ours": ["--supervisor", "none"],
    "ours, guided at every step": ALWAYS_GUIDED,
    "ours, guided, with an actor network": [*ALWAYS_GUIDED, "--no-exact-improvement"],
    "plain": [],
}


@dataclass
class Args:
    env_id: str = "Taxi-v4"
    """an environment with discrete observations and a bundled rule"""
    batch_size: int = 256
    """transitions of an update"""
    blocks: int = 5
    """timed blocks of each contestant, ≥ 1; the table has their median"""
    steps: int = 300
    """environment steps of a block, ≥ 1"""
    warm_up: int = 400
    """steps of each contestant before the first block, of which the first 100 are without updates"""
    threads: int | None = None
    """threads of each contestant (OMP_NUM_THREADS); None: its default"""


def command(args: Args, name: str) -> list[str]:
    """A contestant's command line."""
    script = PEER.with_name("plain_discrete_sac.py") if name == "plain" else PEER.parents[1] / "guided_sac_discrete.py"
    flags = ["--batch-size", str(args.batch_size), *FLAGS[name]]
    return [sys.executable, str(PEER), "script", str(script), args.env_id, *flags]


def race(args: Args, folder: str, env: dict[str, str]) -> dict[str, list[float]]:
    """Steps per second of every block of each contestant, sorted."""
    contestants = [Contestant(name, command(args, name), folder, env) for name in FLAGS]
    take_turns(contestants, args.warm_up, args.steps, args.blocks)
    return {c.name: sorted(args.steps / seconds for seconds in c.seconds) for c in contestants}


if __name__ == "__main__":
    args = tyro.cli(Args)
    env = dict(os.environ)
    if args.threads:
        env["OMP_NUM_THREADS"] = str(args.threads)
        torch.set_num_threads(args.threads)
    about = speed.versions(speed.Args(blocks=args.blocks, steps=args.steps, threads=args.threads))
    print(f"{about}; {args.env_id}, batch {args.batch_size}\n")
    with tempfile.TemporaryDirectory() as folder:
        rates = race(args, folder, env)
    plain = statistics.median(rates["plain"])
    print("| contestant | steps/s, median | lowest | highest | to the plain one |\n|-|-|-|-|-|")
    for name, blocks in rates.items():
        rate = statistics.median(blocks)
        print(f"| {name} | {rate:.0f} | {blocks[0]:.0f} | {blocks[-1]:.0f} | {rate / plain:.2f} × |")
