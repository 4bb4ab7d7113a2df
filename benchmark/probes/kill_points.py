"""Does a run that is killed at any moment and resumed end as one that was never interrupted? To the bit.

    python -m benchmark.probes.kill_points --kills 50

Each kind of run is made once without interruption and once killed (SIGKILL) at random moments and resumed, until it is
through. All scalars but the clock's, without a doubled or a missing point, all saved weights and the report are
compared.
Exit status 1 where anything differs.

Docs: docs/resume.md
"""

import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmark import ROOT
from benchmark.probes.same_digits import Scalars, difference, logged

HARMFUL = ROOT / "benchmark" / "harmful" / "MountainCarContinuous-v0" / "wrong_sign.py"
RUNS = {  # short episodes, so that probes, guided episodes and looks at a trial come between the kills
    "plain": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor none --policy-frequency 3",
    "guided": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled --guide-window 250 "
    "--max-episode-steps 90",
    "guided, three cars": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled "
    "--num-envs 3 --guide-window 300 --max-episode-steps 60",
    "guided, long episodes": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled "
    "--guide-window 250 --advisor-always",
    "ended by a trial": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled "
    f"--guide-window 250 --max-episode-steps 60 --guide-policy {HARMFUL}",
    "value network": "guided_sac_continuous.py --env-id Pendulum-v1 --supervisor none --value-network "
    "--learning-starts 100",
    "humanoid": "guided_sac_continuous.py --env-id Humanoid-v5 --supervisor bundled --guide-window 300 "
    "--replay-frames 0",
    "taxi": "guided_sac_discrete.py --env-id Taxi-v4 --supervisor bundled --guide-window 300 --replay-frames 0",
    "blackjack": "guided_sac_discrete.py --env-id Blackjack-v1 --supervisor bundled --learning-starts 100 "
    "--guide-window 300 --num-envs 2 --replay-frames 0",
    "lake, paper": "guided_sac_discrete.py --env-id FrozenLake-v1 --supervisor bundled --paper --replay-frames 0",
    "rnd": "rnd_sac.py --env-id MountainCarContinuous-v0 --num-envs 2",
    "icm": "icm_sac.py --env-id Taxi-v4",
    "e3b": "e3b_sac.py --env-id FrozenLake-v1 --num-envs 3 --learning-starts 100",
    "compiled": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled --compile "
    "--max-episode-steps 90",
}
THROUGH = re.compile(r"^step ([\d,]+)/\1 ", flags=re.MULTILINE)  # the last line of progress
START = 4.0  # seconds, about, before a process trains
FLAGS = "--seed 5 --eval-frequency 400 --eval-episodes 2 --eval-sampled-episodes 1 --save-model"


@dataclass
class Args:
    kills: int = 50
    """at least so many, over all kinds of runs, ≥ 1"""
    only: tuple[str, ...] = ()
    """kinds of runs, as the table prints them; none: all"""
    steps: int = 1_200
    """environment steps of a run, ≥ 1"""
    checkpoint_frequency: int = 150
    """environment steps between two checkpoints, ≥ 1"""
    seed: int = 0
    """of the moments"""


def start(folder: Path, command: list[str]) -> subprocess.Popen:
    """A run's process in a folder of its own, on one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "ab") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def command_of(name: str, args: Args) -> list[str]:
    """The command line of a run of `RUNS`."""
    script, *flags = shlex.split(RUNS[name])
    flags += [*shlex.split(FLAGS), "--total-timesteps", str(args.steps)]
    return [sys.executable, str(ROOT / script), *flags, "--checkpoint-frequency", str(args.checkpoint_frequency)]


def killed_and_resumed(folder: Path, command: list[str], kills: int, moments: random.Random, seconds: float) -> int:
    """Make a run that is killed at random moments until it is through; returns how often it was killed.

    Args:
        seconds: how long it takes without; on average a process lives for so much of it that the kills come to pass.
    """
    killed = 0
    while True:
        runs = list(folder.glob("runs/*/settings.json"))
        resume = [*command[:2], "--resume", str(runs[0].parent.relative_to(folder))] if runs else command
        process = start(folder, resume)
        if killed < kills:
            with suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(2.0, START + 2 * max(0.5, seconds - START) / (kills + 1)))
            if not THROUGH.search((folder / "log").read_text()):  # a finished run cannot be resumed
                process.kill()
                killed += 1
        if process.wait() == 0:
            return killed
        if process.returncode != -9:
            raise SystemExit(f"error: {shlex.join(resume)} ended with {process.returncode}:\n"
                             f"{(folder / 'log').read_text()[-2000:]}")  # fmt: skip


OF_THE_PROCESS = re.compile(  # in a report: the clock's, and pictures, which no checkpoint holds
    r"\d{4}-\d\d-\d\d \d\d:\d\d UTC|[\d,.]+ s\b|<tr><th>resume</th>.*?</tr>|"
    r'<div class="film">.*?</div>|<section class="box" id="end">.*?</section>',
    re.DOTALL,
)


OF_THE_SUPERVISOR = ("supervisor/", "llm/", "charts/guidance_active")  # tags


def report_of(run: Path) -> str:
    """A run's report, as far as it must be the same where the run was cut off; "" where it has none."""
    path = run / "report.html"
    return OF_THE_PROCESS.sub("", path.read_text(encoding="utf-8").replace(run.name, "")) if path.exists() else ""


def result(folder: Path) -> tuple[Scalars, list[dict[str, torch.Tensor]], str]:
    """What a run logged, its weights and its report."""
    (run,) = folder.glob("runs/*")
    (model,) = run.glob("*.cleanrl_model")
    assert not list(run.rglob("*.part"))
    # behind the last checkpoint the supervisor logs its last points, a run that is killed then once more
    points = {tag: list(dict.fromkeys(found)) if tag.startswith(OF_THE_SUPERVISOR) else found
              for tag, found in logged(run).items()}  # fmt: skip
    return points, list(torch.load(model, weights_only=True)), report_of(run)


def main(args: Args) -> int:
    """Make the runs and print a table; 1 where anything differs."""
    names = args.only or tuple(RUNS)
    if unknown := set(names) - set(RUNS):
        raise SystemExit(f"error: no run is called {min(unknown)}; there are: {', '.join(RUNS)}")
    moments, different, killed, each = random.Random(args.seed), 0, 0, -(-args.kills // len(names))
    print("| run | killed | scalars | difference |\n|-|-|-|-|")
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(names):
            command, whole, cut = command_of(name, args), Path(folder, f"{i}", "whole"), Path(folder, f"{i}", "cut")
            began = time.monotonic()
            if start(whole, command).wait() != 0:
                raise SystemExit(f"error: {shlex.join(command)} failed:\n{(whole / 'log').read_text()[-2000:]}")
            times = killed_and_resumed(cut, command, each, moments, time.monotonic() - began)
            (before, weights, report), (after, others, report_after) = result(whole), result(cut)
            found = difference(before, after)
            if not all(torch.equal(a[key], b[key]) for a, b in zip(weights, others, strict=True) for key in a):
                found = f"{found}; weights"
            if report != report_after:
                found = f"{found}; report"
            different, killed = different + bool(found), killed + times
            print(f"| {name} | {times} | {sum(map(len, before.values())):,} | {found or 'none'} |", flush=True)
    print(f"{killed} kills, {f'{different} runs with a difference' if different else 'all runs are the same'}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
