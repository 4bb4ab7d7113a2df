"""Environment steps per second beside other implementations of SAC: same environment, batch, networks, update per step.

    python -m benchmark.races.speed --sbx-python PATH

Contestants take turns, block by block, each in a process of its own that runs its unmodified training loop
(speed_peer.py); while one runs, the others wait. All run on the CPU, or with `--device cuda` all on the GPU. Keep the
machine idle meanwhile.
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
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import gymnasium as gym
import pandas as pd
import torch
import tyro

from benchmark import ROOT

PEER = Path(__file__).resolve().with_name("speed_peer.py")
SCRIPT = ROOT / "guided_sac_continuous.py"
GYMNASIUMS = ("--env-kwargs", "{}")  # all of Humanoid's observations, not the paper's 47
OURS = ("--supervisor", "none", *GYMNASIUMS)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEANRL_GRAPHS = "LeanRL, --compile --cudagraphs"
LEANRL = {  # script, flags
    "LeanRL's copy of CleanRL": ("sac_continuous_action.py",),
    "LeanRL": ("sac_continuous_action_torchcompile.py",),
    LEANRL_GRAPHS: ("sac_continuous_action_torchcompile.py", "--compile", "--cudagraphs"),
}
# steps per second in LeanRL's README: HalfCheetah-v4, H100; "5.7x" is 725 / 127
LEANRL_PUBLISHED = {"LeanRL's copy of CleanRL": 127, "LeanRL": 130, LEANRL_GRAPHS: 725}


@dataclass
class Args:
    env_ids: list[str] = field(default_factory=lambda: ["Humanoid-v5", "MountainCarContinuous-v0"])
    """environments with Gymnasium's own settings, one table each"""
    script: Literal["guided_sac_continuous.py", "rnd_sac.py", "icm_sac.py", "e3b_sac.py"] = "guided_sac_continuous.py"
    """ours"""
    blocks: int = 5
    """timed blocks of each contestant, ≥ 1; the table has their median"""
    steps: int = 200
    """environment steps of a block, ≥ 1"""
    warm_up: int = 300
    """steps of each contestant before the first block, of which the first 100 are without updates"""
    threads: int | None = None
    """threads of each contestant (OMP_NUM_THREADS); None: its default"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where all contestants learn and act; physics is on the CPU with both"""
    sbx_python: str | None = None
    """the interpreter of a virtual environment with sbx-rl; None: no SBX"""
    rltools_python: str | None = None
    """the interpreter of a virtual environment with rltools and MKL (needs a C++ compiler); None: no RLtools"""
    cleanrl: str | None = None
    """CleanRL's sac_continuous_action.py; None: no CleanRL"""
    leanrl: str | None = None
    """folder of a LeanRL checkout; adds its scripts (with CUDA graphs only on a GPU); None: no LeanRL"""
    leanrl_python: str | None = None
    """the interpreter of a virtual environment with LeanRL's packages; None: this one"""
    csv: Path | None = None
    """file to which the medians are added, for `speed_figure`; None: no file"""
    memory: bool = False
    """also the peak resident memory with a full replay buffer, on the CPU (needs about 8 GB for Humanoid-v5)"""


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


def interpreter(path: str | None) -> str:
    """Absolute, since contestants run in another folder; a virtual environment's link must not be followed."""
    return os.path.abspath(path) if path else sys.executable


def commands(args: Args, env_id: str) -> dict[str, list[str]]:
    """Each contestant's command line; Stable-Baselines3 is among them where it is installed."""
    flags = OURS if args.script == SCRIPT.name else GYMNASIUMS
    ours = [sys.executable, str(PEER), "script", str(SCRIPT.with_name(args.script)), env_id, *flags]
    options = ["", "--precision bf16", "--compile", "--compile --precision bf16"]
    peers = {f"ours, {flags}" if flags else "ours": [*ours, *flags.split()] for flags in options}
    if find_spec("stable_baselines3"):
        peers["Stable-Baselines3"] = [sys.executable, str(PEER), "stable_baselines3", env_id]
    if args.sbx_python:
        peers["SBX"] = [interpreter(args.sbx_python), str(PEER), "sbx", env_id]
    if args.rltools_python:
        peers["RLtools"] = [interpreter(args.rltools_python), str(PEER), "rltools", env_id]
    if args.cleanrl:
        peers["CleanRL"] = [sys.executable, str(PEER), "script", str(Path(args.cleanrl).resolve()), env_id]
    for name, (script, *flags) in LEANRL.items() if args.leanrl else ():
        if args.device == "cuda" or name != LEANRL_GRAPHS:
            path = Path(args.leanrl).resolve() / "leanrl" / script
            peers[name] = [interpreter(args.leanrl_python), str(PEER), "script", str(path), env_id, *flags]
    return peers


def environment(device: str = "cpu", threads: int | None = None) -> dict[str, str]:
    """The contestants' environment variables: the GPU for all of them or for none, whatever library they use."""
    env = {**os.environ, "JAX_PLATFORMS": device, "WANDB_MODE": "disabled"}  # LeanRL's scripts always track
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    else:
        env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes most of the memory that the others need
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    env["MKL_NUM_THREADS"] = str(threads or os.cpu_count())  # RLtools alone would set 1 where nobody has set it
    return env


def check_device(args: Args) -> None:
    """Leave the program where `--device cuda` is asked for and a torch of the race finds no GPU."""
    if args.device == "cuda":
        probe = "import torch; print(torch.__version__, torch.cuda.is_available())"
        for python in {sys.executable, interpreter(args.leanrl_python)}:
            version, found = subprocess.check_output([python, "-c", probe], text=True).split()
            if found == "False":
                raise SystemExit(f"error: --device cuda: torch {version} of {python} finds no GPU")


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


def gflop_of(shapes: list[tuple[int, int, int, int]]) -> float:
    """The products' floating-point operations, in 10⁹."""
    return sum(2 * times * rows * inner * columns for times, rows, inner, columns in shapes) / 1e9


def floor_of(shapes: list[tuple[int, int, int, int]], dtype: torch.dtype = torch.float32) -> float:
    """Seconds of these products alone, one after another on the CPU with warm caches."""
    seconds = 0.0
    for times, rows, inner, columns in shapes:
        x, w = torch.randn(times, rows, inner, dtype=dtype), torch.randn(times, inner, columns, dtype=dtype)
        samples = []
        for _ in range(40):
            start = time.perf_counter()
            torch.bmm(x, w)
            samples.append(time.perf_counter() - start)
        seconds += statistics.median(samples[10:])
    return seconds


def update_of(env_id: str) -> list[tuple[int, int, int, int]]:
    """`products` of an environment's update."""
    env = gym.make(env_id)
    return products(env.observation_space.shape[0], env.action_space.shape[0])


def take_turns(
    contestants: list[Contestant],
    warm_up: int,
    steps: int,
    blocks: int,
    strict: bool = True,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Warm up one after another, then let all take turns, block by block; their seconds are in `contestant.seconds`.

    Args:
        strict: whether a contestant that ends before its time ends the program, with its last words.
        between: is called before each round of blocks, while all wait.
    """
    try:
        for number, order in enumerate([warm_up, *[steps] * blocks]):
            if number > 0:
                between()
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


def race(args: Args, env_id: str, folder: str) -> tuple[list[Contestant], dict[str, list[float]]]:
    """The contestants after their race, and the seconds of the update's matrix products, measured between the rounds.

    A contestant that ended before its time (as CleanRL does) stays in the table. On a GPU no products are measured:
    ones this small take less time there than their launches.
    """
    env, shapes = environment(args.device, args.threads), update_of(env_id)
    contestants = [Contestant(name, command, folder, env) for name, command in commands(args, env_id).items()]
    floors = {precision: [] for precision in PRECISIONS} if args.device == "cpu" else {}

    def measure_floors() -> None:
        for precision, seconds in floors.items():
            seconds.append(floor_of(shapes, PRECISIONS[precision]))

    take_turns(contestants, args.warm_up, args.steps, args.blocks, strict=False, between=measure_floors)
    return contestants, floors


def rates_of(contestants: list[Contestant], steps: int) -> dict[str, list[float]]:
    """Steps per second of every block, sorted, of those that finished one."""
    return {c.name: sorted(steps / seconds for seconds in c.seconds) for c in contestants if c.seconds}


def table(
    env_id: str, contestants: list[Contestant], floors: dict[str, list[float]], steps: int, gflop: float
) -> list[str]:
    """The rows of a race; a bf16 contestant is compared with the products in bfloat16."""
    rates, rows = rates_of(contestants, steps), []
    best = max((statistics.median(r) for name, r in rates.items() if not name.startswith("ours")), default=None)
    for c in contestants:
        if c.name not in rates:
            rows.append(f"| {env_id} | {c.name} | none: {c.error} | | | | |")
            continue
        rate = statistics.median(rates[c.name])
        floor = floors.get("bf16" if c.name.endswith("bf16") else "fp32")
        cells = [
            env_id, c.name + (f"; stopped: {c.error}" if c.error else ""), f"{rate:.1f}",
            f"{rates[c.name][0]:.1f}", f"{rates[c.name][-1]:.1f}",
            f"{statistics.median(floor) * rate:.0%}" if floor else "", f"{rate / best:.2f} ×" if best else "",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    for precision, seconds in floors.items():
        spread = " | ".join(f"{1 / s:.1f}" for s in (statistics.median(seconds), max(seconds), min(seconds)))
        rows.append(f"| {env_id} | *matrix products alone, {precision}: {gflop:.2f} GFLOP* | {spread} | 100% | |")
    return rows


def add_to(csv: Path, env_id: str, threads: int | None, rates: dict[str, list[float]]) -> None:
    """Put a race's medians, lowest and highest blocks into a table, in steps per second; a repeated one's in place of
    those before."""
    rows = [
        dict(environment=env_id, threads=threads or torch.get_num_threads(), contestant=name,
             median=round(statistics.median(blocks), 1), lowest=round(blocks[0], 1), highest=round(blocks[-1], 1))
        for name, blocks in rates.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    if csv.is_file():
        key = ["environment", "threads", "contestant"]
        table = pd.concat([pd.read_csv(csv), table]).drop_duplicates(key, keep="last")
    csv.parent.mkdir(parents=True, exist_ok=True)
    part = csv.with_name(f"{csv.name}.part")
    table.to_csv(part, index=False)
    os.replace(part, csv)


def against_leanrl(rates: dict[str, list[float]]) -> list[str]:
    """What compilation and CUDA graphs bring LeanRL here, beside what it publishes, and where ours stands."""
    median = {name: statistics.median(blocks) for name, blocks in rates.items()}
    eager = [name for name in LEANRL if name in median and name != LEANRL_GRAPHS]
    lines = [f"ours to {name}: {median['ours'] / median[name]:.2f} ×" for name in eager if "ours" in median]
    if LEANRL_GRAPHS in median:
        lines += [
            f"{LEANRL_GRAPHS}, to {name}: {median[LEANRL_GRAPHS] / median[name]:.2f} × here, "
            f"{LEANRL_PUBLISHED[LEANRL_GRAPHS] / LEANRL_PUBLISHED[name]:.1f} × published (HalfCheetah-v4, H100)"
            for name in eager
        ]
    return lines


def peak_memory(command: list[str], folder: str) -> float:
    """Peak resident memory in GB of a short run on the CPU that then writes its whole replay buffer."""
    output = subprocess.check_output([*command, "--fill"], cwd=folder, env=environment(threads=1), text=True)
    return int(output.splitlines()[-1]) / 1e9


def versions(python: str, *packages: str) -> str:
    """An interpreter's version and those of the packages that it has."""
    return subprocess.check_output([python, str(PEER), "versions", *packages], text=True).strip()


def machine(device: str, threads: int | None) -> str:
    """What decides the figures besides versions: CPU, load, device and threads."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    gpu = f" ({torch.cuda.get_device_name()})" if device == "cuda" else ""
    return (
        f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, load average {os.getloadavg()[0]:.1f}, "
        f"device {device}{gpu}, {f'OMP_NUM_THREADS={threads}' if threads else f'{torch.get_num_threads()} threads'}"
    )


def title(args: Args) -> str:
    """What stands above the tables."""
    words = [versions(sys.executable, "torch", "stable-baselines3", "gymnasium", "mujoco")]
    if args.sbx_python:
        words.append(f"SBX: {versions(args.sbx_python, 'sbx-rl', 'jax')}")
    if args.rltools_python:
        words.append(f"RLtools: {versions(interpreter(args.rltools_python), 'rltools', 'mkl', 'gymnasium', 'mujoco')}")
    if args.leanrl:
        words.append(f"LeanRL: {versions(interpreter(args.leanrl_python), 'torch', 'tensordict', 'torchrl')}")
    words.append(f"{machine(args.device, args.threads)}, {args.blocks} blocks of {args.steps} steps")
    words.append(f"ours: {args.script}")
    if not find_spec("stable_baselines3"):
        words.append("Stable-Baselines3 is not installed and left out: pip install -r benchmark/requirements.txt")
    return "\n".join(words)


if __name__ == "__main__":
    args = tyro.cli(Args)
    check_device(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{title(args)}\n")
    print("| environment | contestant | steps/s, median | lowest | highest | of the floor | to the fastest library |")
    print("|-|-|-|-|-|-|-|", flush=True)
    remarks = []
    with tempfile.TemporaryDirectory() as folder:
        for env_id in args.env_ids:
            contestants, floors = race(args, env_id, folder)
            print("\n".join(table(env_id, contestants, floors, args.steps, gflop_of(update_of(env_id)))), flush=True)
            if args.csv:
                add_to(args.csv, env_id, args.threads, rates_of(contestants, args.steps))
            remarks += [f"{env_id}: {line}" for line in against_leanrl(rates_of(contestants, args.steps))]
        if remarks:
            print("\n".join(["", *remarks]))
        if args.memory:
            print("\n| environment | contestant | peak resident memory, buffer of 1M full |\n|-|-|-|")
            for name, command in commands(args, args.env_ids[0]).items():
                if name in ("ours", "Stable-Baselines3"):
                    print(f"| {args.env_ids[0]} | {name} | {peak_memory(command, folder):.2f} GB |", flush=True)
