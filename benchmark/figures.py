"""The figures, one function each, drawn from a study's table.

Docs: docs/benchmark.md
"""

import itertools
import os
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from analysis import curves, finished_arms, iqm
from matplotlib.figure import Figure
from sweep import Study
from table import GUIDANCE_ACTIVE

matplotlib.rcParams["svg.hashsalt"] = "guided-sac"  # the same data gives the same bytes


def guided_intervals(table: pd.DataFrame, env: str, arm: str) -> list[tuple[float, float]]:
    """Where at least half of the seeds were guided, as (first step, last step), from the logged guidance itself."""
    rows = table[(table.env == env) & (table.arm == arm)]
    ends = rows.groupby("seed").step.max()
    switches = rows[rows.tag == GUIDANCE_ACTIVE]
    changes = sorted({*switches.step, *ends})
    intervals: list[tuple[float, float]] = []
    for start, end in itertools.pairwise(changes):
        latest = switches[switches.step <= start].groupby("seed").value.last()  # of seeds that never switched: none
        if latest[ends[latest.index] > start].sum() * 2 < len(ends):
            continue
        if intervals and intervals[-1][1] == start:
            start = intervals.pop()[0]
        intervals.append((start, end))
    return intervals


def sample_efficiency(table: pd.DataFrame, study: Study) -> Figure:
    """Interquartile mean of the metric over environment steps with its 95 % interval, a panel for each environment."""
    count = len(study.environments)
    figure = Figure(figsize=(1.5 + 5.5 * count, 3.8), layout="constrained")
    for axes, env in zip(figure.subplots(1, count, squeeze=False)[0], study.environments, strict=True):
        for number, arm in enumerate(finished_arms(table, study, env)):
            steps, scores = curves(table, env, arm, study.metric)
            estimate = iqm(scores)
            axes.fill_between(steps, estimate.low, estimate.high, color=f"C{number}", alpha=0.25, lw=0)
            axes.plot(steps, estimate.value, color=f"C{number}", lw=2, label=f"{arm} ({len(scores)} seeds)")
            guided = guided_intervals(table, env, arm)
            for index, (start, end) in enumerate(guided):
                label = f"{arm} guided" if index == 0 else None
                axes.axvspan(start, end, color=f"C{number}", alpha=0.08, lw=0, label=label)
        if study.threshold is not None:
            axes.axhline(study.threshold, color="grey", ls=":", lw=1)
        axes.set(xlabel="environment step", ylabel=study.metric, title=env)
        low, high = axes.get_ylim()
        if high - low > 1_000:  # falling off a cliff at every step must not flatten what happens near the optimum
            axes.set_yscale("symlog", linthresh=20)
        axes.legend(frameon=False, fontsize="small")
    title = "interquartile mean and 95 % interval"
    if study.quick:
        last = int(np.max(table.step))
        title = f"QUICK LOOK, not a result: {len(study.seeds)} seeds, {last:,} steps; {title}"
    figure.suptitle(title, fontsize="small")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write path.png and path.svg, whole or not at all."""
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        part = path.with_name(f"{path.name}.{kind}.part")
        figure.savefig(part, format=kind, dpi=130, metadata=metadata)
        os.replace(part, path.with_name(f"{path.name}.{kind}"))
