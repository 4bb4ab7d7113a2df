"""What guidance and the bonuses cost: time per environment step of each beside plain SAC's.

    python -m benchmark.probes.added_cost

All take turns on the CPU, block by block, each in a process of its own that runs its unmodified training loop; while
one runs, the others wait. Keep the machine idle meanwhile. What is added is the median over the rounds of the ratio to
plain SAC's block of the same round, so that a machine whose speed drifts does not decide it. The bars on Humanoid-v5:
guidance +5 % (its consultation is over before the first block), RND and ICM +60 %, E3B +40 %.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass

import tyro

from benchmark.races.speed import PEER, SCRIPT, Contestant, environment, machine, take_turns

PLAIN = "plain SAC"
GUIDED = "guided at every step"
GUIDED_FLAGS = ("--supervisor", "bundled", "--advisor-always", "--guide-start", "0", "--guide-window", "1000000000",
                "--guide-end", "1000000000", "--replay-frames", "0")  # fmt: skip
CONTESTANTS = {
    PLAIN: (SCRIPT.name, "--supervisor", "none"), GUIDED: (SCRIPT.name, *GUIDED_FLAGS),
    "RND": ("rnd_sac.py",), "ICM": ("icm_sac.py",), "E3B": ("e3b_sac.py",),
}  # fmt: skip
BARS = {GUIDED: 0.05, "RND": 0.6, "ICM": 0.6, "E3B": 0.4}


@dataclass
class Args:
    env_id: str = "Humanoid-v5"
    """an environment with a bundled rule, with its defaults in the scripts (Humanoid: the paper's 47 variables)"""
    blocks: int = 15
    """timed blocks of each contestant, ≥ 2; the table has their median"""
    steps: int = 100
    """environment steps of a block, ≥ 1"""
    warm_up: int = 150
    """steps of each contestant before the first block, of which the first 100 are without updates"""
    threads: int | None = None
    """threads of each contestant (OMP_NUM_THREADS); None: torch's default"""


def race(args: Args) -> dict[str, list[float]]:
    """Milliseconds per environment step of each contestant's blocks, in their order."""
    env = environment("cpu", args.threads)
    with tempfile.TemporaryDirectory() as folder:
        contestants = [
            Contestant(
                name, [sys.executable, str(PEER), "script", str(SCRIPT.with_name(script)), args.env_id, *flags],
                folder, env,
            )
            for name, (script, *flags) in CONTESTANTS.items()
        ]  # fmt: skip
        take_turns(contestants, args.warm_up, args.steps, args.blocks)
    return {c.name: [1e3 * seconds / args.steps for seconds in c.seconds] for c in contestants}


def added(values: list[float], plain: list[float]) -> list[float]:
    """What each block takes more than plain SAC's of the same round, as a share of that."""
    return [value / reference - 1 for value, reference in zip(values, plain, strict=True)]


if __name__ == "__main__":
    args = tyro.cli(Args)
    about = machine("cpu", args.threads)  # the load before the race, not its own
    times = race(args)
    print(f"{args.env_id}, {about}, {args.blocks} blocks of {args.steps} steps\n")
    print("| contestant | ms per step, median | lowest | highest | added | quartiles | bar |\n|-|-|-|-|-|-|-|")
    for name, values in times.items():
        cells = [f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))]
        if name in BARS:
            low, median, high = statistics.quantiles(added(values, times[PLAIN]))
            cells += [f"{median:+.1%}", f"{low:+.1%} to {high:+.1%}", f"{BARS[name]:+.0%}"]
        else:
            cells += ["", "", ""]
        print(f"| {name} | {' | '.join(cells)} |")
