"""What harmful rules did, with the audition and without: the table of docs/supervisor.md, from finished studies.

python -m benchmark.results benchmark/studies/audition_mountain_car.toml benchmark/studies/audition_taxi.toml
python -m benchmark.probes.audition_effect
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import tyro

from benchmark.figures.table import GUIDANCE_ACTIVE, load_table


@dataclass
class Args:
    tables: tyro.conf.Positional[list[Path]] = field(
        default_factory=lambda: [Path(f"runs/sweep/audition_{name}.csv.gz") for name in ("mountain_car", "taxi")]
    )
    """everything that the studies logged, as `results.py` leaves it"""


def spread(values: pd.Series) -> str:
    """Median and range over the seeds."""
    low, middle, high = (f"{value:z.1f}" for value in values.quantile([0, 0.5, 1]))
    return f"{middle} [{low}, {high}]"


def effect(table: pd.DataFrame) -> list[list[str]]:
    """A row for each arm of a study: consultations, and by seed the mean training return up to the end of guidance (the
    same step for plain SAC) and the last greedy return."""
    decisions = table[table.tag == GUIDANCE_ACTIVE]
    end = decisions.step.max()
    rows = []
    for arm, runs in table.groupby("arm", sort=False):
        asked = decisions[(decisions.arm == arm) & (decisions.step < end)]
        training = runs[(runs.tag == "charts/episodic_return") & (runs.step <= end)].groupby("seed").value.mean()
        greedy = runs[runs.tag == "eval/episodic_return"].sort_values("step").groupby("seed").value.last()
        guided = f"{int(asked.value.sum())} of {len(asked)}" if len(asked) else ""
        rows.append([runs.env.iloc[0], arm, str(len(greedy)), guided, spread(training), spread(greedy)])
    return rows


if __name__ == "__main__":
    args = tyro.cli(Args)
    print("| task | arm | seeds | windows guided | training return | last greedy return |\n|-|-|-|-|-|-|")
    for path in args.tables:
        for row in effect(load_table(path)):
            print("| " + " | ".join(row) + " |")
