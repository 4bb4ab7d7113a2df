"""What rules did to learning, beside plain SAC: a row for each arm, from the tables of finished studies.

    python -m benchmark.probes.beside_plain

Docs: docs/supervisor.md
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from benchmark import ROOT
from benchmark.figures.analysis import allowed, area, compared, curves, iqm, last_mean, measured, shown
from benchmark.figures.paper import table
from benchmark.results import written
from benchmark.sweeps.studies import Study, load_study

HEADER = ("task | arm | seeds | guided steps | ended by a trial | guided steps before | mean of the last three | "
          "SAC's | P(SAC better) | area | SAC's | area's interval")  # fmt: skip


@dataclass
class Args:
    studies: tyro.conf.Positional[list[Path]] = field(
        default_factory=lambda: sorted(
            path for kind in ("harm", "any") for path in (ROOT / "benchmark" / "studies").glob(f"{kind}_*.toml")
        )
    )
    """TOML files of studies with an arm SAC"""
    quick: bool = False
    """the tables of their quick forms, in runs/quick/"""


def rows(logged: pd.DataFrame, study: Study, plain: str = "SAC") -> Iterator[tuple[object, ...]]:
    """A row for each measured arm but plain SAC, on each environment.

    Raises:
        ValueError: the study has no arm of plain SAC.
    """
    if plain not in study.arms:
        raise ValueError(f"{study.name} has no arm {plain}, beside which the others could stand")
    for env in study.environments:
        data = {arm: curves(logged, env, arm, study.metric) for arm in study.arms if measured(logged, study, env, arm)}
        guided = allowed(logged, study, env)
        for arm in data if plain in data else ():
            if arm == plain:
                continue
            digits = 1 if max(abs(data[name].scores).max() for name in (arm, plain)) >= 10 else 3
            both = {name: np.stack([area(data[name]), last_mean(data[name])], axis=1) for name in (arm, plain)}
            areas, last = zip(  # drawn together, as in the study's own table: the same intervals
                *([shown(*x, digits) for x in zip(*iqm(both[name]), strict=True)] for name in (arm, plain)), strict=True
            )
            yield (env, arm, len(data[arm].scores), *guided.get(arm, ("", "", "")), *last,
                   compared(data[plain], data[arm])[2], *areas, compared(data[arm], data[plain])[3])  # fmt: skip


if __name__ == "__main__":
    args = tyro.cli(Args)
    try:
        parts = [written(load_study(path, args.quick)) for path in args.studies]
        print(table(HEADER, [row for part in parts for row in rows(*part)]))
    except (ValueError, OSError) as error:
        raise SystemExit(f"beside_plain.py: error: {error}") from None
