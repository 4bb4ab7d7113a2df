"""Where does guidance help? A run without supervision, and guided forks of it from its checkpoints.

    python -m benchmark.probes.forks --folder runs/forks
    python -m benchmark.probes.forks --folder runs/forks --steps 100000 --forks 400000 450000  # and longer ones

The run is plain SAC with one development seed. From each of its checkpoints a guided run goes on: same networks, same
buffer, same random numbers. What the guided one does better or worse than the run itself at the same step is measured
on both policies: return, length of the episodes, speed, alternating footfalls. Forks run beside the run that they come
from, as soon as their checkpoint is there. What was run before is not run again, and what was interrupted goes on.
Forks without guidance, but with other random numbers, show how far two runs part by chance:

    python -m benchmark.probes.forks --folder runs/forks --name reseeded --flags="--supervisor none --seed 101"

Docs: docs/resume.md, benchmark/results/guided_notes.md
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import pandas as pd
import torch
import tyro

from benchmark import ROOT
from benchmark.figures import drawing
from benchmark.figures.models import model_of
from benchmark.figures.paper import Walk, walk
from benchmark.figures.table import GUIDED_STEPS, read_events
from benchmark.sweeps.sweep import INTERRUPTED, ended_in_words, locked

SCRIPT = ROOT / "guided_sac_continuous.py"
KEYS = ["env", "seed", "fork", "step", "arm", "actions"]
PAUSE = 1.0  # seconds between two looks at what runs
PANELS = {
    "episodic_return": "return", "steps": "steps of an episode", "speed": "speed, m/s",
    "alternation": "share of footfalls that alternate",
}  # fmt: skip
MEASURES = ("episodic_return", "steps", "speed", "alternation", "footfalls_per_second", "double_support", "flight")


@dataclass
class Args:
    folder: Path = Path("runs/forks")
    """where the runs lie; checkpoints of 1,000,000 steps of Humanoid-v5 are 12 GB"""
    csv: Path = Path("benchmark/results/humanoid_forks.csv")
    """the file for the measurements"""
    picture: Path = Path("docs/figures/humanoid_forks.png")
    """and for a picture of the differences"""
    env_id: str = "Humanoid-v5"
    """the environment, one with continuous actions"""
    seed: int = 100
    """of all runs; a development seed, which no other table rests on"""
    total_timesteps: int = 1_000_000
    """steps of the run without supervision"""
    every: int = 50_000
    """steps between two forks, ≥ 1"""
    steps: tuple[int, ...] = (30_000,)
    """steps that a fork goes on, ≥ 1; of several, a fork each"""
    base_flags: str = "--compile"
    """further flags of the run without supervision, and so of all, by spaces"""
    flags: str = "--supervisor bundled"
    """flags that make a fork's guidance, by spaces; it is guided to its end, unless a `--guide-end` is among them"""
    name: str = "bundled"
    """what these forks are called"""
    forks: tuple[int, ...] = ()
    """only the forks from these steps, multiples of `--every`; none: all that there are"""
    episodes: int = 10
    """episodes by which a policy is measured, greedy and sampled each"""
    jobs: int = 2
    """processes side by side, ≥ 1, with a thread each; the run without supervision is one of them"""


class Fork(NamedTuple):
    """A guided run from a step of the run without supervision to another one."""

    begin: int
    end: int


def wanted(args: Args) -> list[Fork]:
    """The forks of this call; ValueError where the numbers do not fit."""
    if args.jobs < 1 or min((args.every, *args.steps), default=0) < 1 or not args.steps:
        raise ValueError("--jobs, --every and --steps must be 1 or more")
    if odd := [step for step in args.forks if step < 1 or step % args.every]:
        raise ValueError(f"--forks {odd[0]} is no multiple of --every {args.every}")
    forks = sorted({
        Fork(begin, begin + steps) for steps in args.steps
        for begin in args.forks or range(args.every, args.total_timesteps - steps + 1, args.every)
    })  # fmt: skip
    if forks and forks[-1].end > args.total_timesteps:
        raise ValueError(f"a fork to step {forks[-1].end} is longer than --total-timesteps {args.total_timesteps}")
    return forks


def kept(args: Args) -> set[tuple[int, int]]:
    """(every, steps) of this call and of all before it in the folder: the checkpoints that these need stay."""
    path = args.folder / "kept.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {*((every, steps) for every, steps in before), *((args.every, steps) for steps in args.steps)}


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of the run in a folder, by step in their order."""
    return {int(path.stem[5:]): path for path in sorted(folder.glob("runs/*/checkpoints/step_*.pt"))}


def prune(base: Path, pairs: set[tuple[int, int]]) -> None:
    """Remove the checkpoints that no fork begins or is compared at, but not the newest, from which the run goes on."""
    for step, path in list(checkpoints(base).items())[:-1]:
        if not any(step % every == 0 or (step > steps and (step - steps) % every == 0) for every, steps in pairs):
            path.unlink()


def check(base: Path, forks: list[Fork]) -> None:
    """Raise ValueError where the run without supervision is past a step whose checkpoint is needed and not there."""
    there = checkpoints(base)
    reached = math.inf if (base / "done").exists() else max(there, default=0)
    if missing := sorted({step for fork in forks for step in fork if step <= reached and step not in there}):
        steps = ", ".join(f"{step:,}" for step in missing)
        raise ValueError(f"{base} has no checkpoint of step {steps} and will have none: take other --steps or --folder")


def start(folder: Path, flags: Sequence[str], again: Sequence[str], lock: TextIO) -> subprocess.Popen:
    """Start the script in a folder of its own, or let it go on there; it holds the lock as long as it lives.

    Args:
        flags: of a run that begins.
        again: of one that goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = [path.parent for path in folder.glob("runs/*/settings.json")]
    if before and not checkpoints(folder):
        shutil.rmtree(folder / "runs")
        before = []
    arguments = ["--resume", f"runs/{before[0].name}", *again] if before else flags
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        # in a session of its own: Ctrl-C is for this program, which tells its runs once
        return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], cwd=folder, stdout=log,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"}, pass_fds=[lock.fileno()])  # fmt: skip


def start_base(args: Args, pairs: set[tuple[int, int]], lock: TextIO) -> subprocess.Popen:
    """The run without supervision, with a checkpoint wherever a fork begins or is compared."""
    frequency = str(math.gcd(*(number for pair in pairs for number in pair)))
    flags = ["--env-id", args.env_id, "--seed", str(args.seed), "--supervisor", "none", *args.base_flags.split(),
             "--total-timesteps", str(args.total_timesteps), "--checkpoint-frequency", frequency, "--checkpoint-keep",
             "all", "--eval-frequency", frequency, "--eval-sampled-episodes", "10"]  # fmt: skip
    return start(args.folder / "base", flags, ["--checkpoint-frequency", frequency], lock)


def folder_of(args: Args, fork: Fork) -> Path:
    """Where a fork lies."""
    return args.folder / f"{args.name}_{fork.begin}_{fork.end - fork.begin}"


def start_fork(args: Args, fork: Fork, lock: TextIO) -> subprocess.Popen:
    """The guided run, from the checkpoint of the run without supervision."""
    source = checkpoints(args.folder / "base")[fork.begin].resolve()
    flags = ["--resume", str(source), "--guide-end", str(fork.end), *args.flags.split(), "--checkpoint-keep", "1",
             "--total-timesteps", str(fork.end)]  # fmt: skip
    return start(folder_of(args, fork), flags, [], lock)


def measured(args: Args, path: Path) -> dict[str, Walk]:
    """The policy of a checkpoint, greedy and sampled."""
    settings = json.loads((path.parent.parent / "settings.json").read_text(encoding="utf-8"))["args"]
    weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["parts"]["actor"]
    model = model_of(SCRIPT, args.env_id, settings["env_kwargs"], settings["max_episode_steps"], weights)
    starts = range(5_000_000, 5_000_000 + args.episodes)  # no run's own starts
    return {actions: walk(model, actions == "greedy", starts) for actions in ("greedy", "sampled")}


def rows(args: Args, fork: Fork) -> list[dict[str, object]]:
    """What became of a fork, beside the run itself at the same step."""
    torch.set_num_threads(1)
    folder = folder_of(args, fork)
    points = [(step, int(value)) for step, tag, value in read_events(folder)[0] if tag == GUIDED_STEPS]
    arms = {"unguided": (args.folder / "base", 0), args.name: (folder, max(points, default=(0, 0))[1])}
    lines = []
    for arm, (place, guided_steps) in arms.items():
        for actions, one in measured(args, checkpoints(place)[fork.end]).items():
            score = one.gait
            values = (one.episodic_return, one.steps, one.speed, score.alternation, score.frequency,
                      score.double_support, score.flight)  # fmt: skip
            lines.append({"env": args.env_id, "seed": args.seed, "fork": fork.begin, "step": fork.end, "arm": arm,
                          "actions": actions, **dict(zip(MEASURES, values, strict=True)),
                          "guided_steps": guided_steps})  # fmt: skip
    return lines


def write(args: Args, lines: list[dict[str, object]]) -> None:
    """Put rows into the table, in the place of those that were measured before, and draw this run's."""
    table = pd.DataFrame(lines)
    if args.csv.is_file():
        table = pd.concat([pd.read_csv(args.csv), table]).drop_duplicates(KEYS, keep="last")
    table = table.sort_values(["fork", "step", "actions", "arm"])
    for path in (args.csv, args.picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    part = args.csv.with_name(f"{args.csv.name}.part")
    table.to_csv(part, index=False, float_format="%.6g")
    os.replace(part, args.csv)
    shown = table[(table.env == args.env_id) & (table.seed == args.seed)]
    drawing.save(drawing.forks(shown, PANELS), args.picture.with_suffix(""))


def main(args: Args) -> None:
    """Run what is missing and write the table; forks of the name that were measured before are measured again.

    Raises:
        ValueError: the numbers do not fit, a checkpoint is gone, or somebody is at work in the folder.
        ChildProcessError: runs failed.
        KeyboardInterrupt: this program or a run was interrupted; the same command goes on.
    """
    forks = wanted(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = locked(args.folder)
    except OSError:
        raise ValueError(f"another call, or a run that outlived it, is at work in {args.folder}") from None
    with lock:
        check(args.folder / "base", forks)
        statuses = run_all(args, forks, lock)
    if failed := [path for path, status in statuses.items() if status not in (0, *INTERRUPTED)]:
        logs = ", ".join(str(path / "log.txt") for path in failed)
        raise ChildProcessError(f"{len(failed)} runs failed: see {logs}")
    if any(statuses.values()):
        raise KeyboardInterrupt
    check(args.folder / "base", forks)


def run_all(args: Args, forks: list[Fork], lock: TextIO) -> dict[Path, int]:
    """Run and measure; returns the exit status of each folder's run."""
    base, pairs, statuses = args.folder / "base", kept(args), {}
    part = args.folder / "kept.json.part"
    part.write_text(json.dumps(sorted(pairs)) + "\n", encoding="utf-8")
    os.replace(part, args.folder / "kept.json")
    waiting = [fork for fork in forks if not (folder_of(args, fork) / "done").exists()]
    unmeasured, lines = list(forks), []
    running: dict[Path, subprocess.Popen] = {}
    try:
        if not (base / "done").exists():
            running[base] = start_base(args, pairs, lock)
        while True:
            there = checkpoints(base)
            ready = [fork for fork in waiting if fork.begin in there]
            for fork in ready[: args.jobs - len(running)]:
                running[folder_of(args, fork)] = start_fork(args, fork, lock)
                waiting.remove(fork)
            for fork in [x for x in unmeasured if x.end in there and (folder_of(args, x) / "done").exists()]:
                unmeasured.remove(fork)
                lines += rows(args, fork)
                write(args, lines)
            if not running:
                break
            time.sleep(PAUSE)
            for folder, process in list(running.items()):
                if process.poll() is not None:
                    statuses[folder] = ended(folder, running.pop(folder))
            prune(base, pairs)
    finally:  # an interruption, or an error here
        if running:
            print(f"{len(running)} runs end with a checkpoint", flush=True)
        for process in running.values():
            process.terminate()  # once: a second signal would end it without a checkpoint
        for folder, process in running.items():
            ended(folder, process)
    if lines:
        print(pd.DataFrame(lines).to_string(index=False))
    return statuses


def ended(folder: Path, process: subprocess.Popen) -> int:
    """Wait for a run's end, note it, and return the exit status."""
    status = process.wait()
    if status == 0:
        (folder / "done").touch()
    else:
        print(f"{folder}: {'interrupted' if status in INTERRUPTED else 'failed'} (exit status {status})", flush=True)
    return status


if __name__ == "__main__":
    args = tyro.cli(Args)
    with ended_in_words("forks.py"):
        main(args)
