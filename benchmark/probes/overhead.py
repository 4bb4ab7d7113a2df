"""What a run costs beyond its training: Ray's scheduling, the sweep's bookkeeping, the start of a script.

    python -m benchmark.probes.overhead --tasks 2000

Docs: docs/benchmark.md
"""

import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
import tyro

from benchmark import ROOT
from benchmark.sweeps import sweep
from benchmark.sweeps.hashing import code_hash
from benchmark.sweeps.studies import Run


@dataclass
class Args:
    tasks: int = 2_000
    """no-op tasks, and after them as many runs of an empty script, ≥ 1"""
    starts: int = 3
    """runs of guided_sac_continuous.py with a single step, ≥ 1"""
    cores: int = 1
    """cores that Ray may use, ≥ 1"""


class PeakMemory:
    """Within a `with` block: the most memory that this process and those of Ray had at once, in bytes."""

    def __enter__(self):
        self.peak, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss  # a page that n processes share counts 1/n in each
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def ray_alone(args: Args) -> None:
    """No-op tasks, submitted at once."""
    start = time.perf_counter()
    sweep.start_ray(sweep.Args([], cores=args.cores))
    noop = ray.remote(num_cpus=1)(lambda: None)
    ray.get(noop.remote())
    print(f"Ray: ready after {time.perf_counter() - start:.1f} s")
    with PeakMemory() as memory:
        before, start = psutil.Process().memory_info().rss, time.perf_counter()
        tasks = [noop.remote() for _ in range(args.tasks)]
        ray.get(tasks)
        seconds = time.perf_counter() - start
        grown = psutil.Process().memory_info().rss - before
        time.sleep(1.0)  # one more look at the memory, however short the tasks were
    ray.shutdown()
    per_task = (
        f"{seconds / args.tasks * 1e3:.2f} ms and {grown / args.tasks / 1e3:.1f} kB of the driver's memory a task"
    )
    print(f"Ray: {args.tasks} no-op tasks: {per_task}; all processes together {memory.peak / 1e6:.0f} MB")


def empty_runs(args: Args, folder: Path) -> None:
    """The sweep itself, with a script that does nothing."""
    script = folder / "empty.py"
    script.touch()
    start = time.perf_counter()
    for _ in range(20):
        subprocess.run([sys.executable, str(script)], check=True)
    process = (time.perf_counter() - start) / 20
    runs = [Run(script, "none", seed, {}, 1, code_hash(script, "none", {})) for seed in range(args.tasks)]
    with PeakMemory() as memory:
        start = time.perf_counter()
        if sweep.sweep(runs, sweep.Args([], runs=folder / "runs", cores=args.cores)):
            raise SystemExit("overhead.py: error: an empty script failed")
        seconds = time.perf_counter() - start
    per_run = (
        f"{seconds / args.tasks * 1e3:.1f} ms a run with Ray's start, of which the process is {process * 1e3:.1f} ms"
    )
    print(f"sweep: {args.tasks} runs of an empty script: {per_run}; together {memory.peak / 1e6:.0f} MB")
    start = time.perf_counter()
    if sweep.sweep(runs, sweep.Args([], runs=folder / "runs", cores=args.cores)):
        raise SystemExit("overhead.py: error: a finished run was not recognised")
    print(f"sweep: the same again, all done: {time.perf_counter() - start:.2f} s")


def script_start(args: Args, folder: Path) -> None:
    """A real script with one step: imports, environments, networks, event file."""
    flags = {"supervisor": "none", "total-timesteps": 1}
    script, env = ROOT / "guided_sac_continuous.py", "MountainCarContinuous-v0"
    start = time.perf_counter()
    code = code_hash(script, env, flags)
    hashed = time.perf_counter() - start
    runs = [Run(script, env, seed, flags, 1, code) for seed in range(args.starts)]
    outcomes = [sweep.execute(run, folder, "") for run in runs]
    if not all(outcome.succeeded for outcome in outcomes):
        raise SystemExit(f"overhead.py: error: {script.name} failed")
    seconds = sum(outcome.seconds for outcome in outcomes) / args.starts
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3  # in kB on Linux
    print(f"{script.name}: one step takes {seconds:.1f} s a run and {memory:.0f} MB; its hash {hashed * 1e3:.0f} ms")


if __name__ == "__main__":
    args = tyro.cli(Args)
    with tempfile.TemporaryDirectory() as folder:
        ray_alone(args)
        empty_runs(args, Path(folder))
        script_start(args, Path(folder))
