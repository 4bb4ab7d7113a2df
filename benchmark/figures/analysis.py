"""Statistics of a study's table: interquartile means with intervals, probability of improvement, steps to a threshold.

Docs: docs/benchmark.md
"""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from rliable import library

from benchmark.figures.table import (
    BEHAVIOUR,
    GUIDANCE_ACTIVE,
    GUIDED_STEPS,
    KEPT,
    RESUMED,
    SAMPLED,
    TRIAL_PASSED,
)
from benchmark.sweeps.studies import Study

NOT_MEASURED = "not measured yet"
REPS = 2_000  # bootstrap samples of an interval
LAST = 3  # evaluations at the end of a run, whose mean is less a matter of luck than the last one


class Interval(NamedTuple):
    """An estimate with its 95 % interval: numbers, or arrays of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Curves(NamedTuple):
    """All seeds of an arm on one environment."""

    steps: np.ndarray  # (T,)
    scores: np.ndarray  # (seeds, T)


def curves(table: pd.DataFrame, env: str, arm: str, metric: str) -> Curves:
    """The metric of every seed at the steps that all seeds have.

    Raises:
        ValueError: fewer than two seeds, so that no interval can be had, no step in common, or a value that is not a
            number.
    """
    rows = table[(table.env == env) & (table.arm == arm) & (table.tag == metric)]
    lost = rows[rows.value.isna()]
    if len(lost):
        raise ValueError(f"{arm} on {env}, seed {lost.seed.iloc[0]}: {metric} at step {lost.step.iloc[0]:,} is NaN")
    wide = rows.pivot_table(index="seed", columns="step", values="value", aggfunc="last").dropna(axis="columns")
    if len(wide) < 2:
        raise ValueError(f"{arm} on {env} has {len(wide)} finished runs with {metric}: an interval needs 2 seeds")
    if wide.empty:
        raise ValueError(
            f"{arm} on {env}: no step at which all {len(wide)} seeds have {metric}; take an evaluation's tag"
        )
    return Curves(wide.columns.to_numpy(), wide.to_numpy())


def measured(table: pd.DataFrame, study: Study, env: str, arm: str) -> bool:
    """Whether at least two seeds of the arm have the metric; otherwise nothing can be said of it yet."""
    rows = table[(table.env == env) & (table.arm == arm) & (table.tag == study.metric)]
    return rows.seed.nunique() >= 2


def behaviour(table: pd.DataFrame, study: Study, env: str) -> dict[str, Curves]:
    """The training episodes' return of each arm that has it; of none in a study that guides nobody.

    The evaluations leave the guidance out; this is what came of it while it acted.
    """
    if not (table[table.tag == GUIDANCE_ACTIVE].value > 0).any():
        return {}
    rows = table[(table.env == env) & (table.tag == BEHAVIOUR)]
    have = [arm for arm in study.arms if rows[rows.arm == arm].seed.nunique() >= 2]
    data = {arm: curves(table, env, arm, BEHAVIOUR) for arm in have}
    return {arm: curve for arm, curve in data.items() if len(curve.steps)}


def sampled(table: pd.DataFrame, study: Study, env: str) -> dict[str, Curves]:
    """The sampled evaluations of each arm that has them."""
    rows = table[(table.env == env) & (table.tag == SAMPLED)]
    have = [arm for arm in study.arms if rows[rows.arm == arm].seed.nunique() >= 2]
    return {arm: curves(table, env, arm, SAMPLED) for arm in have}


def area(curve: Curves, begin: int = 1, end: int | None = None) -> np.ndarray:
    """Mean of each seed's curve from step `begin` to step `end`, by the trapezoid rule: (seeds,).

    It begins at the first evaluation after step 0. The one at step 0 belongs to no method: on CliffWalking the greedy
    action of an untrained network returns −20,000 or −200 by luck alone. Without a later one there is no area: NaN.
    """
    steps, scores = curve
    kept = (steps >= begin) & (steps <= (np.inf if end is None else end))
    steps, scores = steps[kept], scores[:, kept]
    if len(steps) < 2:
        return scores[:, 0] if len(steps) else np.full(len(scores), np.nan)
    return np.trapezoid(scores, steps, axis=1) / (steps[-1] - steps[0])


def interval(scores: np.ndarray | list[np.ndarray], statistic: Callable[..., np.ndarray]) -> Interval:
    """The statistic of scores (runs, tasks, …) with its stratified bootstrap interval, the same at every call."""
    # rliable 1.2 draws from numpy's global generator, whatever its `random_state` is given
    state = np.random.get_state()
    np.random.seed(0)
    points, intervals = library.get_interval_estimates({"": scores}, statistic, reps=REPS)
    np.random.set_state(state)
    return Interval(points[""], *intervals[""])


def iqm(scores: np.ndarray) -> Interval:
    """Interquartile mean over the seeds, at each step for itself: scores (seeds, T) → arrays (T,)."""
    # rliable's aggregate_iqm() at all steps in one call, (runs, 1 task, T) → (T,), without scipy's checks, which take
    # most of the time of its trim_mean()
    cut = len(scores) // 4
    middle = slice(cut, len(scores) - cut)
    kth = (middle.start, middle.stop - 1)
    return interval(scores[:, None], lambda sample: np.partition(sample[:, 0], kth, axis=0)[middle].mean(axis=0))


def probability_of_improvement(scores: np.ndarray, others: np.ndarray) -> Interval:
    """P(a seed of the one beats a seed of the other), a tie counting half, of each of k scores for itself.

    Args:
        scores: (seeds, k), or (seeds,) for one.
        others: as scores; their number of seeds may be another.

    Returns:
        Arrays (k,).
    """
    pair = [np.reshape(values, (len(values), 1, -1)) for values in (scores, others)]
    # rliable's probability_of_improvement() of all k in one call, some hundred times as quick: (runs, 1 task, k) → (k,)
    return interval(pair, lambda x, y: ((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean(axis=(0, 1, 2)))


def reaches(values: np.ndarray | pd.Series, threshold: float) -> np.ndarray:
    """Which values are at the threshold or above, in the float32 of event files: 0.7 is logged as 0.69999999."""
    return np.asarray(values, np.float32) >= np.float32(threshold)


def first_steps(table: pd.DataFrame, env: str, arm: str, metric: str, threshold: float) -> np.ndarray:
    """(seeds,): each seed's first step with the metric at the threshold, inf for never."""
    rows = table[(table.env == env) & (table.arm == arm) & (table.tag == metric)]
    return rows.step.astype(float).where(reaches(rows.value, threshold), np.inf).groupby(rows.seed).min().to_numpy()


def last_mean(curve: Curves) -> np.ndarray:
    """Mean of each seed's last `LAST` evaluations after step 0: (seeds,)."""
    return curve.scores[:, curve.steps > 0][:, -LAST:].mean(axis=1)


def shared(curve: Curves, other: Curves) -> tuple[Curves, Curves]:
    """Both at the steps that they share."""
    steps, *places = np.intersect1d(curve.steps, other.steps, return_indices=True)
    return tuple(Curves(steps, one.scores[:, i]) for one, i in zip((curve, other), places, strict=True))


def separated(estimate: Interval, other: Interval) -> str:
    """Where the one interval lies beside the other."""
    if estimate.low > other.high:
        return "above"
    return "below" if estimate.high < other.low else "overlap"


class Guided(NamedTuple):
    """What the rule of an arm was allowed, each (seeds,)."""

    steps: np.ndarray  # guided ones, all together
    ends: np.ndarray  # how often a trial ended a rule
    before: np.ndarray  # guided steps until the first of these ends; NaN without one


def guided(table: pd.DataFrame, env: str, arm: str) -> Guided:
    """How long rules acted and how often trials ended them, of the seeds that logged it."""
    rows = table[(table.env == env) & (table.arm == arm)]
    result = []
    for _, run in rows.groupby("seed"):
        steps = run[run.tag == GUIDED_STEPS].sort_values("step", kind="stable")
        ends = run[(run.tag == TRIAL_PASSED) & (run.value == 0)].step
        if len(steps):
            result.append((steps.value.iloc[-1], len(ends), steps[steps.step == ends.min()].value.min()))
    return Guided(*np.array(result, dtype=float).reshape(-1, 3).T)


def summary(table: pd.DataFrame, study: Study) -> str:
    """All statistics of a study as Markdown."""
    sections = [section for env in study.environments for section in environment_summary(table, study, env)]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def environment_summary(table: pd.DataFrame, study: Study, env: str) -> list[list[str]]:
    """The statistics of one environment: Markdown blocks, each a list of lines."""
    head = [[f"## {env}"], [f"`{study.metric}`, {counted(table, study, env)}:"]]
    data = {arm: curves(table, env, arm, study.metric) for arm in study.arms if measured(table, study, env, arm)}
    if not data:
        return [*head, [f"**{NOT_MEASURED}**"]]
    thresholds = study.thresholds.get(env, ())
    digits = 1 if max(np.abs(scores).max() for _, scores in data.values()) >= 10 else 3
    seeds = "".join(f" seeds ≥ {threshold:g} |" for threshold in thresholds)
    rows = [f"| arm | step | IQM [95 % interval] | lowest | highest |{seeds}", "|-|-|-|-|-|" + "-|" * len(thresholds)]
    for arm, (steps, scores) in data.items():
        if study.arms[arm].point:  # of a grid's many arms the last step and the area are enough
            steps, scores = steps[-1:], scores[:, -1:]
        for step, values, *estimate in zip(steps, scores.T, *iqm(scores), strict=True):
            lowest, highest = f"{values.min():z.{digits}f}", f"{values.max():z.{digits}f}"
            row = f"| {arm} | {step:,} | {shown(*estimate, digits)} | {lowest} | {highest} |"
            rows.append(row + "".join(f" {reaches(values, x).sum()} of {len(values)} |" for x in thresholds))
    blocks = [*head, rows]
    for arm, (steps, _) in data.items():
        longest = table[(table.env == env) & (table.arm == arm) & (table.tag == study.metric)].step.max()
        if longest > steps[-1]:
            blocks.append([f"{arm} is shown up to step {steps[-1]:,}, the last that all its seeds have; its longest "
                           f"run goes on to step {longest:,}."])  # fmt: skip

    for threshold in thresholds:
        blocks += [[f"First step with `{study.metric}` ≥ {threshold:g}:"],
                   reached_rows(table, env, data, study.metric, threshold)]  # fmt: skip

    rows = ["| arm | from step | to step | area: IQM [95 % interval] | mean of the last three: IQM [95 % interval] |",
            "|-|-|-|-|-|"]  # fmt: skip
    for arm, curve in data.items():
        trained = curve.steps[curve.steps > 0]
        if len(trained):
            estimates = [
                shown(*x, digits) for x in zip(*iqm(np.stack([area(curve), last_mean(curve)], 1)), strict=True)
            ]
            rows.append(f"| {arm} | {trained[0]:,} | {trained[-1]:,} | {' | '.join(estimates)} |")
    if len(rows) > 2:
        blocks += [[f"Area under the curve (the mean of `{study.metric}` along the steps after 0), and the mean of a "
                    "seed's last three evaluations:"], rows]  # fmt: skip

    for title, curves_of in (
        ("Return of sampled actions, from the same starts:", sampled(table, study, env)),
        ("Return of the behaviour, guided actions included (mean over the training episodes since the evaluation "
         "before):", behaviour(table, study, env)),
    ):  # fmt: skip
        rows = ["| arm | step | IQM [95 % interval] |", "|-|-|-|"]
        for arm, (steps, scores) in curves_of.items():
            if study.arms[arm].point:
                steps, scores = steps[-1:], scores[:, -1:]
            for step, *estimate in zip(steps, *iqm(scores), strict=True):
                rows.append(f"| {arm} | {step:,} | {shown(*estimate, digits)} |")
        if len(rows) > 2:
            blocks += [[title], rows]

    if cells := allowed(table, study, env):
        rows = ["| arm | guided steps | ended by a trial | guided steps before |", "|-|-|-|-|"]
        rows += [f"| {arm} | {' | '.join(cells[arm])} |" for arm in cells]
        blocks += [["What the rules were allowed, median [lowest, highest] over the seeds:"], rows]

    rows = ["| | step | P(better) at that step [95 % interval] | P(better), mean of the last three | area's interval |",
            "|-|-|-|-|-|"]  # fmt: skip
    for arm, other in combinations(data, 2):
        if not (study.arms[arm].point and study.arms[other].point):  # 300 pairs in a grid of 25
            rows.append(f"| {arm} over {other} | {' | '.join(compared(data[arm], data[other]))} |")
    return blocks + ([rows] if len(rows) > 2 else [])


def reached_rows(table: pd.DataFrame, env: str, data: dict[str, Curves], metric: str, threshold: float) -> list[str]:
    """A row for each arm: how many seeds reach the threshold, when, and how many hold it at the last evaluation."""
    rows = ["| arm | reach it | median | seeds by step | hold it at step |", "|-|-|-|-|-|"]
    for arm, (steps, scores) in data.items():
        first = first_steps(table, env, arm, metric, threshold)
        finite = first[np.isfinite(first)]
        by = ", ".join(f"{(finite <= step).sum()} by {step:,.0f}" for step in np.unique(finite))
        median = np.median(first)  # of the two seeds in the middle one may never get there
        held = f"{steps[-1]:,}: {reaches(scores[:, -1], threshold).sum()} of {len(scores)}"
        rows.append(f"| {arm} | {len(finite)} of {len(first)} | {steps_shown(median)} | {by} | {held} |")
    return rows


def allowed(table: pd.DataFrame, study: Study, env: str) -> dict[str, tuple[str, str, str]]:
    """By arm in which a rule acted, but for those of a grid: guided steps, how often a trial ended it, steps before."""
    cells = {}
    for arm in study.arms:
        steps, ends, before = guided(table, env, arm)
        if len(steps) and not study.arms[arm].point:
            ended = f"in {(ends > 0).sum()} of {len(ends)} seeds" + (f", {ends.sum():.0f} times" if ends.any() else "")
            cells[arm] = spread(steps), ended, spread(before[~np.isnan(before)])
    return cells


def spread(values: np.ndarray) -> str:
    """Median and range of counts; nothing of none."""
    return f"{np.median(values):,.0f} [{values.min():,.0f}, {values.max():,.0f}]" if len(values) else ""


def compared(curve: Curves, other: Curves) -> tuple[str, str, str, str]:
    """The last step of both, the probability that a seed of the one is better there and in the mean of the last three
    evaluations, and where the interval of its area lies; over the steps that both have."""
    pair = shared(curve, other)
    if not pair[0].steps.any():  # evaluated before training alone
        return "0", "", "", ""
    scores = (np.stack([one.scores[:, -1], last_mean(one)], axis=1) for one in pair)
    better = (shown(*x, digits=2) for x in zip(*probability_of_improvement(*scores), strict=True))
    return f"{pair[0].steps[-1]:,}", *better, separated(*(iqm(area(one)[:, None]) for one in pair))


def counted(table: pd.DataFrame, study: Study, env: str) -> str:
    """How many seeds each arm has, and which it lacks."""
    parts = []
    for arm in study.arms:
        have = set(table[(table.env == env) & (table.arm == arm)].seed)
        missing = [str(seed) for seed in study.seeds_of(arm) if seed not in have]
        parts.append(f"{arm} {len(have)} seeds" + (f" (missing: {', '.join(missing)})" if missing else ""))
    return ", ".join(parts)


def origin(table: pd.DataFrame) -> str:
    """Which code and which libraries a table's runs had, which were kept, and which went on with another processor."""
    runs = table[["arm", "env", "seed", "commit", "versions"]].drop_duplicates()
    runs[["versions", "kept"]] = runs.versions.str.partition(KEPT)[[0, 2]]
    runs[["versions", "changed"]] = runs.versions.str.partition(RESUMED)[[0, 2]]
    sentences, own = [], runs[runs.kept == ""]
    if len(own):
        commits, versions = (" and ".join(sorted(own[name].unique())) for name in ("commit", "versions"))
        sentences.append(f"Runs of commit {commits}, with {versions}.")
    for (commit, versions, kept), rows in runs[runs.kept != ""].groupby(["commit", "versions", "kept"]):
        arms = ", ".join(rows.arm.unique())
        sentences.append(f"Kept from the table of before: {arms}, of commit {commit}, with {versions}; {kept}.")
    sentences += [
        f"{run.arm} on {run.env}, seed {run.seed}, was resumed with another {run.changed}: its last bits may differ."
        for run in runs[runs.changed != ""].itertuples()
    ]
    return " ".join(sentences)


def shown(value: float, low: float, high: float, digits: int) -> str:
    """An estimate with its interval."""
    return f"{value:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"  # z: no "-0.0"


def steps_shown(steps: float) -> str:
    """A number of steps; infinite ones in words."""
    return "never" if np.isinf(steps) else f"{steps:,.0f}"
