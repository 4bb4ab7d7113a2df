"""The figures, one function each, drawn from studies' tables and from what models.py reads off saved models.

Docs: docs/benchmark.md
"""

import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.figures.analysis import NOT_MEASURED, Curves, area, behaviour, curves, iqm, measured, shown
from benchmark.figures.models import Gait, Landscape
from benchmark.figures.table import BEHAVIOUR, GUIDANCE_ACTIVE
from benchmark.sweeps.studies import GUIDE_DURATION, Study

Part = tuple[pd.DataFrame, Study]  # a study and its table
ESTIMATE = "interquartile mean and 95 % interval"
TOY_TEXT = ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1"]
PHASES = ("before", "during", "right after", "long after")  # guidance


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


def source(parts: list[Part], env: str, arm: str) -> Part | None:
    """The first of the studies in which the arm is measured on the environment."""
    found = (part for part in parts if arm in part[1].arms and env in part[1].environments)
    return next((part for part in found if measured(*part, env, arm)), None)


def panel(axes: Axes, parts: list[Part], env: str, arms: list[str]) -> None:
    """One environment: each arm's curve, and the thresholds."""
    metrics, thresholds = {}, {}  # each once, in order
    for number, arm in enumerate(arms):
        if (part := source(parts, env, arm)) is None:
            continue
        table, study = part
        draw_arm(axes, table, env, arm, curves(table, env, arm, study.metric), number)
        metrics[study.metric] = thresholds[study.thresholds.get(env)] = None
    for threshold in thresholds:
        if threshold is not None:
            axes.axhline(threshold, color="grey", ls=":", lw=1, label=f"threshold {threshold:g}")
    finish(axes, env, ", ".join(metrics))


def behaviour_panel(axes: Axes, part: Part, env: str, arms: list[str]) -> None:
    """One environment: what each arm's training episodes returned, guided actions included."""
    table, study = part
    data = behaviour(table, study, env)
    for number, arm in enumerate(arms):
        if arm in data:
            draw_arm(axes, table, env, arm, data[arm], number)
    finish(axes, f"{env}: training episodes, guided actions included", BEHAVIOUR if data else "")


def draw_arm(axes: Axes, table: pd.DataFrame, env: str, arm: str, curve: Curves, number: int) -> None:
    """An arm's interquartile mean at its evaluations, its interval, and where it was guided."""
    estimate, color = iqm(curve.scores), f"C{number}"
    axes.fill_between(curve.steps, estimate.low, estimate.high, color=color, alpha=0.25, lw=0)
    style = ("--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), "-")[number % 5]  # arms that coincide can all be seen
    axes.plot(curve.steps, estimate.value, color=color, ls=style, lw=2, marker="o", ms=3,
              label=f"{arm} ({len(curve.scores)} seeds)")  # fmt: skip
    for index, (start, end) in enumerate(guided_intervals(table, env, arm)):
        label = f"{arm} guided" if index == 0 else None
        axes.axvspan(start, end, color=color, alpha=0.08, lw=0, label=label)


def finish(axes: Axes, title: str, metrics: str) -> None:
    """Labels, a scale on which all can be seen, and the legend; without a metric it says why it is empty."""
    axes.set(xlabel="environment step", ylabel=metrics, title=title)
    if not metrics:
        axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, ha="center")
        return
    low, high = axes.get_ylim()
    if high - low > 1_000:  # falling off a cliff at every step must not flatten what happens near the optimum
        axes.set_yscale("symlog", linthresh=20)
        axes.autoscale_view()  # the margins were those of a linear scale: 1,000 above a best return of −13
    axes.legend(frameon=False, fontsize="small")


def one_legend(figure: Figure) -> None:
    """Below all panels one legend with each label once, in place of their own: an arm has its colour in all of them."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        if (legend := axes.get_legend()) is not None:
            legend.remove()
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False, fontsize="small")


def titled(text: str, parts: list[Part]) -> str:
    """The title with a warning above it where the studies are quick forms."""
    if not any(study.quick for _, study in parts):
        return text
    seeds = max(len(study.seeds) for _, study in parts)
    return f"QUICK LOOK, not a result: {seeds} seeds, {last_step(parts):,} steps\n{text}"


def last_step(parts: list[Part]) -> int:
    return max((int(table.step.max()) for table, _ in parts if len(table)), default=0)


def on(environments: list[str], parts: list[Part]) -> list[Part]:
    """Of the studies with one of these environments, what they have on these."""
    return [
        (table[table.env.isin(environments)], study)
        for table, study in parts if not set(environments).isdisjoint(study.environments)
    ]  # fmt: skip


def comparison(
    parts: list[Part], environments: list[str], arms: list[str], title: str, columns: int = 4, below: bool = False
) -> Figure:
    """A panel for each environment, with the arms from whichever study has them first.

    Args:
        below: under these panels another for each environment, with the first study's behaviour.
    """
    columns = min(columns, len(environments))
    rows = -(-len(environments) // columns)
    count = 2 * rows if below else rows
    figure = Figure(figsize=(1.5 + 5.5 * columns, 3.8 * count), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False)
    for axes, env in zip(grid[:rows].flat, environments, strict=True):
        panel(axes, parts, env, arms)
    if below:
        for axes, env in zip(grid[rows:].flat, environments, strict=True):
            behaviour_panel(axes, parts[0], env, arms)
    if len(environments) > 1:
        one_legend(figure)
    figure.suptitle(titled(title, on(environments, parts)), fontsize="small")
    return figure


def sample_efficiency(table: pd.DataFrame, study: Study) -> Figure:
    """Interquartile mean of the metric over environment steps with its 95 % interval, a panel for each environment.

    Where the study guides and its table has the behaviour's return, that comes below in panels of its own.
    """
    below = any(behaviour(table, study, env) for env in study.environments)
    return comparison([(table, study)], study.environments, list(study.arms), ESTIMATE, below=below)


# --- the paper's figures ---
def figure_3(parts: list[Part]) -> Figure:
    """Four toy-text tasks: guidance against plain SAC and three intrinsic rewards."""
    return comparison(parts, TOY_TEXT, ["SAC", "RND", "ICM", "E3B", "GuidedSAC"], ESTIMATE, columns=2)


def figure_4a(parts: list[Part]) -> Figure:
    """MountainCarContinuous: what RND needs 80,000 steps for in the paper, against guidance of 3,000 steps."""
    return comparison(parts, ["MountainCarContinuous-v0"], ["SAC", "RND", "GuidedSAC"], ESTIMATE)


def figure_4b(parts: list[Part]) -> Figure:
    """Humanoid, for as many steps as were run, which the title says: the paper's guidance lasts for 900,000."""
    parts = on(["Humanoid-v5"], parts)
    title = f"{last_step(parts):,} steps, where the paper guides for 900,000; {ESTIMATE}"
    return comparison(parts, ["Humanoid-v5"], ["SAC", "RND", "GuidedSAC"], title)


def figure_5(landscapes: dict[int, list[Landscape]], part: Part) -> Figure:
    """The greedy action over position × velocity with a greedy episode drawn in: seeds down, phases of guidance across.

    Args:
        landscapes: by seed, one for each of PHASES.
    """
    figure = Figure(figsize=(13, 0.8 + 2.7 * len(landscapes)), layout="constrained")
    grid = figure.subplots(len(landscapes), len(PHASES), squeeze=False, sharex=True, sharey=True)
    for row, (seed, phases) in zip(grid, landscapes.items(), strict=True):
        for axes, phase, landscape in zip(row, PHASES, phases, strict=True):
            mesh = axes.pcolormesh(landscape.positions, landscape.velocities, landscape.actions, vmin=-1, vmax=1,
                                   cmap="coolwarm", rasterized=True)  # fmt: skip
            axes.plot(*landscape.path.T, color="black", lw=1)
            axes.set_title(f"{phase}: step {landscape.step:,}, return {landscape.episodic_return:z.1f}",
                           fontsize="small")  # fmt: skip
        row[0].set_ylabel(f"seed {seed}\nvelocity")
    for axes in grid[-1]:
        axes.set_xlabel("position")
    figure.colorbar(mesh, ax=grid, label="greedy action")
    figure.suptitle(titled("the unguided policy's action, and one greedy episode", [part]), fontsize="small")
    return figure


def figure_6(strips: dict[str, list[np.ndarray]], gaits: dict[str, Gait], part: Part) -> Figure:
    """Gait strips: frames of one greedy episode side by side, an arm a row, with the gait of that arm's first seed."""
    figure = Figure(figsize=(14, 0.5 + 2.2 * len(strips)), layout="constrained")
    for axes, (arm, frames) in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips.items(), strict=True):
        axes.imshow(np.concatenate(frames, axis=1))
        axes.set(xticks=[], yticks=[], ylabel=arm)
        alternation, double_support, flight, footfalls, frequency = gaits[arm]
        axes.set_title(f"{footfalls} footfalls, {frequency:.1f} a second, {alternation:.2f} of them alternating; "
                       f"both feet down {double_support:.2f} of the time, none {flight:.2f}",
                       fontsize="small")  # fmt: skip
    last = int(part[0].step.max())
    figure.suptitle(titled(f"greedy episodes after {last:,} steps of training", [part]), fontsize="small")
    return figure


def figure_7(table: pd.DataFrame, study: Study) -> Figure:
    """Start and duration of guidance: heat maps of the final return and of the area under the curve.

    A cell holds the interquartile mean over the seeds with its interval; a cell without two seeds stays empty.
    """
    (env,) = study.environments
    points = {tuple(arm.point[axis] for axis in ("guide-start", GUIDE_DURATION)): name
              for name, arm in study.arms.items() if arm.point}  # fmt: skip
    starts, durations = (sorted(set(values)) for values in zip(*points, strict=True))
    figure = Figure(figsize=(13, 1.5 + 0.8 * len(durations)), layout="constrained")
    statistics = {"final return": lambda curve: curve.scores[:, -1], "area under the curve": area}
    for axes, (title, statistic) in zip(figure.subplots(1, 2), statistics.items(), strict=True):
        cells = np.full((len(durations), len(starts)), np.nan)
        for (start, duration), arm in points.items():
            if not measured(table, study, env, arm):
                continue
            x, y = starts.index(start), durations.index(duration)
            value, low, high = (v[0] for v in iqm(statistic(curves(table, env, arm, study.metric))[:, None]))
            cells[y, x] = value
            axes.text(x, y, shown(value, low, high, 1).replace(" ", "\n", 1), fontsize="x-small", ha="center",
                      va="center", bbox=dict(facecolor="white", alpha=0.6, lw=0, pad=1))  # fmt: skip
        image = axes.imshow(cells, origin="lower", aspect="auto", cmap="viridis")
        axes.set(title=title, xlabel="start T of guidance", ylabel="duration D", xticks=range(len(starts)),
                 yticks=range(len(durations)), xticklabels=starts, yticklabels=durations)  # fmt: skip
        figure.colorbar(image, ax=axes, label=study.metric)
    figure.suptitle(titled(f"{env}: {ESTIMATE}", [(table, study)]), fontsize="small")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write path.png, whole or not at all; the same data gives the same bytes."""
    part = path.with_name(f"{path.name}.png.part")
    figure.savefig(part, format="png", dpi=130, metadata={"Software": None})
    os.replace(part, path.with_name(f"{path.name}.png"))
