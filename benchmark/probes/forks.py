"""Where does guidance help? A run without supervision, and guided forks of it from its checkpoints.

    python -m benchmark.probes.forks --folder runs/forks

The run is plain SAC with one development seed. From each of its checkpoints a guided run goes on: same networks, same
buffer, same random numbers. What the guided one does better or worse than the run itself at the same step is measured
on both policies: return, length of the episodes, speed, alternating footfalls. What was run before is not run again,
and what was interrupted goes on.

Docs: docs/resume.md
"""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import tyro

from benchmark import ROOT
from benchmark.figures.models import model_of
from benchmark.figures.paper import Walk, walk

SCRIPT = ROOT / "guided_sac_continuous.py"
KEYS = ["env", "seed", "fork", "step", "arm", "actions"]
PAUSE = 60.0  # seconds between two looks at which checkpoints are needed
MEASURES = ("episodic_return", "steps", "speed", "alternation", "footfalls_per_second", "double_support", "flight")


@dataclass
class Args:
    folder: Path = Path("runs/forks")
    """where the runs lie; checkpoints of 1,000,000 steps of Humanoid-v5 are 12 GB"""
    csv: Path = Path("benchmark/results/humanoid_forks.csv")
    """the file for the measurements"""
    env_id: str = "Humanoid-v5"
    """the environment, one with continuous actions"""
    seed: int = 100
    """of all runs; a development seed, which no other table rests on"""
    total_timesteps: int = 1_000_000
    """steps of the run without supervision"""
    every: int = 50_000
    """steps between two forks"""
    steps: int = 30_000
    """steps that a fork goes on"""
    base_flags: str = "--compile"
    """further flags of the run without supervision, and so of all, by spaces"""
    flags: str = "--supervisor bundled"
    """flags that make a fork's guidance, by spaces"""
    name: str = "bundled"
    """what these forks are called"""
    forks: tuple[int, ...] = ()
    """only the forks of these steps; none: all that there are"""
    episodes: int = 10
    """episodes by which a policy is measured, greedy and sampled each"""
    jobs: int = 2
    """processes side by side, with a thread each"""


def run(folder: Path, flags: Sequence[str]) -> None:
    """Run the script in a folder of its own, or let it go on there; RuntimeError where it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    before = [path.parent for path in folder.glob("runs/*/settings.json")]
    if before and not any(before[0].glob("checkpoints/step_*.pt")):
        shutil.rmtree(folder / "runs")
        before = []
    command = [sys.executable, str(SCRIPT), *(["--resume", f"runs/{before[0].name}"] if before else flags)]
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        status = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}: see {folder / 'log.txt'}")
    (folder / "done").touch()


def checkpoint(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step below a folder."""
    return next(folder.glob(f"runs/*/checkpoints/step_{step:09d}.pt"), None)


def base(args: Args) -> None:
    """The run without supervision to its end. Of its checkpoints those are kept that forks begin or are compared at."""
    folder = args.folder / "base"
    frequency = str(math.gcd(args.every, args.steps))
    flags = ["--env-id", args.env_id, "--seed", str(args.seed), "--supervisor", "none", *args.base_flags.split(),
             "--total-timesteps", str(args.total_timesteps), "--checkpoint-frequency", frequency, "--checkpoint-keep",
             "all", "--eval-frequency", frequency, "--eval-sampled-episodes", "10"]  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, folder, flags)
        while not running.done():
            time.sleep(PAUSE)
            files = sorted(folder.glob("runs/*/checkpoints/step_*.pt"))
            for path in files[:-1]:  # the newest is what an interrupted run goes on from
                step = int(path.stem[5:])
                if step % args.every and (step - args.steps) % args.every:
                    path.unlink()
        running.result()


def fork(args: Args, step: int) -> None:
    """The guided run from a checkpoint of the run without supervision."""
    folder = args.folder / f"{args.name}_{step}"
    if not (folder / "done").exists():
        source = checkpoint(args.folder / "base", step)
        if source is None:
            raise RuntimeError(f"no checkpoint of step {step:,} below {args.folder / 'base'}")
        run(folder, ["--resume", str(source.resolve()), *args.flags.split(), "--checkpoint-keep", "1",
                     "--total-timesteps", str(step + args.steps)])  # fmt: skip


def measured(args: Args, path: Path) -> dict[str, Walk]:
    """The policy of a checkpoint, greedy and sampled."""
    settings = json.loads((path.parent.parent / "settings.json").read_text(encoding="utf-8"))["args"]
    weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["parts"]["actor"]
    model = model_of(SCRIPT, args.env_id, settings["env_kwargs"], settings["max_episode_steps"], weights)
    starts = range(5_000_000, 5_000_000 + args.episodes)  # no run's own starts
    return {actions: walk(model, actions == "greedy", starts) for actions in ("greedy", "sampled")}


def rows(args: Args, step: int) -> list[dict[str, object]]:
    """What became of a fork, beside the run itself at the same step."""
    torch.set_num_threads(1)
    end = step + args.steps
    found = {"unguided": checkpoint(args.folder / "base", end),
             args.name: checkpoint(args.folder / f"{args.name}_{step}", end)}  # fmt: skip
    lines = []
    for arm, path in found.items():
        if path is None:
            raise RuntimeError(f"no checkpoint of step {end:,} of {arm}")
        for actions, one in measured(args, path).items():
            score = one.gait
            values = (one.episodic_return, one.steps, one.speed, score.alternation, score.frequency,
                      score.double_support, score.flight)  # fmt: skip
            lines.append({"env": args.env_id, "seed": args.seed, "fork": step, "step": end, "arm": arm,
                          "actions": actions, **dict(zip(MEASURES, values, strict=True))})  # fmt: skip
    return lines


def main(args: Args) -> None:
    """Run what is missing and write the table; forks of the name that were measured before are measured again."""
    if not (args.folder / "base" / "done").exists():
        base(args)
    steps = args.forks or range(args.every, args.total_timesteps - args.steps + 1, args.every)
    with ThreadPoolExecutor(args.jobs) as pool:
        for _ in pool.map(lambda step: fork(args, step), steps):
            pass
    table = pd.DataFrame([row for step in steps for row in rows(args, step)])
    if args.csv.is_file():
        table = pd.concat([pd.read_csv(args.csv), table]).drop_duplicates(KEYS, keep="last")
    table.sort_values(["fork", "step", "actions", "arm"]).to_csv(args.csv, index=False, float_format="%.6g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (RuntimeError, OSError) as error:
        raise SystemExit(f"forks.py: error: {error}") from None
