"""Do two commits compute the same numbers? Short runs of every script at both, compared scalar by scalar, to the bit.

    python -m benchmark.probes.same_digits HEAD~1 HEAD

A commit may also be a folder with the scripts in it. A commit's run that is in `--runs` already is not made again, a
folder's is, since its code may have changed.
Exit status 1 where any scalar but the clock's differs.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# at least 1,000 updates each
COMMANDS = {
    "guided car": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled",
    "guided humanoid": "guided_sac_continuous.py --env-id Humanoid-v5 --supervisor bundled --total-timesteps 1500",
    "plain car": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor none --policy-frequency 2",
    "value network": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled --value-network",
    "three cars": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled --num-envs 3 "
    "--total-timesteps 3300",
    "compiled car": "guided_sac_continuous.py --env-id MountainCarContinuous-v0 --supervisor bundled --compile",
    "general defaults": "guided_sac_continuous.py --env-id Pendulum-v1 --supervisor none --learning-starts 100",
    "taxi": "guided_sac_discrete.py --env-id Taxi-v4 --supervisor bundled",
    "taxi, paper": "guided_sac_discrete.py --env-id Taxi-v4 --supervisor bundled --paper",
    "lake": "guided_sac_discrete.py --env-id FrozenLake-v1 --supervisor bundled",
    "lake, paper": "guided_sac_discrete.py --env-id FrozenLake-v1 --supervisor bundled --paper",
    "blackjack": "guided_sac_discrete.py --env-id Blackjack-v1 --supervisor bundled --learning-starts 100",
    "blackjack, paper": "guided_sac_discrete.py --env-id Blackjack-v1 --supervisor bundled --learning-starts 100 "
    "--paper",
    "three lakes": "guided_sac_discrete.py --env-id FrozenLake-v1 --supervisor bundled --num-envs 3 "
    "--total-timesteps 3300",
    "CartPole": "guided_sac_discrete.py --env-id CartPole-v1 --supervisor none --learning-starts 100",
    **{
        f"{method}, {env}": f"{method}_sac.py --env-id {env} --learning-starts 100{options}"
        for method in ("rnd", "icm", "e3b")
        for env, options in (
            ("MountainCarContinuous-v0", ""),
            ("Taxi-v4", ""),
            ("Blackjack-v1", " --num-envs 3 --total-timesteps 3300 --policy-frequency 2"),
        )
    },
    "rnd, compiled": "rnd_sac.py --env-id MountainCarContinuous-v0 --learning-starts 100 --compile",
}
DEFAULT_FLAGS = "--total-timesteps 2000 --seed 7 --eval-frequency 1000 --eval-episodes 2"
CLOCKS = ("charts/SPS", "supervisor/seconds", "llm/advisor_seconds", "llm/coder_seconds")

Scalars = dict[str, list[tuple[int, float]]]


@dataclass
class Args:
    before: tyro.conf.Positional[str]
    """a commit, or a folder with the scripts"""
    after: tyro.conf.Positional[str]
    """another"""
    only: tuple[str, ...] = ()
    """names of the runs to make, as the table prints them; none: all"""
    runs: Path = Path("runs/same_digits")
    """folder of the runs and of the commits' code"""
    jobs: int = 2
    """runs at a time, one thread each, ≥ 1"""


def code_of(commit: str, folder: Path) -> tuple[Path, Path]:
    """The folder of a commit's code, laid out once, and that of its runs; a folder's own, and an empty one for it."""
    if Path(commit).is_dir():
        code = Path(commit).resolve()
        runs = folder / ("folder" + str(code).replace("/", "_"))
        shutil.rmtree(runs, ignore_errors=True)
        return code, runs
    full = subprocess.run(["git", "rev-parse", "--verify", f"{commit}^{{commit}}"], capture_output=True, text=True)
    if full.returncode:
        raise SystemExit(f"error: {commit} is neither a commit nor a folder")
    code = folder / full.stdout.strip()[:12] / "code"
    if not code.is_dir():
        code.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=code.parent) as part:
            archive = subprocess.run(["git", "archive", full.stdout.strip()], capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", part], input=archive, check=True)
            os.rename(part, code)
            os.mkdir(part)  # for the context manager to remove
    return code.resolve(), code.parent


def scalars_of(code: Path, runs: Path, name: str) -> Scalars:
    """All scalars that a run logs, by tag, without the clock's. SystemExit where it fails."""
    kept = runs / name.replace(" ", "_").replace(",", "")
    if not (kept / "done").is_file():
        shutil.rmtree(kept, ignore_errors=True)  # what failed or was interrupted there
        kept.mkdir(parents=True)
        script, *flags = shlex.split(COMMANDS[name])
        command = [
            sys.executable,
            str(code / script),
            *shlex.split(DEFAULT_FLAGS),
            *flags,
        ]  # the last of two flags wins
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, cwd=kept, env=environment, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"error: {name} of {code} failed:\n{run.stderr[-2000:]}")
        (kept / "done").write_text(run.stdout)
    (folder,) = (kept / "runs").iterdir()
    return logged(folder)


def logged(run: Path) -> Scalars:
    """All scalars that a run's folder holds, by tag, without the clock's."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag not in CLOCKS]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def difference(before: Scalars, after: Scalars) -> str:
    """The first difference in words, "" where there is none."""
    if before.keys() != after.keys():
        return f"tags {sorted(before.keys() ^ after.keys())} are in one only"
    for tag, values in before.items():
        for old, new in zip(values, after[tag], strict=False):
            if old != new:
                return f"{tag}: step {old[0]} {old[1]!r}, now step {new[0]} {new[1]!r}"
        if len(values) != len(after[tag]):
            return f"{tag}: {len(values)} values, now {len(after[tag])}"
    return ""


def main(args: Args) -> int:
    """Make the runs and print a table; 1 where anything differs."""
    names = args.only or tuple(COMMANDS)
    if unknown := set(names) - set(COMMANDS):
        raise SystemExit(f"error: no run is called {min(unknown)}; there are: {', '.join(COMMANDS)}")
    if args.before == args.after:
        raise SystemExit("error: give two commits")
    sides = [code_of(commit, args.runs) for commit in (args.before, args.after)]
    different = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        made = [pool.map(partial(scalars_of, code, runs), names) for code, runs in sides]
        print("| run | scalars | difference |\n|-|-|-|")
        for name, before, after in zip(names, *made, strict=True):
            found = difference(before, after)
            different += bool(found)
            print(f"| {name} | {sum(map(len, before.values())):,} | {found or 'none'} |", flush=True)
    print(f"{len(names)} runs passed, {different} of them with a difference" if different else "all are the same")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
