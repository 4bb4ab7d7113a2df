"""Run studies on Ray: every run is an unmodified script in a process of its own.

    python -m benchmark.sweeps.sweep benchmark/studies/mountain_car_continuous.toml

Docs: docs/benchmark.md
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import tyro
from filelock import FileLock, Timeout

from benchmark import ROOT
from benchmark.sweeps.hashing import code_hash
from benchmark.sweeps.studies import Run, load_study

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import: a sweep reports to nobody
import ray

# whose versions are recorded with a run, as far as they are installed
PACKAGES = ("torch", "gymnasium", "mujoco", "numpy", "tensorboard", "stable-baselines3")
LOG_LINES = 15
RECORD = "run.json"  # of an attempt, written at its end
LOCK = ".lock"
STOP = ".stop"  # in the runs' folder, where every machine sees it: the sweep was interrupted
ENDING = 120.0  # seconds in which an interrupted sweep's runs write their checkpoints
DYING = 30.0  # seconds that a killed sweep's process may live on
INTERRUPTED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # status


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


class Outcome(NamedTuple):
    """What became of a run."""

    run: Run
    succeeded: bool
    seconds: float
    folder: Path | None  # None: it was stopped, or Ray failed, before the run had one
    message: str  # of a failed run: why


def execute(run: Run, folder: Path, commit: str) -> Outcome:
    """Run the script to its end in a folder of its own (a Ray task), from the checkpoint of an interrupted attempt on.

    The folder carries the run's name only once the run is complete; till then it is called NAME.*.part, after an
    interruption NAME.*.cut, and after a failure NAME.failed. An attempt that comes to an error before it goes on, since
    its checkpoint is unusable, makes room for a new one.
    """
    if (folder / STOP).exists():
        return Outcome(run, False, 0.0, None, "interrupted")
    if code_hash(run.script, run.env, run.flags) != run.code:
        return Outcome(run, False, 0.0, folder, "the script, its modules or its prompts were changed during the sweep")
    started, resumed, before = time.time(), interrupted_attempt(run, folder), {}
    if resumed:
        attempt, lock = resumed
        with suppress(OSError, ValueError):  # a killed attempt has no record
            before = json.loads((attempt / RECORD).read_text())
        logged = len(list(attempt.rglob("events.out.tfevents.*")))
        (goes_on,) = {path.parent.parent.relative_to(attempt) for path in checkpoints(attempt)}
        status = process(run, attempt, lock, ["--resume", str(goes_on)])
        if status not in (0, *INTERRUPTED) and len(list(attempt.rglob("events.out.tfevents.*"))) == logged:
            shutil.rmtree(attempt)
            resumed, before = None, {}
    if not resumed:
        attempt = Path(tempfile.mkdtemp(prefix=f"{run.name}.", suffix=".part", dir=folder))
        status = process(run, attempt, locked(attempt), run.arguments)
    seconds = before.get("seconds", 0.0) + time.time() - started
    record = {
        **run.settings, "hash": run.hash, "commit": commit, "machine": platform.node(),
        "started": before.get("started", started), "seconds": seconds, "status": status, "versions": versions(),
        "processor": processor(), **resumptions(attempt / "log.txt"),
    }  # fmt: skip
    (attempt / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    done, failed = folder / run.name, folder / f"{run.name}.failed"
    if status in INTERRUPTED:
        cut = attempt.rename(attempt.with_suffix(".cut"))
        return Outcome(run, False, seconds, cut, f"interrupted (exit status {status})")
    (attempt / LOCK).unlink(missing_ok=True)
    shutil.rmtree(failed, ignore_errors=True)
    if status != 0:
        attempt.rename(failed)
        return Outcome(run, False, seconds, failed, f"exit status {status}")
    if "checkpoint-keep" not in run.flags:  # nobody goes on from them
        for path in {path.parent for path in checkpoints(attempt)}:
            shutil.rmtree(path)
    try:
        attempt.rename(done)
    except OSError:
        if not done.is_dir():
            raise
        shutil.rmtree(attempt)  # Ray repeats a task whose machine it had given up; the first to finish counts
    return Outcome(run, True, seconds, done, "")


def process(run: Run, attempt: Path, lock: TextIO, arguments: list[str]) -> int:
    """Run the script in the attempt's folder and return its exit status; it holds the lock as long as it lives.

    Once the sweep is interrupted it gets SIGTERM, with which it ends after its step, with a checkpoint.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(run.threads),
        "CUDA_VISIBLE_DEVICES": "",  # the device counts: the same one, whatever the machine has
    }
    with lock, (attempt / "log.txt").open("a") as log:
        script = subprocess.Popen(
            [sys.executable, str(run.script), *arguments], cwd=attempt, env=environment, pass_fds=[lock.fileno()],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            while not (attempt.parent / STOP).exists():
                with suppress(subprocess.TimeoutExpired):
                    return script.wait(timeout=1.0)
            script.terminate()  # once: a second signal would end it without a checkpoint
            return script.wait()
        except BaseException:
            script.kill()
            raise


def checkpoints(attempt: Path) -> list[Path]:
    """A run's checkpoints in an attempt's folder."""
    return sorted(attempt.glob("runs/*/checkpoints/step_*.pt"))


def interrupted_attempt(run: Run, folder: Path) -> tuple[Path, TextIO] | None:
    """The newest attempt at a run that left a checkpoint, with its lock; the others that nobody works at are removed.

    A killed sweep's process may live on for some seconds, and so may one on a machine that Ray has given up.
    """
    attempts = [*folder.glob(f"{run.name}.*.cut"), *folder.glob(f"{run.name}.*.part")]
    found = None
    for attempt in sorted(attempts, key=lambda path: path.stat().st_mtime, reverse=True):
        useful = found is None and bool(checkpoints(attempt))
        try:
            lock = locked(attempt, seconds=DYING if useful and attempt.suffix == ".cut" else 0.0)
        except OSError:
            continue
        if useful:
            found = attempt.rename(attempt.with_suffix(".part")), lock
        else:
            shutil.rmtree(attempt, ignore_errors=True)
            lock.close()
    return found


def locked(attempt: Path, seconds: float = 0.0) -> TextIO:
    """Lock an attempt's folder until the file is closed here and in the processes that inherit it.

    Raises:
        OSError: somebody works there, still after so many seconds.
    """
    lock, end = (attempt / LOCK).open("a"), time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() >= end:
                lock.close()
                raise
        time.sleep(0.2)


def resumptions(log: Path) -> dict[str, list]:
    """At which steps a run went on, and what was another one there than before, such as the processor."""
    text = log.read_text(errors="replace")
    steps = [int(step.replace(",", "")) for step in re.findall(r"^ *resume: goes on: .* at step ([\d,]+)$", text, re.M)]
    changed = sorted(set(re.findall(r"^ *another (\w+) than before: ", text, re.M)))
    return {"resumed_at": steps, "resumed_with_another": changed}


def versions() -> dict[str, str]:
    """Python's version and those of PACKAGES."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def processor() -> str:
    """The machine's processor, as checkpoints name it (their module imports torch: four seconds a worker)."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(root: Path = ROOT) -> str:
    """The project's commit, with "-dirty" behind it where tracked files were changed, what studies write apart."""
    git = ["git", "-C", str(root)]
    changed = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmark/results", ":!docs"]
    try:
        commit, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            for command in ([*git, "rev-parse", "HEAD"], changed)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changes else commit


def start_ray(args: Args) -> None:
    """Start Ray on this machine, or join the cluster at `--ray-address`. SIGTERM does what it did before.

    Raises:
        ValueError: the numbers do not fit.
        ConnectionError: nobody answers there.
    """
    cores, on_sigterm = os.cpu_count() if args.cores is None else args.cores, signal.getsignal(signal.SIGTERM)
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
    elif args.threads > cores:
        raise ValueError(f"--threads {args.threads} on {cores} cores: no run would ever start")
    else:  # results go to files, so the object store needs no more than Ray's least
        ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 object_store_memory=80_000_000)  # fmt: skip
    signal.signal(signal.SIGTERM, on_sigterm)


def sweep(runs: Iterable[Run], args: Args) -> list[Outcome]:
    """Do those runs that are not done yet.

    Returns:
        The runs that failed.

    Raises:
        ValueError: another sweep uses the folder, or Ray cannot be had as asked for.
        ConnectionError: Ray does not answer, does not accept the token, or went away.
        KeyboardInterrupt: it was interrupted; what ran has left its checkpoint.
    """
    unique = {run.name: run for run in runs}
    folder = args.runs.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            (folder / STOP).unlink(missing_ok=True)
            todo = [run for name, run in unique.items() if not (folder / name).is_dir()]
            set_aside(folder, {run.name for run in todo})
            print(f"{len(unique)} runs, {len(unique) - len(todo)} of them done before", flush=True)
            return run_all(todo, folder, args) if todo else []
    except Timeout:
        raise ValueError(
            f"another sweep is at work in {args.runs}; wait for it, or give --runs another folder"
        ) from None
    except ray.exceptions.RayError as error:
        raise ConnectionError(f"Ray: {' '.join(said(error).split())}") from None


def set_aside(folder: Path, todo: set[str]) -> None:
    """Keep what interrupted sweeps left of runs that are not done, as far as they can go on; remove the rest."""
    others = set()
    for rest in [*folder.glob("*.part"), *folder.glob("*.cut")]:
        name = rest.name.rsplit(".", 2)[0]
        if (folder / name).is_dir() or not checkpoints(rest):
            shutil.rmtree(rest, ignore_errors=True)  # a killed sweep's run may live a second longer
            continue
        rest.rename(rest.with_suffix(".cut"))
        others |= {name} - todo
    if others:
        print(f"{len(others)} other interrupted runs, such as of other studies, lie in {folder}", flush=True)


def run_all(runs: list[Run], folder: Path, args: Args) -> list[Outcome]:
    """Run everything on Ray, telling the progress; returns the runs that failed."""
    start_ray(args)
    try:
        tasks: dict[ray.ObjectRef, Run] = {}
        outcomes: list[Outcome] = []
        commit = git_commit()
        task = ray.remote(num_cpus=args.threads)(execute)
        for run in runs:
            tasks[task.remote(run, folder, commit)] = run
        last_print = 0.0
        while tasks:
            ready, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=1.0)
            for ref in ready:
                outcomes.append(outcome_of(ref, tasks.pop(ref), folder))
            if (ready and time.time() - last_print > 5) or time.time() - last_print > 30 or not tasks:
                last_print = time.time()
                print(progress(outcomes, len(tasks), running=len(list(folder.glob("*.part")))), flush=True)
    except KeyboardInterrupt:
        if tasks:
            (folder / STOP).touch()
            print(f"interrupted: runs end with a checkpoint, within {ENDING:.0f} s (once more: at once)", flush=True)
            ray.wait(list(tasks), num_returns=len(tasks), timeout=ENDING)
        raise
    finally:
        ray.shutdown()
        (folder / STOP).unlink(missing_ok=True)
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
    if outcome.folder is not None and not outcome.folder.is_dir():
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


@contextmanager
def ended_in_words(program: str) -> Iterator[None]:
    """A program's end by an error, by Ctrl-C or by SIGTERM is one line and exit status 1."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"{program}: error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(f"{program}: interrupted; the same command goes on from here") from None
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    args = tyro.cli(Args)
    with ended_in_words("sweep.py"):
        studies = [load_study(path, args.quick) for path in args.studies]
        failures = sweep((run for study in studies for _, run in study.runs(args.threads)), args)
    report(failures)
    if failures:
        raise SystemExit(f"sweep.py: {len(failures)} runs failed; the same command tries them again")
