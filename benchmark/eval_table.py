"""Table and curve of greedy evaluations: reads `eval/episodic_return` of finished runs, one file for each study.

    python benchmark/eval_table.py --runs runs --csv benchmark/results/mountain_car_continuous.csv \
        --figure docs/mountain_car_continuous.png --threshold 90

A run's label is its `--exp-name`, so runs that are to stand apart are given names of their own.
"""

import csv
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Curves = dict[tuple[str, str, int], dict[int, float]]  # (env, label, seed) → step → mean greedy return


@dataclass
class Args:
    runs: Path = Path("runs")
    """folder with the runs"""
    csv: Path | None = None
    """file for the tidy table: env, label, seed, step, return"""
    figure: Path | None = None
    """file for the curves of all seeds (PNG or SVG; needs matplotlib)"""
    threshold: float = 90.0
    """a seed counts as solved at a step where its return is at least this"""


def read(folder: Path) -> Curves:
    """The evaluations of every run below folder; where a seed was run twice, the later run counts."""
    curves: Curves = {}
    for run in sorted(folder.iterdir(), key=lambda path: path.name.rsplit("__", 1)[-1]):
        match = re.fullmatch(r"(.+?)__(.+)__(\d+)__\d+", run.name)
        if not match:
            continue
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        if "eval/episodic_return" in events.Tags()["scalars"]:
            points = {e.step: e.value for e in events.Scalars("eval/episodic_return")}
            curves[match[1], match[2], int(match[3])] = points
    return curves


def summary(curves: Curves, threshold: float) -> list[str]:
    """Markdown rows: for each label and step the median, the range and the number of seeds at the threshold."""
    groups: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (env, label, _), points in curves.items():
        for step, value in points.items():
            groups[env, label][step].append(value)
    rows = [f"| environment | run | step | median | lowest | highest | seeds ≥ {threshold:g} |", "|-|-|-|-|-|-|-|"]
    for (env, label), steps in sorted(groups.items()):
        for step, values in sorted(steps.items()):
            solved = sum(value >= threshold for value in values)
            rows.append(
                f"| {env} | {label} | {step:,} | {statistics.median(values):.1f} | {min(values):.1f} | "
                f"{max(values):.1f} | {solved} of {len(values)} |"
            )
    return rows


def draw(curves: Curves, path: Path, threshold: float) -> None:
    """Every seed as a thin line, the median of each label as a thick one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for number, label in enumerate(sorted({label for _, label, _ in curves})):
        seeds = [points for (_, other, _), points in curves.items() if other == label]
        for points in seeds:
            axes.plot(list(points), list(points.values()), color=f"C{number}", alpha=0.25, lw=0.8)
        steps = sorted(set.intersection(*(set(points) for points in seeds)))
        medians = [statistics.median(points[step] for points in seeds) for step in steps]
        axes.plot(steps, medians, color=f"C{number}", lw=2, label=f"{label}: median of {len(seeds)} seeds")
    axes.axhline(threshold, color="grey", ls=":", lw=1)
    axes.set(xlabel="environment step", ylabel="greedy return, unguided", title=next(iter(curves))[0])
    axes.legend(frameon=False)
    fig.savefig(path, dpi=130)
    plt.close(fig)


if __name__ == "__main__":
    args = tyro.cli(Args)
    found = read(args.runs)
    if not found:
        raise SystemExit(f"no run below {args.runs} has evaluations; run the scripts with --eval-frequency")
    print("\n".join(summary(found, args.threshold)))
    if args.csv:
        with args.csv.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["env", "label", "seed", "step", "return"])
            for (env, label, seed), points in sorted(found.items()):
                table.writerows([env, label, seed, step, f"{value:.4f}"] for step, value in sorted(points.items()))
    if args.figure:
        draw(found, args.figure, args.threshold)
