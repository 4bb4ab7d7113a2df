"""The figures, one function each, drawn from studies' tables and from what models.py reads off saved models.

Docs: docs/benchmark.md
"""

import io
import itertools
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from PIL import Image

from benchmark.figures.analysis import NOT_MEASURED, Curves, area, behaviour, curves, iqm, measured, shown
from benchmark.figures.models import Gait, Landscape
from benchmark.figures.table import BEHAVIOUR, GUIDANCE_ACTIVE, SAMPLED
from benchmark.sweeps.studies import GUIDE_DURATION, Study

Part = tuple[pd.DataFrame, Study]  # a study and its table
ESTIMATE = "interquartile mean and 95 % interval"
TOY_TEXT = ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1"]
PHASES = ("before", "during", "right after", "long after")  # guidance

WIDTH = 8.0  # inches, of every figure: at a page's width its smallest letters are as large as the text's
STYLE = {
    "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "figure.titlesize": 10, "legend.fontsize": 10,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "0.9", "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip
styled = matplotlib.rc_context(STYLE)  # around what makes a figure
IN_WORDS = {"eval/episodic_return": "greedy return", SAMPLED: "sampled return", BEHAVIOUR: "training return"}
GUIDED = "guided (bars above)"
LANE = 0.09  # inches of each arm's bars


class Look(NamedTuple):
    """How an arm is drawn, in every figure."""

    color: str
    dashes: str | tuple[int, tuple[float, ...]]  # no two of a figure, so that they can be told apart without colours
    marker: str


LOOKS = {  # colours by Okabe and Ito
    "GuidedSAC": Look("#0072B2", "-", "o"),
    "SAC": Look("#000000", "--", "s"),
    "RND": Look("#E69F00", "-.", "^"),
    "ICM": Look("#009E73", (0, (1, 1)), "D"),
    "E3B": Look("#CC79A7", (0, (6, 1, 1, 1, 1, 1)), "v"),
    "as printed": Look("#D55E00", (0, (3, 1)), "X"),
}
OTHERS = [  # for arms of one study alone, in their order: colours by Paul Tol ("muted")
    Look("#332288", "-", "o"), Look("#44AA99", "--", "s"), Look("#CC6677", "-.", "^"),
    Look("#999933", (0, (1, 1)), "D"), Look("#88CCEE", (0, (6, 1, 1, 1, 1, 1)), "v"), Look("#882255", (0, (3, 1)), "X"),
    Look("#AA4499", (0, (8, 2)), "P"), Look("#117733", (0, (4, 1, 1, 1)), "*"), Look("#DDCC77", (0, (2, 2)), "<"),
]  # fmt: skip


def looks(arms: Iterable[str]) -> dict[str, Look]:
    """How each of a figure's arms is drawn."""
    others = itertools.cycle(OTHERS)
    return {arm: LOOKS[arm] if arm in LOOKS else next(others) for arm in arms}


def counted(axis, most: int = 4) -> None:
    """Whole numbers at an axis' ticks, at most so many, thousands parted: 10,000."""
    axis.set_major_locator(MaxNLocator(most))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}".replace("-", "−")))


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


def random_phase(study: Study, env: str, arm: str) -> int:
    """Steps at the beginning that the study lets an arm act at random, without an update."""
    return int(study.flags_of(arm, env).get("learning-starts", 0))


def trained(curve: Curves, random: int) -> Curves:
    """A curve from the end of the random phase on, where the policy is still that of the last evaluation before."""
    first = max(np.searchsorted(curve.steps, random, side="right") - 1, 0)
    return Curves(np.maximum(curve.steps, min(random, curve.steps[-1]))[first:], curve.scores[:, first:])


def panel(axes: Axes, parts: list[Part], env: str, arms: dict[str, Look]) -> int:
    """One environment: each arm's curve from where it learns, its guidance, the random phases, and the thresholds.

    Returns:
        Lanes of bars above it.
    """
    metrics, thresholds, random, guided = {}, {}, {}, 0  # the first two: each once, in order
    for number, arm in enumerate(arms):
        if (part := source(parts, env, arm)) is None:
            continue
        table, study = part
        steps = random_phase(study, env, arm)
        curve = trained(curves(table, env, arm, study.metric), steps)
        draw_arm(axes, curve, arm, arms[arm], (number, len(arms)))
        guided += draw_guidance(axes, guided_intervals(table, env, arm), arms[arm], guided)
        metrics[IN_WORDS.get(study.metric, study.metric)] = None
        thresholds |= dict.fromkeys(study.thresholds.get(env, ()))
        random.setdefault(steps, []).append(arm)
    for steps, names in random.items():
        if steps:
            who = "all" if len(random) == 1 else ", ".join(names)
            draw_random(axes, steps, who if len(who) <= 20 else f"{len(names)} of {len(arms)}")
    for threshold in thresholds:
        axes.axhline(threshold, color="grey", ls=":", lw=1.5, label="threshold")
        axes.text(1.01, threshold, f"{threshold:g}".replace("-", "−"), transform=axes.get_yaxis_transform(),
                  color="grey", va="center", fontsize="small")  # fmt: skip
    finish(axes, env, ", ".join(metrics), guided)
    return guided


def behaviour_panel(axes: Axes, part: Part, env: str, arms: dict[str, Look]) -> int:
    """One environment: what each arm's training episodes returned, guided actions included; returns as `panel`."""
    table, study = part
    data, guided = behaviour(table, study, env), 0
    for number, arm in enumerate(arms):
        if arm in data:
            draw_arm(axes, data[arm], arm, arms[arm], (number, len(arms)))
            guided += draw_guidance(axes, guided_intervals(table, env, arm), arms[arm], guided)
    finish(axes, env, f"{IN_WORDS[BEHAVIOUR]},\nguided actions included" if data else "", guided)
    return guided


def draw_arm(axes: Axes, curve: Curves, arm: str, look: Look, turn: tuple[int, int]) -> None:
    """An arm's interquartile mean at its evaluations, and its interval.

    Args:
        turn: its number among how many, which take turns with their marks: those that coincide can all be seen.
    """
    estimate = iqm(curve.scores)
    axes.fill_between(curve.steps, estimate.low, estimate.high, color=look.color, alpha=0.18, lw=0)
    axes.plot(curve.steps, estimate.value, color=look.color, ls=look.dashes, lw=2, marker=look.marker, ms=6,
              mec="white", mew=0.5, markevery=turn if len(curve.steps) > turn[1] else None,
              label=f"{arm} ({len(curve.scores)} seeds)")  # fmt: skip


def draw_guidance(axes: Axes, intervals: list[tuple[float, float]], look: Look, lane: int) -> int:
    """Bars above the panel where an arm was guided, below them those of `lane` other arms.

    Returns:
        How many lanes they take: 0 without intervals.
    """
    above = axes.figure.dpi_scale_trans + ScaledTranslation(0, 1, axes.transAxes)  # inches from the panel's top
    place = blended_transform_factory(axes.transData, above)
    for start, end in intervals:
        axes.add_patch(Rectangle((start, 0.03 + LANE * lane), end - start, 0.8 * LANE, transform=place,
                                 color=look.color, lw=0, clip_on=False))  # fmt: skip
    return bool(intervals)


def draw_random(axes: Axes, steps: int, who: str) -> None:
    """Where arms still act at random, and which; upright where there is little space."""
    axes.axvspan(0, steps, color="0.94", lw=0, zorder=0)
    grid, (first, last) = axes.get_subplotspec().get_gridspec(), axes.get_xlim()
    inches = 0.75 * axes.figure.get_size_inches()[0] / grid.ncols * steps / (last - first)
    text = textwrap.fill(who, 12, break_long_words=False) + "\nat random"
    upright = inches < 0.09 * max(map(len, text.splitlines()))
    place = {"y": 0.5, "va": "center", "rotation": 90} if upright else {"y": 0.04, "va": "bottom"}
    axes.text(x=steps / 2, s=f"{who} at random" if upright else text, transform=axes.get_xaxis_transform(), ha="center",
              color="0.35", fontsize="small", linespacing=1.0, zorder=4, **place,
              bbox={"color": "0.94", "alpha": 0.8, "pad": 1})  # fmt: skip


def finish(axes: Axes, title: str, metrics: str, guided: int) -> None:
    """Labels, and a scale on which all can be seen; without a metric it says why it is empty.

    Args:
        guided: lanes of bars above the panel.
    """
    axes.set(xlabel="environment steps", ylabel=metrics)
    axes.set_title(title, pad=5 + 72 * LANE * guided)
    counted(axes.xaxis)
    if not metrics:
        axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, ha="center")
        return
    if axes.get_ylim()[0] < -1_000:  # falling off a cliff at every step must not flatten what happens near the optimum
        axes.set_yscale("symlog", linthresh=20)
        axes.autoscale_view()  # the margins were those of a linear scale: 1,000 above a best return of −13
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}".replace("-", "−")))


def one_legend(figure: Figure) -> None:
    """Below all panels one legend with each label once: an arm has its colour in all of them."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if any(not patch.get_clip_on() for axes in figure.axes for patch in axes.patches):
        handles[GUIDED] = Patch(color="0.6")
    labels = list(handles)
    columns = next((n for n in range(len(labels), 1, -1) if letters(labels, n) <= 100), 1)
    figure.legend(handles.values(), labels, loc="outside lower center", ncols=columns)


def letters(labels: list[str], columns: int) -> int:
    """How many letters wide a legend is with its labels in so many columns, filled one after the other."""
    parts = np.array_split(np.array([len(label) + 8 for label in labels]), columns)  # 8: a handle and a gap
    return sum(part.max() for part in parts)


def titled(text: str, parts: list[Part]) -> str:
    """The title with a warning above it where the studies are quick forms."""
    if not any(study.quick for _, study in parts):
        return text
    seeds = max(len(study.seeds) for _, study in parts)
    return f"QUICK LOOK, not a result: {seeds} seeds, {last_step(parts):,} steps\n{text}"


def last_step(parts: list[Part]) -> int:
    """The last step of all runs; 0 where there are none."""
    return max((int(table.step.max()) for table, _ in parts if len(table)), default=0)


def last_steps(part: Part) -> dict[str, int]:
    """The last step of each arm that is measured."""
    return {arm: int(step) for arm, step in part[0].groupby("arm").step.max().items()}


def on(environments: list[str], parts: list[Part]) -> list[Part]:
    """Of the studies with one of these environments, what they have on these."""
    return [
        (table[table.env.isin(environments)], study)
        for table, study in parts if not set(environments).isdisjoint(study.environments)
    ]  # fmt: skip


@styled
def comparison(parts: list[Part], environments: list[str], arms: list[str], title: str, beside: bool = False) -> Figure:
    """A panel for each environment, with the arms from whichever study has them first.

    Args:
        beside: at the right of each panel another, with the first study's behaviour.
    """
    drawn = [(env, kind) for env in environments for kind in ((False, True) if beside else (False,))]
    columns = 3 if len(drawn) == 3 else min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    height = 1.0 + (2.4 if columns > 1 else 3.0) * rows
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.remove()
    lanes = 0
    for axes, (env, of_behaviour) in zip(grid.flat, drawn, strict=False):
        if of_behaviour:
            lanes = max(lanes, behaviour_panel(axes, parts[0], env, looks(arms)))
        else:
            lanes = max(lanes, panel(axes, parts, env, looks(arms)))
    figure.set_size_inches(WIDTH, height + LANE * lanes * rows + 0.12 * max(len(arms) - 4, 0))  # and the legend's rows
    for place, axes in enumerate(grid.flat[: len(drawn)]):
        if place + columns < len(drawn):
            axes.set_xlabel("")
        if place % columns and axes.get_ylabel() == grid[place // columns, 0].get_ylabel():
            axes.set_ylabel("")
    figure.align_ylabels()
    one_legend(figure)
    figure.suptitle(titled(title, on(environments, parts)))
    return figure


def sample_efficiency(table: pd.DataFrame, study: Study) -> Figure:
    """Interquartile mean of the metric over environment steps with its 95 % interval, a panel for each environment.

    Where the study guides and its table has the behaviour's return, that comes beside it in panels of its own.
    """
    beside = any(behaviour(table, study, env) for env in study.environments)
    return comparison([(table, study)], study.environments, list(study.arms), ESTIMATE, beside=beside)


# --- the paper's figures ---
def figure_3(parts: list[Part]) -> Figure:
    """Four toy-text tasks: guidance against plain SAC and three intrinsic rewards."""
    return comparison(parts, TOY_TEXT, ["SAC", "RND", "ICM", "E3B", "GuidedSAC"], ESTIMATE)


def figure_4a(parts: list[Part]) -> Figure:
    """MountainCarContinuous: what RND needs 80,000 steps for in the paper, against guidance of 3,000 steps."""
    return comparison(parts, ["MountainCarContinuous-v0"], ["SAC", "RND", "GuidedSAC"], ESTIMATE)


def figure_4b(parts: list[Part]) -> Figure:
    """Humanoid, for as many steps as were run, which the title says: the paper's guidance lasts for 900,000."""
    parts = on(["Humanoid-v5"], parts)
    title = f"{last_step(parts):,} steps, where the paper guides for 900,000; {ESTIMATE}"
    return comparison(parts, ["Humanoid-v5"], ["SAC", "RND", "GuidedSAC"], title)


@styled
def figure_5(landscapes: dict[int, list[Landscape]], part: Part) -> Figure:
    """The greedy action over position × velocity with a greedy episode drawn in: seeds down, phases of guidance across.

    Args:
        landscapes: by seed, one for each of PHASES.
    """
    figure = Figure(figsize=(WIDTH, 1.2 + 1.5 * len(landscapes)), layout="constrained")
    grid = figure.subplots(len(landscapes), len(PHASES), squeeze=False, sharex=True, sharey=True)
    steps = [landscape.step for landscape in next(iter(landscapes.values()))]
    heads = [f"{phase}\nstep {step:,}\n" for phase, step in zip(PHASES, steps, strict=True)]
    for row, (seed, phases) in zip(grid, landscapes.items(), strict=True):
        for axes, head, landscape in zip(row, heads, phases, strict=True):
            mesh = axes.pcolormesh(landscape.positions, landscape.velocities, landscape.actions, vmin=-1, vmax=1,
                                   cmap="coolwarm", rasterized=True)  # fmt: skip
            axes.plot(*landscape.path.T, color="black", lw=1)
            axes.set_title(f"{head}return {landscape.episodic_return:z.1f}".replace("-", "−"))
            axes.grid(False)
        heads = [""] * len(PHASES)  # the same in every row
        row[0].set_ylabel(f"seed {seed}\nvelocity")
    for axes in grid[-1]:
        axes.set_xlabel("position")
    figure.colorbar(mesh, ax=grid, label="greedy action", location="bottom", aspect=50, pad=0.02)
    figure.suptitle(titled("the unguided policy's action, and one greedy episode", [part]))
    return figure


@styled
def figure_6(strips: dict[str, list[np.ndarray]], gaits: dict[str, Gait], part: Part) -> Figure:
    """Gait strips: frames of one greedy episode side by side, an arm a row, with the gait of that arm's first seed.

    Args:
        strips: by arm, frames (H, W, 3) of one size; the middle of each is shown, where the robot is.
    """
    shape = next(iter(strips.values()))[0].shape
    top, left = shape[0] // 4, shape[1] // 6  # sky, and what lies beside the robot
    size = shape[0] - top, (shape[1] - 2 * left) * max(map(len, strips.values()))
    height = WIDTH * size[0] / size[1] + 0.4
    figure, steps = Figure(figsize=(WIDTH, 0.3 + height * len(strips)), layout="constrained"), last_steps(part)
    for axes, (arm, frames) in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips.items(), strict=True):
        row = np.concatenate([frame[top:, left : shape[1] - left] for frame in frames], axis=1)
        axes.imshow(row)
        axes.set(xticks=[], yticks=[], ylabel=arm, xlim=(-0.5, size[1] - 0.5))  # a shorter episode leaves a gap
        axes.spines[:].set_visible(False)
        alternation, double_support, flight, footfalls, frequency = gaits[arm]
        axes.set_title(f"after {steps[arm]:,} steps of training: {footfalls} footfalls, {frequency:.1f} a second, "
                       f"{alternation:.2f} of them alternating; both feet down {double_support:.2f} of the time, "
                       f"none {flight:.2f}", loc="left")  # fmt: skip
    figure.suptitle(titled("greedy episodes", [part]))
    return figure


@styled
def figure_7(table: pd.DataFrame, study: Study) -> Figure:
    """Start and duration of guidance: heat maps of the final return and of the area under the curve.

    A cell holds the interquartile mean over the seeds with its interval; a cell without two seeds stays empty.
    """
    (env,) = study.environments
    points = {tuple(arm.point[axis] for axis in ("guide-start", GUIDE_DURATION)): name
              for name, arm in study.arms.items() if arm.point}  # fmt: skip
    starts, durations = (sorted(set(values)) for values in zip(*points, strict=True))
    figure = Figure(figsize=(WIDTH, 1.2 + 0.9 * len(durations)), layout="constrained")
    statistics = {"final return": lambda curve: curve.scores[:, -1], "area under the curve": area}
    for axes, (title, statistic) in zip(figure.subplots(2, 1, sharex=True), statistics.items(), strict=True):
        cells = np.full((len(durations), len(starts)), np.nan)
        texts = []
        for (start, duration), arm in points.items():
            if not measured(table, study, env, arm):
                continue
            x, y = starts.index(start), durations.index(duration)
            value, low, high = (v[0] for v in iqm(statistic(curves(table, env, arm, study.metric))[:, None]))
            cells[y, x] = value
            texts.append(axes.text(x, y, shown(value, low, high, 1), fontsize="small", ha="center", va="center"))
        image = axes.imshow(cells, origin="lower", aspect="auto", cmap="cividis")
        for text in texts:
            light = image.norm(cells[text.get_position()[::-1]]) > 0.5
            text.set_color("black" if light else "white")
        axes.set(title=title, ylabel="duration, steps", xticks=range(len(starts)), yticks=range(len(durations)),
                 xticklabels=[f"{start:,}" for start in starts],
                 yticklabels=[f"{duration:,}" for duration in durations])  # fmt: skip
        axes.grid(False)
        figure.colorbar(image, ax=axes, label=IN_WORDS.get(study.metric, study.metric))
    axes.set_xlabel("start of guidance, environment step")
    figure.suptitle(titled(f"{env}: {ESTIMATE}", [(table, study)]))
    return figure


@styled
def forks(table: pd.DataFrame, measures: dict[str, str]) -> Figure:
    """What became of forks against the run that they left, at the same step: differences by the step where they begin.

    Args:
        table: of benchmark/probes/forks.py, with the run itself as the arm "unguided".
        measures: column → title, a panel each; an even number.
    """
    keys = ["fork", "step", "actions"]
    own = table[table.arm == "unguided"].set_index(keys)[list(measures)]
    others = table[table.arm != "unguided"].set_index([*keys, "arm"])[list(measures)]
    differences = (others - own).reset_index()
    differences["length"] = differences.step - differences.fork
    several = differences.length.nunique() > 1
    lines = {
        f"{arm}, {actions}" + (f", {length:,} steps" if several else ""): rows
        for (arm, length, actions), rows in differences.groupby(["arm", "length", "actions"])
    }
    figure = Figure(figsize=(WIDTH, 1.2 + 2.4 * (len(measures) // 2)), layout="constrained")
    grid = figure.subplots(len(measures) // 2, 2, sharex=True, squeeze=False)
    for axes, (measure, title) in zip(grid.flat, measures.items(), strict=True):
        for label, look in looks(lines).items():
            axes.plot(lines[label].fork, lines[label][measure], color=look.color, ls=look.dashes, lw=2,
                      marker=look.marker, ms=6, mec="white", mew=0.5, label=label)  # fmt: skip
        axes.axhline(0, color="grey", lw=1)
        axes.set_title(title)
        counted(axes.xaxis)
    for axes in grid[-1]:
        axes.set_xlabel("step where the fork begins")
    one_legend(figure)
    env, seed = table.env.iloc[0], table.seed.iloc[0]
    figure.suptitle(f"{env}, seed {seed}: difference to the run without guidance at the same step")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write path.png in 256 colours, whole or not at all; the same data gives the same bytes."""
    part, picture = path.with_name(f"{path.name}.png.part"), io.BytesIO()
    with matplotlib.rc_context(STYLE):  # a tick is made when it is drawn
        figure.savefig(picture, format="png", dpi=140)
    Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(part, "PNG", optimize=True)
    os.replace(part, path.with_name(f"{path.name}.png"))
