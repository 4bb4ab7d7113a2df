"""What videos and the report take of a guided run's wall time.

    python -m benchmark.probes.rendering_cost

Each run is a process of its own, with the bundled supervisor; a row of the table that it prints is one run. The bars:
all rendering 3 %, the report 1 %.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmark import ROOT

SCRIPTS = {"continuous": "guided_sac_continuous.py", "discrete": "guided_sac_discrete.py"}
RUN = """
import runpy, sys, time
sys.argv = sys.argv[1:]
began = time.monotonic()
run = runpy.run_path(sys.argv[0], run_name="__main__")
supervisor, all_of_it = run["supervisor"], time.monotonic() - began
print("TOOK", all_of_it, supervisor.camera.seconds, supervisor.report.seconds, supervisor.consultations.count)
"""


@dataclass
class Args:
    runs: tuple[str, ...] = (
        "continuous MountainCarContinuous-v0 5000", "continuous MountainCarContinuous-v0 20000",
        "continuous Humanoid-v5 5000", "discrete FrozenLake-v1 5000",
    )  # fmt: skip
    """the runs: `continuous` or `discrete`, an environment with a bundled rule, and steps"""


def row(run: str) -> str:
    """A run's line of the table.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    kind, env_id, steps = run.split()
    command = [sys.executable, "-c", RUN, str(ROOT / SCRIPTS[kind]), "--env-id", env_id, "--total-timesteps", steps,
               "--supervisor", "bundled"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        said = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True).stdout
        videos = len(list(Path(folder).rglob("replays/*.mp4")))
    took, films, report, consultations = map(float, said.partition("TOOK ")[2].split())
    return (
        f"| {env_id} | {int(steps):,} | {took:.0f} s | {int(consultations)} | {videos} | {films:.2f} s, "
        f"{films / took:.1%} | {report:.2f} s, {report / took:.1%} |"
    )


def main(args: Args) -> None:
    """Print the table."""
    print("| environment | steps | run | consultations | videos | all pictures and videos | the report |")
    print("|-|-|-|-|-|-|-|")
    for run in args.runs:
        print(row(run), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
