"""Regenerate every table and figure: sweep the studies, read their event files, do the statistics, draw.

    python -m benchmark.results             # all studies and all figures of the paper (make results)
    python -m benchmark.results --figure 7  # one of them, with the studies behind it (make figure-7)
    python -m benchmark.results --quick     # the quick forms, into runs/quick/ (make results QUICK=1)
    python -m benchmark.results benchmark/studies/taxi.toml --keep-arms SAC  # its rows, if its digits are the same

Docs: docs/benchmark.md
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro

from benchmark import ROOT
from benchmark.figures import drawing, kept, paper
from benchmark.figures.analysis import NOT_MEASURED, origin, summary
from benchmark.figures.drawing import Part
from benchmark.figures.models import keep_model
from benchmark.figures.table import (
    as_table,
    committed,
    load_table,
    model_folder,
    models_of,
    places,
    read_plain,
    read_sweep,
    write_table,
)
from benchmark.sweeps import sweep
from benchmark.sweeps.studies import Run, Study, load_study

QUICK = ": a quick look, not a result"


@dataclass
class Args(sweep.Args):
    studies: tyro.conf.Positional[list[Path]] = field(default_factory=list)
    """the studies' TOML files; none: all of benchmark/studies/, and all figures of the paper"""
    figure: Literal[3, 4, 5, 6, 7] | None = None
    """only this figure of the paper and the studies behind it"""
    plain_runs: Path | None = None
    """start nothing: take the runs of this folder whose `--exp-name` is an arm's name (CleanRL's tools, SLURM)"""
    keep_arms: tuple[str, ...] = ()
    """arms (or grids of arms) that are taken from the table of the last time: two seeds of each are run again, and must
    be equal to it to the bit"""
    parts: bool = False
    """runs that the table of the last time has, with the same settings and code, are not made again and stay in it: a
    study that is made in parts, on machines of which each is there for some hours; interrupted, it adds what is done"""
    redraw: bool = False
    """start nothing: statistics and figures from the tables of the last time, as far as there are any"""


def written(study: Study) -> Part:
    """The study with its table in its place, which is empty where none was ever written."""
    path = places(study)[0] / f"{study.name}.csv"
    return load_table(path) if path.is_file() else as_table(()), study


def read_tables(study: Study, args: Args) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All that the study's runs logged, and its new table, in which arms may be kept."""
    logged = read_plain(study, args.plain_runs) if args.plain_runs else read_sweep(study, args.runs, args.threads)
    table = committed(logged, study)
    if args.keep_arms:
        table = kept.with_kept(table, written(study)[0], study, args.keep_arms)
    elif args.parts:
        table = kept.with_parts(table, written(study)[0], study, args.threads)
    return logged, table


def wanted_runs(studies: list[Study], args: Args) -> Iterator[Run]:
    """The runs that a study's tables are made of, without those that are kept of the last time."""
    for study in studies:
        if args.parts:
            yield from kept.missing(study, args.threads, written(study)[0])
        else:
            yield from kept.runs(study, args.threads, args.keep_arms)


def rebuild(study: Study, args: Args) -> bool:
    """Write a study's tables, statistics and, unless it is a grid, its curves; of no runs: leave all as it is.

    Returns:
        Whether there were runs.
    """
    tables, pictures = places(study)
    if args.redraw:
        table, _ = written(study)
    else:
        logged, table = read_tables(study, args)
    if table.empty:
        print(f"{study.name}: {NOT_MEASURED}")
        return False
    text = f"# {study.name}{QUICK if study.quick else ''}\n\n{origin(table)}\n\n{summary(table, study)}"
    single = not any(arm.point for arm in study.arms.values())
    drawn = drawing.sample_efficiency(table, study) if single else None
    tables.mkdir(parents=True, exist_ok=True)
    if not args.redraw:
        if not study.quick:
            args.runs.mkdir(parents=True, exist_ok=True)
            write_table(logged, args.runs / f"{study.name}.csv.gz")
        if args.parts:  # before the table, by which a run is done
            for arm, run in study.runs(args.threads):
                if run.flags.get("save-model") and (args.runs / run.name).is_dir():
                    keep_model(args.runs / run.name, model_folder(study, arm, run))
        write_table(table, tables / f"{study.name}.csv")
    write(text, tables / f"{study.name}.md")
    print(f"\n{text}\nwritten: {tables / study.name}.csv and .md")
    if drawn is not None:
        drawing.save(drawn, pictures / study.name)
        print(f"written: {pictures / study.name}.png")
    return True


def draw(number: int, parts: list[Part], args: Args) -> None:
    """Draw a figure of the paper, write its tables, and put it into the page of results."""
    elsewhere = args.plain_runs or args.keep_arms or (args.redraw and not models_of(parts[0][1]).is_dir())
    if number in paper.OF_MODELS and elsewhere:
        print(f"figure {number} is left as it is: it is drawn from saved models, by make figure-{number}")
        return
    tables, pictures = places(parts[0][1])
    tables.mkdir(parents=True, exist_ok=True)
    drawn = paper.figure(number, parts, args)
    for name, figure in drawn.pictures.items():
        drawing.save(figure, pictures / name)
        print(f"written: {pictures / name}.png")
    print(f"\n{drawn.whole}\n")
    quick = parts[0][1].quick
    texts = {tables / f"figure_{number}.md": f"# Figure {number}{QUICK if quick else ''}\n\n{drawn.whole}\n"}
    if not quick:
        page = ROOT / "docs" / "results.md"
        texts[page] = paper.filled(page.read_text(), number, list(drawn.pictures), drawn.short)
    for target, text in texts.items():
        write(text, target)
        print(f"written: {target}")


def write(text: str, path: Path) -> None:
    """Write a text, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


if __name__ == "__main__":
    args = tyro.cli(Args)
    with sweep.ended_in_words("results.py"):
        if args.redraw and args.plain_runs is not None:
            raise ValueError("--redraw takes the tables, --plain-runs makes them anew: give one of the two")
        if args.redraw and args.keep_arms:
            raise ValueError("--redraw runs nothing, --keep-arms two seeds of an arm: give one of the two")
        if args.parts and (args.redraw or args.keep_arms or args.plain_runs is not None):
            raise ValueError("--parts makes runs and keeps those of before: give it without other ways to a table")
        if args.studies and args.figure is not None:
            raise ValueError("give studies or --figure: a figure has its own studies")
        folder = ROOT / "benchmark" / "studies"
        if args.figure is not None:
            paths = [folder / f"{name}.toml" for name in paper.STUDIES[args.figure]]
        else:
            paths = args.studies or sorted(folder.glob("*.toml"))
        wanted = [] if args.studies else [args.figure] if args.figure is not None else [*paper.STUDIES]
        studies = [load_study(path, args.quick) for path in paths]
        for name in args.keep_arms:
            if not any(kept.arms_of(study, [name]) for study in studies):
                raise ValueError(f"--keep-arms names {name!r}, which is an arm of none of these studies")
        failures, interrupted = [], None
        if not args.redraw and args.plain_runs is None:
            if args.keep_arms:  # before anything else is run: they may turn out to be others
                again = (kept.runs(study, args.threads, args.keep_arms, only_again=True) for study in studies)
                sweep.report(sweep.sweep(itertools.chain.from_iterable(again), args))
                for study in studies:
                    read_tables(study, args)
            try:
                failures = sweep.sweep(wanted_runs(studies, args), args)
            except KeyboardInterrupt as interrupt:
                if not args.parts:
                    raise
                interrupted = interrupt
        sweep.report(failures)
        by_name = {study.name: study for study in studies}
        rebuilt = {name for name, study in by_name.items() if rebuild(study, args)}
        for number in wanted:
            if args.redraw or rebuilt.intersection(paper.STUDIES[number]):
                draw(number, [written(by_name[name]) for name in paper.STUDIES[number]], args)
            else:
                print(f"figure {number}: {NOT_MEASURED}")
        if interrupted:
            raise interrupted
    if failures:
        raise SystemExit(f"results.py: {len(failures)} runs failed, the tables are without them")
