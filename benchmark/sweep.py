"""Run studies on Ray: every run is an unmodified script in a process of its own.

    python benchmark/sweep.py benchmark/studies/mountain_car_continuous.toml

Docs: docs/benchmark.md
"""

import ast
import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import tyro
from filelock import FileLock, Timeout

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import: a sweep reports to nobody
import ray

ROOT = Path(__file__).resolve().parent.parent
# whose versions are recorded with a run, as far as they are installed
PACKAGES = ("torch", "gymnasium", "mujoco", "numpy", "tensorboard", "stable-baselines3")
LOG_LINES = 15
RULE = "guide-policy"  # the flag that names a file: relative to the script's folder, and part of the code
GUIDE_DURATION = "guide-duration"  # no flag of a script: in a study it stands for guide-end = guide-start + duration
FILMING = ("capture-video", "replay-frequency")  # the flags with which a baseline imports the helper

Flag = bool | int | float | str


@dataclass
class Args:
    studies: tyro.conf.Positional[list[Path]]
    """the studies' TOML files"""
    quick: bool = False
    """the studies' quick form: few seeds, few steps"""
    runs: Path = Path("runs/sweep")
    """folder of the runs, which every machine of a cluster must see under the same path"""
    threads: int = 1
    """cores that a run reserves and threads that it computes with (OMP_NUM_THREADS), ≥ 1; counts as a setting"""
    cores: int | None = None
    """cores of this machine that a local sweep may use, ≥ 1; None: all"""
    ray_address: str = "local"
    """"local" starts Ray on this machine; "auto" and "host:port" use a running cluster, from one of its machines"""


# --- studies ---
class StudyError(ValueError):
    """A study that cannot be run: which file, what is wrong, what is accepted."""


@dataclass(frozen=True)
class Run:
    """One process, and everything that decides what it computes."""

    script: Path
    env: str
    seed: int
    flags: dict[str, Flag]
    threads: int
    code: str  # code_hash() when the sweep was begun

    @property
    def arguments(self) -> list[str]:
        """The command line behind the script's name."""
        arguments = [f"--env-id={self.env}", f"--seed={self.seed}"]
        for name, value in self.flags.items():
            if isinstance(value, bool):
                arguments.append(f"--{name}" if value else f"--no-{name}")
            elif name == RULE:
                arguments.append(f"--{name}={self.script.parent / value}")
            else:
                arguments.append(f"--{name}={value}")
        return arguments

    @property
    def settings(self) -> dict:
        """What the hash is taken of."""
        return {
            "script": self.script.name, "env": self.env, "seed": self.seed, "flags": self.flags,
            "threads": self.threads, "code": self.code,
        }  # fmt: skip

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.env.replace('/', '_')}__{self.script.stem}__{self.seed}__{self.hash}"


@dataclass(frozen=True)
class Arm:
    """One of the things that a study compares."""

    script: Path
    flags: dict[str, Flag]
    point: dict[str, Flag] = field(default_factory=dict)  # its values on the axes of a grid, where it comes from one
    seeds: list[int] | None = None  # its own; None: the study's


@dataclass(frozen=True)
class Study:
    """What a study's file says, checked."""

    name: str
    environments: list[str]
    seeds: list[int]
    arms: dict[str, Arm]
    metric: str
    thresholds: dict[str, float]  # by environment; there may be none
    quick: bool
    by_environment: dict[str, dict[str, Flag]] = field(default_factory=dict)  # flags that go over the arms' there

    def flags_of(self, arm: str, env: str) -> dict[str, Flag]:
        return self.arms[arm].flags | self.by_environment.get(env, {})

    def seeds_of(self, arm: str) -> list[int]:
        own = self.arms[arm].seeds
        return self.seeds if own is None else own

    def runs(self, threads: int) -> Iterator[tuple[str, Run]]:
        """Every run with its arm's name, seed by seed, so that an interrupted sweep leaves all arms alike.

        Arms may share a run: it has one hash, is run once, and counts for each of them.
        """
        parse = functools.lru_cache(parsed)  # a grid's arms ask for the same files many times
        code = {
            (env, name): code_hash(self.arms[name].script, env, self.flags_of(name, env), parse)
            for env in self.environments for name in self.arms
        }  # fmt: skip
        for index in range(max(len(self.seeds_of(name)) for name in self.arms)):
            for env, name in code:
                arm, seeds = self.arms[name], self.seeds_of(name)
                if index < len(seeds):
                    flags = self.flags_of(name, env)
                    yield name, Run(arm.script, env, seeds[index], flags, threads, code[env, name])


def load_study(path: Path, quick: bool = False) -> Study:
    """Read a study.

    Args:
        quick: take the seeds of `[quick]` for all arms, its flags over all others, and its grid's values for an axis.

    Raises:
        StudyError: the file cannot be read, or does not say what a study must say.
    """

    def fail(message: str) -> None:
        raise StudyError(f"{path}: {message}")

    def table(value: object, where: str, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict:
        if not isinstance(value, dict):
            fail(f"{where} must be a table, not {value!r}")
        for key in value:
            if key not in required + optional:
                fail(f"unknown key {key!r} in {where}; known are {', '.join(required + optional)}")
        for key in required:
            if key not in value:
                fail(f"{where} lacks {key!r}")
        return value

    def items(value: object, where: str, kind: type, what: str) -> list:
        if not isinstance(value, list) or not value or not all(type(item) is kind for item in value):
            fail(f"{where} must be a list of one or more {what}, not {value!r}")
        if len(set(value)) < len(value):
            fail(f"{where} names one twice: {value}")
        return value

    def whole_numbers(value: object, where: str) -> list[int]:
        if min(items(value, where, int, "whole numbers")) < 0:
            fail(f"{where} must be 0 or more: {value}")
        return value

    def dashed(value: dict, where: str) -> dict:
        names = {name.replace("_", "-"): setting for name, setting in value.items()}
        if len(names) < len(value):
            fail(f"{where} sets a flag in both spellings, with '-' and with '_': {', '.join(value)}")
        return names

    def flags(value: object, where: str) -> dict[str, Flag]:
        if not isinstance(value, dict):
            fail(f"{where} must be a table, not {value!r}")
        for name, setting in value.items():
            if name.replace("_", "-") in ("env-id", "seed"):
                fail(f"{where} sets {name!r}, which comes from 'environments' and 'seeds'")
            if not isinstance(setting, Flag):
                fail(f"{where}: {name!r} must be a string, a number or true/false, not {setting!r}")
        return dashed(value, where)

    def axes(value: object, where: str) -> dict[str, list[Flag]]:
        if not isinstance(value, dict):
            fail(f"{where} must be a table, not {value!r}")
        for name, values in value.items():
            if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
                fail(f"{where}: {name!r} must be a list of one or more values, each once, not {values!r}")
            for setting in values:
                flags({name: setting}, where)
        return dashed(value, where)

    def with_end(settings: dict[str, Flag], where: str) -> dict[str, Flag]:
        if GUIDE_DURATION not in settings:
            return settings
        if "guide-end" in settings:
            fail(f"{where}: {GUIDE_DURATION} and 'guide-end' say the same thing: give one of the two")
        start, duration = settings.get("guide-start"), settings[GUIDE_DURATION]
        if type(start) is not int or type(duration) is not int:
            fail(f"{where}: {GUIDE_DURATION} needs 'guide-start' beside it, both whole numbers")
        rest = {name: setting for name, setting in settings.items() if name != GUIDE_DURATION}
        return rest | {"guide-end": start + duration}

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as TOML: {error}") from None
    table(data, "the study", ("environments", "seeds", "arms"),
          ("metric", "threshold", "flags", "flags_by_environment", "quick"))  # fmt: skip
    environments = items(data["environments"], "'environments'", str, "Gymnasium ids")
    seeds = whole_numbers(data["seeds"], "'seeds'")
    shortening, short_axes = {}, {}
    if quick:
        if "quick" not in data:
            fail("has no [quick] table, so no quick form")
        form = table(data["quick"], "[quick]", ("seeds", "flags"), ("grid",))
        seeds = whole_numbers(form["seeds"], "[quick] seeds")
        shortening = flags(form["flags"], "[quick] flags")
        short_axes = axes(form.get("grid", {}), "[quick] grid")
    common = flags(data.get("flags", {}), "[flags]")
    own = data.get("flags_by_environment", {})
    by_environment = {}
    for env, settings in table(own, "[flags_by_environment]", optional=tuple(environments)).items():
        where = f"[flags_by_environment.{env}]"
        settings = flags(settings, where)
        for name in (RULE, GUIDE_DURATION):
            if name in settings:
                fail(f"{where} sets {name!r}, which only arms can")
        by_environment[env] = {name: shortening.get(name, value) for name, value in settings.items()}
    if not isinstance(data["arms"], dict) or not data["arms"]:
        fail("[arms] must hold at least one [arms.NAME] table")
    arms, known_axes = {}, set()
    for name, arm in data["arms"].items():
        table(arm, f"[arms.{name}]", ("script",), ("flags", "grid", "seeds"))
        script = ROOT / str(arm["script"])
        if not script.is_file():
            fail(f"[arms.{name}] names the script {arm['script']!r}: no such file")
        if script.suffix != ".py":
            fail(f"[arms.{name}] names the script {arm['script']!r}: it must be a .py file")
        own_seeds = whole_numbers(arm["seeds"], f"[arms.{name}] seeds") if "seeds" in arm else None
        fixed = common | flags(arm.get("flags", {}), f"[arms.{name}] flags") | shortening
        grid = axes(arm.get("grid", {}), f"[arms.{name}] grid")
        known_axes |= grid.keys()
        grid = {axis: short_axes.get(axis, values) for axis, values in grid.items()}
        for values in itertools.product(*grid.values()):  # without a grid: once, at no point
            point = dict(zip(grid, values, strict=True))
            label = " ".join([name, *(f"{axis}={value}" for axis, value in point.items())])
            if label in arms:
                fail(f"two arms are called {label!r}")
            arms[label] = Arm(script, with_end(fixed | point, f"[arms.{name}]"), point, None if quick else own_seeds)
            rule = arms[label].flags.get(RULE)
            if rule is not None and not (script.parent / str(rule)).is_file():
                fail(f"[arms.{name}] names the rule {rule!r}: no such file")
    for axis in short_axes:
        if axis not in known_axes:
            fail(f"[quick] grid has values for {axis!r}, which is in no arm's grid")
    for env, settings in by_environment.items():
        for axis in sorted(known_axes & settings.keys()):  # all points of the grid would be one there
            fail(f"[flags_by_environment.{env}] sets {axis!r}, which is an axis of a grid")
    threshold = data.get("threshold", {})
    if not isinstance(threshold, dict):
        threshold = dict.fromkeys(environments, threshold)
    for env, value in threshold.items():
        if env not in environments:
            fail(f"'threshold' names {env!r}, which is not in 'environments'")
        if type(value) not in (int, float) or not math.isfinite(value):
            fail(f"'threshold' must be a finite number, not {value!r}")
    metric = data.get("metric", "eval/episodic_return")
    if not isinstance(metric, str):
        fail(f"'metric' must be a TensorBoard tag, not {metric!r}")
    return Study(path.stem, environments, seeds, arms, metric, threshold, quick, by_environment)


def parsed(source: str) -> tuple[ast.Module, str]:
    """A module's syntax tree, and its code without comments and formatting."""
    tree = ast.parse(source)
    return tree, ast.unparse(tree)


def code_hash(script: Path, env: str, flags: dict[str, Flag], parse: Callable = parsed) -> str:
    """Hash of what a run executes: the script, the modules beside it that it imports, the environment's prompts, and a
    rule of `--guide-policy`.

    Comments and formatting do not count. Where nobody supervises and nothing is filmed, neither do the supervisor's
    modules and prompts: such a run does not use them. An import that is not at a module's top level counts only where
    the run makes videos: that is what our scripts import late for.

    Args:
        parse: `parsed`, or a version of it that remembers.
    """
    filming = any(flags.get(name) for name in FILMING)
    unsupervised = flags.get("supervisor") == "none"
    unused = {"llm_supervisor"} if unsupervised and not filming else set()
    digest, seen, queue = hashlib.sha256(), set(), [script]
    supervised = False
    while queue:
        path = queue.pop(0)
        if path in seen:
            continue
        seen.add(path)
        try:
            tree, code = parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise StudyError(f"{path.name} is not valid Python: {error}") from None
        digest.update(f"{path.name}\0{code}\0".encode())
        for node in ast.walk(tree) if filming else tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            supervised |= path == script and node in tree.body and "llm_supervisor" in names
            queue += [file for name in names if name not in unused and (file := script.parent / f"{name}.py").is_file()]
    if supervised and not unsupervised:
        prompts = script.parent / "prompts"
        own = (prompts / env).is_dir()
        paths = sorted(prompts.glob(f"{env}/*.*" if own else "default*/*.*"))
        if own and "env-kwargs" in flags:  # with other values than the default the environment's own are not used
            paths += sorted(prompts.glob("default*/*.*"))
        for path in paths:
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
        if RULE in flags:
            digest.update((script.parent / str(flags[RULE])).read_bytes())
    return digest.hexdigest()


# --- runs ---
class Outcome(NamedTuple):
    """What became of a run."""

    run: Run
    succeeded: bool
    seconds: float
    folder: Path | None  # None: Ray failed before the run had one
    message: str  # of a failed run: why


def execute(run: Run, folder: Path, commit: str) -> Outcome:
    """Run the script to its end in a folder of its own (a Ray task).

    The folder carries the run's name only once the run is complete; till then it is called NAME.*.part, and after a
    failure NAME.failed.
    """
    if code_hash(run.script, run.env, run.flags) != run.code:
        return Outcome(run, False, 0.0, folder, "the script, its modules or its prompts were changed during the sweep")
    attempt = Path(tempfile.mkdtemp(prefix=f"{run.name}.", suffix=".part", dir=folder))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(run.threads),
        "CUDA_VISIBLE_DEVICES": "",  # the device counts: the same one, whatever the machine has
    }
    started = time.time()
    with (attempt / "log.txt").open("w") as log:
        status = subprocess.run(
            [sys.executable, str(run.script), *run.arguments],
            cwd=attempt, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False,
        ).returncode  # fmt: skip
    seconds = time.time() - started
    record = {
        **run.settings, "hash": run.hash, "commit": commit, "machine": platform.node(), "started": started,
        "seconds": seconds, "status": status, "versions": versions(),
    }  # fmt: skip
    (attempt / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    done, failed = folder / run.name, folder / f"{run.name}.failed"
    shutil.rmtree(failed, ignore_errors=True)
    if status != 0:
        attempt.rename(failed)
        return Outcome(run, False, seconds, failed, f"exit status {status}")
    try:
        attempt.rename(done)
    except OSError:
        if not done.is_dir():
            raise
        shutil.rmtree(attempt)  # Ray repeats a task whose machine it had given up; the first to finish counts
    return Outcome(run, True, seconds, done, "")


def versions() -> dict[str, str]:
    """Python's version and those of PACKAGES."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_commit() -> str:
    """The project's commit, with "-dirty" behind it where tracked files were changed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def start_ray(args: Args) -> None:
    """Start Ray on this machine, or join the cluster at `--ray-address`.

    Raises:
        ValueError: the numbers do not fit.
        ConnectionError: nobody answers there.
    """
    cores = os.cpu_count() if args.cores is None else args.cores
    if args.threads < 1 or cores < 1:
        raise ValueError("--threads and --cores must be 1 or more")
    if args.ray_address != "local":
        if args.cores is not None:
            raise ValueError("--cores is for a local sweep; a cluster's machines say themselves what they offer")
        if "://" in args.ray_address:
            raise ValueError("--ray-address is host:port; start the sweep on one of the cluster's machines")
        host, _, port = args.ray_address.rpartition(":")
        if host and port.isdecimal():
            try:  # Ray itself would go on trying for ten minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=20).close()
            except (OSError, OverflowError) as error:
                raise ConnectionError(f"--ray-address {args.ray_address} cannot be reached: {error}") from None
        ray.init(address=args.ray_address, log_to_driver=False, logging_level="ERROR")
        return
    if args.threads > cores:
        raise ValueError(f"--threads {args.threads} on {cores} cores: no run would ever start")
    # results go to files, so the object store needs no more than Ray's least
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=80_000_000)  # fmt: skip


def sweep(runs: Iterable[Run], args: Args) -> list[Outcome]:
    """Do those runs that are not done yet.

    Returns:
        The runs that failed.

    Raises:
        ValueError: another sweep uses the folder, or Ray cannot be had as asked for.
        ConnectionError: Ray does not answer, does not accept the token, or went away.
    """
    unique = {run.name: run for run in runs}
    folder = args.runs.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            for rest in folder.glob("*.part"):
                shutil.rmtree(rest, ignore_errors=True)  # a killed sweep's run may live a second longer
            todo = [run for name, run in unique.items() if not (folder / name).is_dir()]
            print(f"{len(unique)} runs, {len(unique) - len(todo)} of them done before", flush=True)
            return run_all(todo, folder, args) if todo else []
    except Timeout:
        raise ValueError(
            f"another sweep is at work in {args.runs}; wait for it, or give --runs another folder"
        ) from None
    except ray.exceptions.RayError as error:
        raise ConnectionError(f"Ray: {' '.join(said(error).split())}") from None


def run_all(runs: list[Run], folder: Path, args: Args) -> list[Outcome]:
    """Run everything on Ray, telling the progress; returns the runs that failed."""
    start_ray(args)
    try:
        commit = git_commit()
        task = ray.remote(num_cpus=args.threads)(execute)
        tasks = {task.remote(run, folder, commit): run for run in runs}
        outcomes: list[Outcome] = []
        last_print = 0.0
        while tasks:
            ready, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=1.0)
            for ref in ready:
                outcomes.append(outcome_of(ref, tasks.pop(ref), folder))
            if (ready and time.time() - last_print > 5) or time.time() - last_print > 30 or not tasks:
                last_print = time.time()
                print(progress(outcomes, len(tasks), running=len(list(folder.glob("*.part")))), flush=True)
    finally:
        ray.shutdown()
    return [outcome for outcome in outcomes if not outcome.succeeded]


def said(error: Exception) -> str:
    """An error's text, or its name where it has none."""
    return str(error).strip() or type(error).__name__


def outcome_of(ref: ray.ObjectRef, run: Run, folder: Path) -> Outcome:
    """The outcome of a task that is over, whether the run or Ray itself failed."""
    try:
        outcome = ray.get(ref)
    except ray.exceptions.RayError as error:
        attempts = sorted(folder.glob(f"{run.name}.*.part"), key=lambda path: path.stat().st_mtime)
        return Outcome(run, False, 0.0, attempts[-1] if attempts else None, said(error).splitlines()[-1])
    if not outcome.folder.is_dir():
        return outcome._replace(succeeded=False, message=f"{outcome.folder} is not to be seen from here: "
                                "--runs must be a folder that all machines share")  # fmt: skip
    return outcome


def progress(outcomes: list[Outcome], left: int, running: int) -> str:
    """One line: runs done, running, failed, waiting, and the time left at the mean duration so far."""
    failed = sum(not outcome.succeeded for outcome in outcomes)
    running = min(running, left)
    line = f"{len(outcomes) - failed} done, {running} running, {failed} failed, {left - running} waiting"
    if left and running and outcomes:
        mean = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        seconds = round((left - running / 2) * mean / running)  # those that run are half done on average
        line += f", about {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
    return line


def report(failures: list[Outcome]) -> None:
    """Print each failed run with the last lines of its log."""
    for run, _, _, folder, message in failures:
        print(f"\nfailed: {run.name}: {message}")
        if folder is not None and (folder / "log.txt").is_file():
            lines = (folder / "log.txt").read_text(errors="replace").splitlines()
            print(f"  {folder / 'log.txt'} ends:")
            print("\n".join(f"  | {line}" for line in lines[-LOG_LINES:]))


if __name__ == "__main__":
    args = tyro.cli(Args)
    try:
        studies = [load_study(path, args.quick) for path in args.studies]
        failures = sweep((run for study in studies for _, run in study.runs(args.threads)), args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"sweep.py: error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("sweep.py: interrupted; the same command goes on from here") from None
    report(failures)
    if failures:
        raise SystemExit(f"sweep.py: {len(failures)} runs failed; the same command tries them again")
