"""Environment steps per second beside other implementations of SAC: same environment, batch, networks, update per step.

    python benchmark/speed.py --sbx-python PATH

Contestants take turns, block by block, each in a process of its own that runs its unmodified training loop
(speed_peer.py); while one runs, the others wait. Keep the machine idle meanwhile.
Docs: docs/speed.md
"""

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import gymnasium as gym
import torch
import tyro

PEER = Path(__file__).resolve().with_name("speed_peer.py")
SCRIPT = PEER.parent.parent / "guided_sac_continuous.py"
OURS = ("--supervisor", "none", "--env-kwargs", "{}")


@dataclass
class Args:
    env_ids: list[str] = field(default_factory=lambda: ["Humanoid-v5", "MountainCarContinuous-v0"])
    """environments with Gymnasium's own settings, one table each"""
    blocks: int = 5
    """timed blocks of each contestant, ≥ 1; the table has their median"""
    steps: int = 200
    """environment steps of a block, ≥ 1"""
    warm_up: int = 300
    """steps of each contestant before the first block, of which the first 100 are without updates"""
    threads: int | None = None
    """threads of each contestant (OMP_NUM_THREADS); None: its default"""
    sbx_python: str | None = None
    """the interpreter of a virtual environment with sbx-rl; None: no SBX"""
    cleanrl: str | None = None
    """CleanRL's sac_continuous_action.py; None: no CleanRL"""
    memory: bool = False
    """also the peak resident memory with a full replay buffer (needs about 8 GB for Humanoid-v5)"""


class Contestant:
    """A peer's process, started at once and idle until a block is ordered."""

    def __init__(self, name: str, command: list[str], folder: str, env: dict[str, str]):
        self.name, self.seconds, self.error = name, [], ""
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log
        )

    def run(self, steps: int) -> float | None:
        """Seconds of a block; None when the process has ended, with its last words in `error`."""
        try:
            print(steps, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer and not self.error:
            self.log.seek(0)
            self.error = (self.log.read().strip().splitlines() or ["ended without a word"])[-1]
        return float(answer) if answer else None


def commands(args: Args, env_id: str) -> dict[str, list[str]]:
    """Each contestant's command line."""
    ours = [sys.executable, str(PEER), "script", str(SCRIPT), env_id, *OURS]
    peers = {
        "ours": ours,
        "ours, --precision bf16": [*ours, "--precision", "bf16"],
        "Stable-Baselines3": [sys.executable, str(PEER), "stable_baselines3", env_id],
    }
    if args.sbx_python:
        peers["SBX"] = [args.sbx_python, str(PEER), "sbx", env_id]
    if args.cleanrl:
        peers["CleanRL"] = [sys.executable, str(PEER), "script", str(Path(args.cleanrl).resolve()), env_id]
    return peers


def products(obs: int, act: int, batch: int = 256, hidden: int = 256) -> list[tuple[int, int, int, int]]:
    """The matrix products that one SAC update cannot do without, as (times, rows, inner, columns)."""
    critic = [(2, batch, obs + act, hidden), (2, batch, hidden, hidden), (2, batch, hidden, 1)]
    actor = [(1, batch, obs, hidden), (1, batch, hidden, hidden), (1, batch, hidden, 2 * act)]

    def weight_gradients(layers: list) -> list:
        return [(times, inner, rows, columns) for times, rows, inner, columns in layers]

    def input_gradients(layers: list) -> list:
        return [(times, rows, columns, inner) for times, rows, inner, columns in layers[1:]]

    return [
        *actor, *actor, *critic, *critic, *critic,  # π(s), π(s'); Q̄(s', a'), Q(s, a), Q(s, π(s))
        *weight_gradients(critic), *input_gradients(critic),  # the critics' step
        *input_gradients(critic), (2, batch, hidden, act),  # the actor's loss: through the critics to the actions
        *weight_gradients(actor), *input_gradients(actor),
    ]  # fmt: skip


def floor_of(shapes: list[tuple[int, int, int, int]]) -> tuple[float, float]:
    """Seconds of these products alone, one after another in float32 with warm caches, and their GFLOP."""
    seconds = flop = 0.0
    for times, rows, inner, columns in shapes:
        x, w = torch.randn(times, rows, inner), torch.randn(times, inner, columns)
        samples = []
        for _ in range(40):
            start = time.perf_counter()
            torch.bmm(x, w)
            samples.append(time.perf_counter() - start)
        seconds += statistics.median(samples[10:])
        flop += 2 * times * rows * inner * columns
    return seconds, flop / 1e9


def floor(env_id: str) -> tuple[float, float]:
    """`floor_of` an environment's update."""
    env = gym.make(env_id)
    return floor_of(products(env.observation_space.shape[0], env.action_space.shape[0]))


def take_turns(contestants: list[Contestant], warm_up: int, steps: int, blocks: int, strict: bool = True) -> None:
    """Warm up one after another, then let all take turns, block by block; their seconds are in `contestant.seconds`.

    Args:
        strict: whether a contestant that ends before its time ends the program, with its last words.
    """
    try:
        for number, order in enumerate([warm_up, *[steps] * blocks]):
            for contestant in contestants:
                seconds = contestant.run(order)
                if seconds is None and strict:
                    raise SystemExit(f"error: {contestant.name}: {contestant.error}")
                if seconds is not None and number > 0:
                    contestant.seconds.append(seconds)
    finally:
        for contestant in contestants:
            contestant.process.kill()
            contestant.process.wait()


def race(args: Args, env_id: str, folder: str, env: dict[str, str]) -> list[Contestant]:
    """The contestants after their race; one that ended before its time (as CleanRL does) stays in the table."""
    contestants = [Contestant(name, command, folder, env) for name, command in commands(args, env_id).items()]
    take_turns(contestants, args.warm_up, args.steps, args.blocks, strict=False)
    return contestants


def peak_memory(command: list[str], folder: str, env: dict[str, str]) -> float:
    """Peak resident memory in GB of a short run that then writes its whole replay buffer."""
    command = [*command, "--fill"]
    return int(subprocess.check_output(command, cwd=folder, env=env, text=True).splitlines()[-1]) / 1e9


def versions(args: Args) -> str:
    """What decides the figures besides the code: versions, CPU, threads, load."""
    names = ["torch", "stable-baselines3", "gymnasium", "mujoco"]
    words = [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in names)]
    if args.sbx_python:
        show = "from importlib.metadata import version as v; print('SBX', v('sbx-rl'), 'with jax', v('jax'))"
        words.append(subprocess.check_output([args.sbx_python, "-c", show], text=True).strip())
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    words.append(f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, load average {os.getloadavg()[0]:.1f}")
    threads = f"{torch.get_num_threads()} threads" if not args.threads else f"OMP_NUM_THREADS={args.threads}"
    return ", ".join([*words, threads, f"{args.blocks} blocks of {args.steps} steps"])


if __name__ == "__main__":
    args = tyro.cli(Args)
    env = dict(os.environ)
    if args.threads:
        env["OMP_NUM_THREADS"] = str(args.threads)
        torch.set_num_threads(args.threads)
    print(f"{versions(args)}\n")
    print("| environment | contestant | steps/s, median | lowest | highest | of the floor | to the fastest library |")
    print("|-|-|-|-|-|-|-|")
    with tempfile.TemporaryDirectory() as folder:
        for env_id in args.env_ids:
            floor_seconds, gflop = floor(env_id)
            contestants = race(args, env_id, folder, env)
            rates = {c.name: sorted(args.steps / s for s in c.seconds) for c in contestants if c.seconds}
            best = max(statistics.median(r) for name, r in rates.items() if not name.startswith("ours"))
            for c in contestants:
                if c.name not in rates:
                    print(f"| {env_id} | {c.name} | none: {c.error} | | | | |")
                    continue
                rate = statistics.median(rates[c.name])
                low, high = rates[c.name][0], rates[c.name][-1]
                note = f"; stopped: {c.error}" if c.error else ""
                spread, part = f"{rate:.1f} | {low:.1f} | {high:.1f}", floor_seconds * rate
                print(f"| {env_id} | {c.name}{note} | {spread} | {part:.0%} | {rate / best:.2f} × |", flush=True)
            print(f"| {env_id} | *matrix products alone: {gflop:.2f} GFLOP* | {1 / floor_seconds:.1f} | | | 100% | |")
        if args.memory:
            print("\n| environment | contestant | peak resident memory, buffer of 1M full |\n|-|-|-|")
            for name in ("ours", "Stable-Baselines3"):
                command = commands(args, args.env_ids[0])[name]
                print(f"| {args.env_ids[0]} | {name} | {peak_memory(command, folder, env):.2f} GB |", flush=True)
