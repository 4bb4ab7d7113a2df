"""Environment steps per second of guided_sac_discrete.py beside a plain discrete SAC on equal terms.

    python -m benchmark.races.discrete_speed

The race is that of speed.py: contestants take turns, block by block, each in a process of its own. Keep the machine
idle meanwhile. All run on the CPU. The plain one is plain_discrete_sac.py.

"ours" has its policy in closed form and trains no actor network, which the plain one does: a part of what lies between
them is another algorithm. "ours, with an actor network" does the plain one's work, an update of two critics and of an
actor in each step, so that ratio is the code's own. The guided ones also ask the rule and have the conservative term.
Docs: docs/guided_sac_discrete.md
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmark import ROOT
from benchmark.races.speed import PEER, Contestant, environment, machine, rates_of, take_turns, versions

ALWAYS_GUIDED = ["--supervisor", "bundled", "--advisor-always", "--guide-window", "1000000000", "--guide-end",
                 "1000000000", "--replay-frames", "0"]  # fmt: skip
FLAGS = {
    "ours": ["--supervisor", "none"],
    "ours, with an actor network": ["--supervisor", "none", "--no-exact-improvement"],
    "ours, guided at every step": ALWAYS_GUIDED,
    "ours, guided, without the conservative term": [*ALWAYS_GUIDED, "--guide-conservatism", "0"],
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
    before: Path | None = None
    """a folder with the scripts of another commit (of `git archive`): its "ours" and its guided one race too"""


def command(args: Args, name: str, folder: Path = ROOT) -> list[str]:
    """A contestant's command line, with our scripts of this folder."""
    script = PEER.with_name("plain_discrete_sac.py") if name == "plain" else folder / "guided_sac_discrete.py"
    flags = ["--batch-size", str(args.batch_size), *FLAGS[name]]
    return [sys.executable, str(PEER), "script", str(script), args.env_id, *flags]


def race(args: Args, folder: str) -> dict[str, list[float]]:
    """Steps per second of every block of each contestant, sorted."""
    env = environment("cpu", args.threads)
    commands = {name: command(args, name) for name in FLAGS}
    if args.before:
        for name in ("ours", "ours, guided at every step"):
            commands[f"{name}, before"] = command(args, name, args.before.resolve())
    contestants = [Contestant(name, line, folder, env) for name, line in commands.items()]
    take_turns(contestants, args.warm_up, args.steps, args.blocks)
    return rates_of(contestants, args.steps)


if __name__ == "__main__":
    args = tyro.cli(Args)
    about = f"{versions(sys.executable, 'torch', 'gymnasium')}\n{machine('cpu', args.threads)}"
    print(f"{about}, {args.blocks} blocks of {args.steps} steps; {args.env_id}, batch {args.batch_size}\n")
    with tempfile.TemporaryDirectory() as folder:
        rates = race(args, folder)
    plain = statistics.median(rates["plain"])
    print("| contestant | steps/s, median | lowest | highest | to the plain one |\n|-|-|-|-|-|")
    for name, blocks in rates.items():
        rate = statistics.median(blocks)
        print(f"| {name} | {rate:.0f} | {blocks[0]:.0f} | {blocks[-1]:.0f} | {rate / plain:.2f} × |")
