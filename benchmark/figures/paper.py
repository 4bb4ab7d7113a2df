"""The paper's figures: the studies behind each, its pictures, its tables, and its place in docs/results.md.

Docs: docs/benchmark.md
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rliable import metrics

from benchmark.figures import analysis, drawing
from benchmark.figures.analysis import (
    NOT_MEASURED,
    Curves,
    area,
    curves,
    interval,
    iqm,
    last_mean,
    measured,
    origin,
    shown,
)
from benchmark.figures.drawing import PHASES, TOY_TEXT, Part
from benchmark.figures.models import Gait, Model, gait, landscape, load_model, oscillation, play
from benchmark.figures.table import model_folder
from benchmark.sweeps.studies import GUIDE_DURATION, Run
from benchmark.sweeps.sweep import Args

STUDIES = {  # where several have an arm, the first that has it measured counts
    # plain SAC with the bonuses' settings before that with the guided script's
    3: ("baselines_blackjack", "baselines_toy_text", "frozen_lake", "cliff_walking", "taxi", "blackjack"),
    4: ("mountain_car_continuous", "baselines_mountain_car", "humanoid"),
    5: ("policy_landscape",),
    6: ("humanoid",),
    7: ("guidance_timing",),
}
OF_MODELS = (5, 6)
GAIT_EPISODES = 5  # of each model
STRIP = range(0, 80, 8)  # steps of a gait strip's frames: 0.12 s between two, 1.1 s in all


class Drawn(NamedTuple):
    """A figure of the paper, its tables in Markdown."""

    pictures: dict[str, Figure]  # by file name
    short: str  # for docs/results.md; empty where the pictures show the numbers and the claims name them
    whole: str  # for figure_<n>.md beside the studies' own tables: every number, and which runs it is of


def figure(number: int, parts: list[Part], args: Args) -> Drawn:
    """The pictures and the tables of a figure. What is not measured yet is not drawn, and the tables say so."""
    if number == 3:
        return compared({"figure_3": (drawing.figure_3, TOY_TEXT)}, ["SAC", "RND", "ICM", "E3B", "GuidedSAC"], parts)
    if number == 4:
        panels = {"figure_4a": (drawing.figure_4a, ["MountainCarContinuous-v0"]),
                  "figure_4b": (drawing.figure_4b, ["Humanoid-v5"])}  # fmt: skip
        return compared(panels, ["SAC", "RND", "GuidedSAC"], parts)
    (part,) = parts
    if not len(part[0]):
        return nothing(part)
    return {5: landscapes, 6: gaits, 7: timing}[number](part, args)


def filled(page: str, number: int, pictures: list[str], text: str) -> str:
    """The page of results with a figure's pictures and short tables between that figure's two marks."""
    begin, end = f"<!-- figure {number}, written by benchmark/results.py -->", f"<!-- end of figure {number} -->"
    whole = f"All numbers and their runs: [figure_{number}.md](../benchmark/results/figure_{number}.md)."
    shown = (f"![Figure {name[7:]}](figures/{name}.png)" for name in pictures)
    block = "\n\n".join(part for part in (begin, *shown, text.strip(), whole, end) if part)
    page, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"docs/results.md must hold one place for figure {number}, not {count}")
    return page


def table(header: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + "-|" * columns]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def estimate(values: np.ndarray | list[float], digits: int) -> str:
    """Interquartile mean and interval over the seeds, in words where there are fewer than two."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return "fewer than 2 seeds"
    return shown(*(x[0] for x in iqm(values[:, None])), digits)


def not_measured(environments: list[str]) -> str:
    """What stands in the place of the environments' tables."""
    return f"**{', '.join(environments)}: {NOT_MEASURED}.**"


def nothing(part: Part) -> Drawn:
    """A figure of which nothing is measured."""
    text = not_measured(part[1].environments)
    return Drawn({}, text, text)


def origins(parts: list[Part]) -> str:
    """Which runs the figure is of, with links to the studies' tables, which lie beside it."""
    return "\n".join(f"- [{study.name}]({study.name}.md): {origin(table)}" for table, study in parts if len(table))


# --- figures 3 and 4 ---
def compared(panels: dict, arms: list[str], parts: list[Part]) -> Drawn:
    """Those pictures of which at least one arm is measured, and tables of all arms.

    Args:
        panels: by file name, the drawing function and its environments.
    """
    drawn, sides, missing, wholes = {}, [], [], []
    for name, (draw, environments) in panels.items():
        if not any(drawing.source(parts, env, arm) for env in environments for arm in arms):
            missing.append(not_measured(environments))
            wholes.append(missing[-1])
            continue
        drawn[name] = draw(parts)
        rows = [row for env in environments for row in compared_rows(parts, env, arms)]
        wholes.append(
            table(
                "task | arm | seeds | step | IQM at that step | area over steps | IQM of the area | "
                "step | P(GuidedSAC better) at that step | study",
                rows,
            )
        )
        sides += [side for env in environments if (side := at_shared_step(parts, env, arms))]
    shorts = [side_by_side(sides, arms)] if sides else []
    return Drawn(drawn, "\n\n".join([*shorts, *missing]), "\n\n".join([*wholes, origins(parts)]))


def side_by_side(sides: list[tuple[str, int, dict[str, str], dict[str, str]]], arms: list[str]) -> str:
    """All arms of a task in one row: their IQM, and in a second table how often GuidedSAC is better."""
    *others, _ = arms
    rows = [
        (env, f"{step:,}", *(estimates.get(arm, NOT_MEASURED) for arm in arms)) for env, step, estimates, _ in sides
    ]
    text = f"IQM at the last step that all arms have:\n\n{table(' | '.join(['task', 'step', *arms]), rows)}"
    rows = [(env, *(chances.get(arm, "") for arm in others)) for env, _, _, chances in sides if chances]
    better = f"\n\nP(GuidedSAC better) there:\n\n{table(' | '.join(['task', *others]), rows)}"
    return text + better if rows else text


def at_shared_step(
    parts: list[Part], env: str, arms: list[str]
) -> tuple[str, int, dict[str, str], dict[str, str]] | None:
    """The last step that all measured arms have, each arm's IQM there, and P(GuidedSAC better) than each other."""
    data, digits = measured_curves(parts, env, arms)
    if not data:
        return None
    step = functools.reduce(np.intersect1d, (curve.steps for curve in data.values()))[-1]
    # of all steps at once, so that the interval is the one in the study's table
    means = {arm: shown(*(x[curve.steps == step][0] for x in iqm(curve.scores)), digits) for arm, curve in data.items()}
    until = {arm: Curves(curve.steps[curve.steps <= step], curve.scores[:, curve.steps <= step])
             for arm, curve in data.items()}  # fmt: skip
    chances = {arm: better(until, "GuidedSAC", arm)[1] for arm in data}
    return env, step, means, {arm: chance for arm, chance in chances.items() if chance}


def measured_curves(parts: list[Part], env: str, arms: list[str]) -> tuple[dict[str, Curves], int]:
    """The curve of each arm that is measured on the environment, and the digits with which returns are shown."""
    sources = {arm: drawing.source(parts, env, arm) for arm in arms}
    data = {arm: curves(part[0], env, arm, part[1].metric) for arm, part in sources.items() if part}
    return data, 1 if max((np.abs(curve.scores).max() for curve in data.values()), default=0) >= 10 else 3


def compared_rows(parts: list[Part], env: str, arms: list[str]) -> Iterator[tuple]:
    """A row for each arm: its end, its area over the steps that all measured arms share, and GuidedSAC against it."""
    data, digits = measured_curves(parts, env, arms)
    trained = [curve.steps[curve.steps > 0] for curve in data.values()]
    begin, end = max((steps[0] for steps in trained), default=0), min((steps[-1] for steps in trained), default=0)
    for arm in arms:
        if (part := drawing.source(parts, env, arm)) is None:
            yield env, arm, NOT_MEASURED, *[""] * 7
            continue
        steps, scores = data[arm]
        final = (x[-1] for x in iqm(scores))
        shared = "", ""
        if 0 < begin <= end:
            # drawn with the last mean, as in the study's own table: the same interval
            both = np.stack([area(data[arm], begin, end), last_mean(data[arm])], axis=1)
            shared = f"{begin:,} to {end:,}", shown(*(x[0] for x in iqm(both)), digits)
        yield (env, arm, len(scores), f"{steps[-1]:,}", shown(*final, digits), *shared,
               *better(data, "GuidedSAC", arm), part[1].name)  # fmt: skip


def better(data: dict[str, Curves], arm: str, other: str) -> tuple[str, str]:
    """The last step that both arms have, and the probability that a seed of the one is better there."""
    if arm == other or arm not in data:
        return "", ""
    return analysis.compared(data[arm], data[other])[:2]


# --- figures 5 and 6: from saved models ---
class Saved(NamedTuple):
    """A finished run and its model."""

    arm: str
    run: Run
    model: Model


def saved_models(part: Part, args: Args) -> list[Saved]:
    """Of the runs that are here, and of those that the table has from another machine, as far as they were kept."""
    rows, study = part
    there = set(rows[["arm", "env", "seed"]].itertuples(index=False, name=None))
    saved = []
    for arm, run in study.runs(args.threads):
        here, kept = args.runs / run.name, model_folder(study, arm, run)
        if here.is_dir():
            saved.append(Saved(arm, run, load_model(run, here)))
        elif kept.is_dir() and (arm, run.env, run.seed) in there:
            saved.append(Saved(arm, run, load_model(run, kept)))
    return saved


def landscapes(part: Part, args: Args) -> Drawn:
    """Figure 5: of each seed with all phases."""
    by_seed: dict[int, list] = {}
    for _, run, model in saved_models(part, args):
        by_seed.setdefault(run.seed, []).append(landscape(model, run.flags["total-timesteps"]))
    whole = {seed: phases for seed, phases in by_seed.items() if len(phases) == len(PHASES)}
    if not whole:
        return nothing(part)
    rows = []
    for phase, each in zip(PHASES, zip(*whole.values(), strict=True), strict=True):
        returns, shares = [one.episodic_return for one in each], [oscillation(one) for one in each]
        rows.append((phase, f"{each[0].step:,}", len(each), estimate(returns, 1), estimate(shares, 2)))
    text = table("guidance | step | seeds | IQM of the drawn episodes' returns | IQM of the share of the plane in "
                 "which the action pushes as the car moves", rows)  # fmt: skip
    return Drawn({"figure_5": drawing.figure_5(whole, part)}, "", f"{text}\n\n{origins([part])}")


class Walk(NamedTuple):
    """How a model walked in some episodes; means over them."""

    gait: Gait
    episodic_return: float
    steps: float
    speed: float  # in m/s


def walk(model: Model, greedy: bool, seeds: Iterable[int]) -> Walk:
    """Episodes from these seeds, with greedy actions or with those that training would draw."""
    import torch  # a model is there, and so it is loaded

    torch.manual_seed(0)
    env = model.make_env(None)
    episodes = [play(model.act if greedy else model.sample, env, seed) for seed in seeds]
    score = gait([episode.feet for episode in episodes], getattr(env.unwrapped, "dt", np.nan))
    env.close()
    each = np.array([(e.episodic_return, len(e.feet), e.speed) for e in episodes])
    return Walk(score, *(float(mean) for mean in each.mean(axis=0)))


def strip(model: Model, arm: str) -> list[np.ndarray]:
    """Frames from the middle of a greedy episode; none where there are no pictures."""
    from supervision.replay import open_rendered  # it loads torch

    env, reason = open_rendered(model.make_env)
    if env is None:
        print(f"no gait strip of {arm}: {reason}")
        return []
    begin = max(0, (len(play(model.act, env, 0).feet) - len(STRIP) * STRIP.step) // 2)
    frames = play(model.act, env, 0, film=range(begin, begin + STRIP.stop, STRIP.step)).frames
    env.close()
    return frames


def gaits(part: Part, args: Args) -> Drawn:
    """Figure 6: the gait of each model, and a strip of frames of each arm's first seed where pictures can be had."""
    walks: dict[tuple[str, str], list[Walk]] = {}
    strips: dict[str, list[np.ndarray]] = {}
    steps = drawing.last_steps(part)
    for arm, _, model in saved_models(part, args):
        for actions in ("greedy", "sampled"):
            walks.setdefault((arm, actions), []).append(walk(model, actions == "greedy", range(GAIT_EPISODES)))
        if arm not in strips:
            strips[arm] = strip(model, arm)
    rows = []
    for (arm, actions), each in walks.items():
        each_gait = [one.gait for one in each]
        walking = [g.alternation for g in each_gait if not np.isnan(g.alternation)]
        alternation = estimate(walking, 2) + ("" if len(walking) == len(each) else f" ({len(walking)} seeds walk)")
        rows.append((arm, actions, f"{steps[arm]:,}", len(each),
                     estimate([one.episodic_return for one in each], 1), estimate([one.steps for one in each], 0),
                     estimate([one.speed for one in each], 2), alternation,
                     estimate([g.frequency for g in each_gait], 1), estimate([g.double_support for g in each_gait], 2),
                     estimate([g.flight for g in each_gait], 2)))  # fmt: skip
    rows += [(arm, "", NOT_MEASURED, *[""] * 8) for arm in part[1].arms if (arm, "greedy") not in walks]
    text = table("arm | actions | step | seeds | IQM of the return | of an episode's steps | of the speed, m/s | of "
                 "the alternating footfalls' share | of footfalls a second | of double support | of flight",
                 rows)  # fmt: skip
    filmed = {arm: frames for arm, frames in strips.items() if frames}
    first = {arm: walks[arm, "greedy"][0].gait for arm in filmed}
    pictures = {"figure_6": drawing.figure_6(filmed, first, part)} if filmed else {}
    return Drawn(pictures, "", f"{text}\n\n{origins([part])}")


# --- figure 7 ---
def timing(part: Part, args: Args) -> Drawn:
    """Figure 7, and its margins: all durations of a start together and all starts of a duration, stratified."""
    runs, study = part
    (env,) = study.environments
    axes = ("guide-start", GUIDE_DURATION)
    cells = {tuple(arm.point[axis] for axis in axes): curves(runs, env, name, study.metric)
             for name, arm in study.arms.items() if arm.point and measured(runs, study, env, name)}  # fmt: skip
    texts = []
    for axis, name in enumerate(axes):
        rows = []
        for value in sorted({point[axis] for point in cells}):
            line = [curve for point, curve in cells.items() if point[axis] == value]
            if len({len(curve.scores) for curve in line}) > 1:
                rows.append((f"{value:,}", len(line), "seeds are missing", ""))
                continue
            # (seeds, cells) of each statistic
            pair = (np.stack([statistic(curve) for curve in line], axis=1) for statistic in (last, area))
            rows.append((f"{value:,}", len(line), *(shown(*stratified(scores), 1) for scores in pair)))
        texts.append(table(f"{name} | cells | IQM of the final return | IQM of the area under the curve", rows))
    return Drawn({"figure_7": drawing.figure_7(runs, study)}, "", "\n\n".join([*texts, origins([part])]))


def last(curve: Curves) -> np.ndarray:
    """Each seed's last score: (seeds,)."""
    return curve.scores[:, -1]


def stratified(scores: np.ndarray) -> tuple[float, float, float]:
    """Interquartile mean over seeds and cells (seeds, cells), with its stratified bootstrap interval."""
    return tuple(x[0] for x in interval(scores, lambda sample: np.array([metrics.aggregate_iqm(sample)])))
