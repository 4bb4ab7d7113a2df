"""Regenerate every table and figure: sweep the studies, read their event files, do the statistics, draw.

    python benchmark/results.py            # all studies (make results)
    python benchmark/results.py --quick    # their quick forms, into runs/quick/ (make results-quick)

Docs: docs/benchmark.md
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import figures
import pandas as pd
import sweep
import tyro
from analysis import summary
from sweep import ROOT, Study, load_study
from table import GUIDANCE_ACTIVE, SUPERVISION_STEPS, load_table, read_plain, read_sweep, write_table

QUICK = ": a quick look, not a result"


@dataclass
class Args(sweep.Args):
    studies: tyro.conf.Positional[list[Path]] = field(
        default_factory=lambda: sorted((ROOT / "benchmark" / "studies").glob("*.toml"))
    )
    """the studies' TOML files; by default all of benchmark/studies/"""
    plain_runs: Path | None = None
    """start nothing: take the runs of this folder whose `--exp-name` is an arm's name (CleanRL's tools, SLURM)"""
    redraw: bool = False
    """start nothing: statistics and figures from the tables of the last time"""


def places(study: Study) -> tuple[Path, Path]:
    """Where a study's tables go and where its figures go. A quick form never touches what is committed."""
    if study.quick:
        return Path("runs/quick"), Path("runs/quick")
    return ROOT / "benchmark" / "results", ROOT / "docs"


def origin(table: pd.DataFrame) -> str:
    """Which code and which libraries a table's runs had."""
    commits, versions = (" and ".join(sorted(table[name].unique())) for name in ("commit", "versions"))
    return f"Runs of commit {commits}, with {versions}."


def rebuild(study: Study, args: Args) -> None:
    """Write a study's tables, statistics and figure."""
    tables, pictures = places(study)
    tables.mkdir(parents=True, exist_ok=True)
    if args.redraw:
        table = load_table(tables / f"{study.name}.csv")
    else:
        table = read_plain(study, args.plain_runs) if args.plain_runs else read_sweep(study, args.runs, args.threads)
        if not study.quick:
            args.runs.mkdir(parents=True, exist_ok=True)
            write_table(table, args.runs / f"{study.name}.csv.gz")
        table = table[table.tag.isin((study.metric, SUPERVISION_STEPS, GUIDANCE_ACTIVE))]
        write_table(table, tables / f"{study.name}.csv")
    text = f"# {study.name}{QUICK if study.quick else ''}\n\n{origin(table)}\n\n{summary(table, study)}"
    part = tables / f"{study.name}.md.part"
    part.write_text(text)
    os.replace(part, tables / f"{study.name}.md")
    print(f"\n{text}")
    figures.save(figures.sample_efficiency(table, study), pictures / study.name)
    print(f"written: {tables / study.name}.csv and .md, {pictures / study.name}.png and .svg")


if __name__ == "__main__":
    args = tyro.cli(Args)
    try:
        if args.redraw and args.plain_runs is not None:
            raise ValueError("--redraw takes the tables, --plain-runs makes them anew: give one of the two")
        studies = [load_study(path, args.quick) for path in args.studies]
        failures = []
        if not args.redraw and args.plain_runs is None:
            failures = sweep.sweep((run for study in studies for _, run in study.runs(args.threads)), args)
        sweep.report(failures)
        for study in studies:
            rebuild(study, args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"results.py: error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("results.py: interrupted; the same command goes on from here") from None
    if failures:
        raise SystemExit(f"results.py: {len(failures)} runs failed, the tables are without them")
