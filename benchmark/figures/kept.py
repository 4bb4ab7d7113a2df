"""Rows that come from the table of the last time: arms whose digits are still the same, and a study made in parts.

Docs: docs/benchmark.md
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from benchmark.figures.table import GUIDANCE_ACTIVE, KEPT, as_table, tags
from benchmark.sweeps.studies import Run, Study

RUN = ["arm", "env", "seed", "settings"]  # what names a run in a table
AGAIN = 2  # seeds of an arm that are run again, the first ones


def arms_of(study: Study, names: Sequence[str]) -> list[str]:
    """Those arms of a study that have one of these names, or come from its grid."""
    return [arm for arm in study.arms if any(arm == name or _of_grid(study, arm, name) for name in names)]


def _of_grid(study: Study, arm: str, name: str) -> bool:
    return bool(study.arms[arm].point) and arm.startswith(f"{name} ")


def runs(study: Study, threads: int, names: Sequence[str], only_again: bool = False) -> Iterator[Run]:
    """The runs of a study, of arms that are to be kept only those that are made again.

    Args:
        only_again: these alone.
    """
    arms = arms_of(study, names)
    for arm, run in study.runs(threads):
        if run.seed in study.seeds_of(arm)[:AGAIN] if arm in arms else not only_again:
            yield run


def with_kept(table: pd.DataFrame, before: pd.DataFrame, study: Study, names: Sequence[str]) -> pd.DataFrame:
    """A study's new table with the arms of these names as they were before.

    Args:
        table: of the runs that were made now, as `committed` leaves it.
        before: the table of the last time.

    Raises:
        ValueError: one of these arms is not whole in the table of the last time, was not run again, or its digits
            differ.
    """
    arms = arms_of(study, names)
    parts = [table[~table.arm.isin(arms)]]
    for arm in arms:
        for env in study.environments:
            now, then = (rows[(rows.arm == arm) & (rows.env == env)] for rows in (table, before))
            then = then[then.tag.isin(tags(study))]
            found = set(then[then.tag == study.metric].seed)
            if missing := [str(seed) for seed in study.seeds_of(arm) if seed not in found]:
                raise ValueError(
                    f"{study.name}: {arm} on {env} cannot be kept: its table lacks seed {', '.join(missing)}"
                )
            seeds = sorted({*now.seed} & {*study.seeds_of(arm)})
            if len(seeds) < AGAIN:
                raise ValueError(
                    f"{study.name}: {arm} on {env} cannot be kept: {AGAIN} seeds are to be run again, {len(seeds)} were"
                )
            for seed in seeds:
                if difference := differs(now[now.seed == seed], then[then.seed == seed]):
                    raise ValueError(f"{study.name}: {arm} on {env}, seed {seed}, cannot be kept: {difference}")
            mark = f"{KEPT}seeds {', '.join(map(str, seeds))} are the same at {', '.join(sorted(set(now.commit)))}"
            then = then[then.seed.isin(study.seeds_of(arm))]
            parts.append(then.assign(versions=then.versions.str.partition(KEPT)[0] + mark))
    return as_table(pd.concat(parts).itertuples(index=False, name=None))


def differs(now: pd.DataFrame, then: pd.DataFrame) -> str:
    """The first difference of a run's rows from those of the last time, in words; "" where there is none.

    Tags that the last time did not have are no difference, nor is how often it was logged that guidance is on.
    """
    now = now[now.tag.isin(set(then.tag))]
    new, old = ({(row.tag, row.step): row.value for row in changes(rows).itertuples()} for rows in (now, then))
    for tag, step in sorted({*new, *old}):
        value, before = new.get((tag, step)), old.get((tag, step))
        if value != before:
            shown = ("nothing" if x is None else f"{x:.9g}" for x in (value, before))
            return "{} at step {:,} is {}, before {}".format(tag, step, *shown)
    return ""


def changes(run: pd.DataFrame) -> pd.DataFrame:
    """A run's rows, but of those that say whether guidance is on only where that changes."""
    active = run[run.tag == GUIDANCE_ACTIVE].sort_values("step", kind="stable")
    return run.drop(active.index[active.value.diff() == 0])


def missing(study: Study, threads: int, before: pd.DataFrame) -> Iterator[Run]:
    """The runs of a study that the table of the last time does not have with the present settings and code."""
    there = _named(before[before.tag == study.metric])
    for arm, run in study.runs(threads):
        if (arm, run.env, run.seed, run.hash) not in there:
            yield run


def with_parts(table: pd.DataFrame, before: pd.DataFrame, study: Study, threads: int) -> pd.DataFrame:
    """A study's new table with the runs that only the table of the last time has, as far as they are the study's."""
    wanted = {(arm, run.env, run.seed, run.hash) for arm, run in study.runs(threads)} - _named(table)
    if other := _named(before) - wanted - _named(table):
        print(f"{study.name}: {len(other)} runs of the table are of other settings or code and are left out")
    kept = np.array([name in wanted for name in before[RUN].itertuples(index=False, name=None)], dtype=bool)
    before = before[kept & before.tag.isin(tags(study))]
    return as_table(pd.concat([table, before]).itertuples(index=False, name=None))


def _named(table: pd.DataFrame) -> set[tuple]:
    return set(table[RUN].itertuples(index=False, name=None))
