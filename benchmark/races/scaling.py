"""How the cost of a step grows with the batch, the networks' width, the observation's size and the environments.

    python -m benchmark.races.scaling

Each setting is the unmodified training loop of guided_sac_continuous.py in a process of its own (for the width, of a
copy in which one number is another); those of one panel take turns, block by block. All run on the CPU. Keep the
machine idle meanwhile.
Writes benchmark/results/scaling.csv and docs/figures/scaling.png.
Docs: docs/speed.md
"""

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure

from benchmark import ROOT
from benchmark.figures import drawing
from benchmark.races.speed import PEER, SCRIPT, Contestant, environment, floor_of, products, take_turns

OBS_SIZE, ACTIONS, BATCH, HIDDEN = 17, 6, 256, 256  # HalfCheetah-v5's and the script's, where they are not varied
PANELS = {
    "batch size": (64, 128, 256, 512, 1024, 2048, 4096),
    "width of the hidden layers": (64, 128, 256, 512, 1024),
    "observation size": (4, 16, 64, 256, 1024),
    "environments": (1, 2, 4, 8, 16, 32),
}
WIDTH = "hidden: int = 256"


@dataclass
class Args:
    blocks: int = 5
    """timed blocks of each setting, ≥ 1; the table has their median"""
    steps: int = 60
    """vector steps (with one update each) of a block, ≥ 1"""
    warm_up: int = 140
    """vector steps of each setting before the first block, of which the first are without updates"""
    threads: int | None = None
    """threads of each process (OMP_NUM_THREADS); None: torch's default"""
    out: Path = ROOT
    """folder in which `benchmark/results/` and `docs/figures/` are written"""


def command(panel: str, value: int, folder: Path) -> list[str]:
    """A setting's command line."""
    script, obs_size, flags = SCRIPT, OBS_SIZE, []
    match panel:
        case "batch size":
            flags = ["--batch-size", str(value)]
        case "environments":
            flags = ["--num-envs", str(value)]
        case "observation size":
            obs_size = value
        case "width of the hidden layers":
            script = folder / f"width_{value}.py"
            text = SCRIPT.read_text(encoding="utf-8")
            assert text.count(WIDTH) == 3, "the script's networks name their width otherwise now"
            script.write_text(text.replace(WIDTH, f"hidden: int = {value}"), encoding="utf-8")
    return [
        sys.executable, str(PEER), "script", str(script), "benchmark.races.wide_env:Wide-v0", "--env-kwargs",
        json.dumps({"obs_size": obs_size}), "--supervisor", "none", *flags,
    ]  # fmt: skip


def floor(panel: str, value: int) -> float:
    """Seconds of the matrix products that a setting's update cannot do without."""
    batch = value if panel == "batch size" else BATCH
    hidden = value if panel == "width of the hidden layers" else HIDDEN
    obs_size = value if panel == "observation size" else OBS_SIZE
    return floor_of(products(obs_size, ACTIONS, batch, hidden))


def measure(panel: str, args: Args) -> pd.DataFrame:
    """Milliseconds of a vector step (with its one update), median, lowest and highest block, for every value."""
    env = environment("cpu", args.threads)
    env["PYTHONPATH"] = str(ROOT)  # for the environment, and for what a copy of the script imports
    with tempfile.TemporaryDirectory() as folder:
        contestants = [
            Contestant(str(value), command(panel, value, Path(folder)), folder, env) for value in PANELS[panel]
        ]
        take_turns(contestants, args.warm_up, args.steps, args.blocks)
    rows = []
    for contestant, value in zip(contestants, PANELS[panel], strict=True):
        times = [1e3 * seconds / args.steps for seconds in contestant.seconds]
        rows.append([panel, value, statistics.median(times), min(times), max(times), 1e3 * floor(panel, value)])
    return pd.DataFrame(rows, columns=["panel", "value", "ms", "lowest", "highest", "products_ms"])


@drawing.styled
def draw(table: pd.DataFrame) -> Figure:
    """A panel for each quantity: the step, and beside it the matrix products alone."""
    step, each = drawing.OTHERS[:2]
    figure = Figure(figsize=(drawing.WIDTH, 5.2), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    for axes, panel in zip(grid.flat, PANELS, strict=True):
        rows = table[table.panel == panel]
        axes.fill_between(rows.value, rows.lowest, rows.highest, color=step.color, alpha=0.25, lw=0)
        axes.plot(rows.value, rows.ms, "o-", color=step.color, label="step of all environments, with one update")
        axes.plot(rows.value, rows.products_ms, "k:", label="its matrix products alone")
        if panel == "environments":
            axes.plot(rows.value, rows.ms / rows.value, "s--", color=each.color, label="per environment step")
        axes.set(xscale="log", yscale="log", xlabel=panel)
        axes.set_xticks(rows.value, [f"{value:,}" for value in rows.value])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("milliseconds")
    drawing.one_legend(figure)
    return figure


if __name__ == "__main__":
    args = tyro.cli(Args)
    if args.threads:
        torch.set_num_threads(args.threads)
    table = pd.concat([measure(panel, args) for panel in PANELS], ignore_index=True)
    print("| quantity | value | ms, median | lowest | highest | products alone |\n|-|-|-|-|-|-|")
    for row in table.itertuples(index=False):
        print(f"| {row.panel} | {row.value:,} | {row.ms:.2f} | {row.lowest:.2f} | {row.highest:.2f} | "
              f"{row.products_ms:.2f} |")  # fmt: skip
    results, pictures = args.out / "benchmark" / "results", args.out / "docs" / "figures"
    for place in (results, pictures):
        place.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(results / "scaling.csv", index=False)
    drawing.save(draw(table), pictures / "scaling")
