"""Studies, runs, tables and event files made by hand, for the tests of benchmark/."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import ROOT
from torch.utils.tensorboard import SummaryWriter

from benchmark.figures import table
from benchmark.figures.models import Landscape
from benchmark.sweeps.hashing import code_hash
from benchmark.sweeps.studies import Arm, Run, Study

SCRIPT = ROOT / "guided_sac_continuous.py"
METRIC = "eval/episodic_return"
TINY = {
    "total-timesteps": 20, "max-episode-steps": 10, "batch-size": 8, "eval-frequency": 10, "eval-episodes": 1,
    "supervisor": "none",
}  # fmt: skip
STUDY = Study("study", ["E-v0"], [1, 2], {"A": Arm(SCRIPT, {"gamma": 1}), "B": Arm(SCRIPT, {})},
              metric="eval/episodic_return", thresholds={"E-v0": (90.0,)}, quick=False)  # fmt: skip


def command(program: str, *arguments: str | Path) -> list[str]:
    """The command line of a program of benchmark/."""
    return [sys.executable, "-m", f"benchmark.{program}", *map(str, arguments)]


def anywhere() -> dict[str, str]:
    """Environment variables with which these programs start in any folder, not only in the repository's root.

    Ray's workers would stand behind whatever else runs here.
    """
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}


def write_study(name: str = "study.toml", **changes: str) -> Path:
    """A study in the present folder: TOML lines by key, to be changed or (with "") left out."""
    lines = {
        "environments": 'environments = ["MountainCarContinuous-v0"]',
        "seeds": "seeds = [1]",
        "flags": "[flags]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY.items()),
        "arms": '[arms.SAC]\nscript = "guided_sac_continuous.py"',
        "quick": "[quick]\nseeds = [1, 2]\nflags = { total-timesteps = 10 }",
    }
    path = Path(name)
    path.write_text("\n".join((lines | changes).values()))
    return path


def a_run(script: Path, **changes) -> Run:
    values = dict(script=script, env="E-v0", seed=1, flags={}, threads=1) | changes
    return Run(**values, code=code_hash(script, values["env"], values["flags"]))


def a_study(name: str, environments: list[str], arms: dict[str, Arm] | list[str], **changes) -> Study:
    arms = arms if isinstance(arms, dict) else {arm: Arm(SCRIPT, {}) for arm in arms}
    values = dict(metric=METRIC, thresholds={}, quick=False, seeds=[1, 2]) | changes
    return Study(name, environments, values.pop("seeds"), arms, **values)


def write_run(folder: Path, points: dict[str, list[tuple[int, float]]], **settings) -> None:
    """Event files as a script leaves them."""
    with SummaryWriter(str(folder)) as writer:
        rows = "\n".join(f"|{k}|{v}|default|" for k, v in settings.items())
        writer.add_text("hyperparameters", f"|param|value|source|\n|-|-|-|\n{rows}")
        for tag, values in points.items():
            for step, value in values:
                writer.add_scalar(tag, value, step)


def tidy(points: dict[tuple[str, int, str], list[tuple[int, float]]]) -> pd.DataFrame:
    """A table of the study from (arm, seed, tag) → points."""
    return table.as_table(
        ("study", arm, "s.py", "E-v0", seed, step, tag, value, "", "", "")
        for (arm, seed, tag), values in points.items() for step, value in values
    )  # fmt: skip


def scored(**arms: list[list[float]]) -> pd.DataFrame:
    """A table of the metric at steps 0, 10, 20, … for each seed of each arm."""
    return tidy({
        (arm, seed, STUDY.metric): [(10 * i, value) for i, value in enumerate(values)]
        for arm, seeds in arms.items() for seed, values in enumerate(seeds, start=1)
    })  # fmt: skip


def rows(study: Study, env: str, arm: str, *seeds: list[float], tag: str = METRIC) -> list[tuple]:
    """The rows of seeds 1, 2, … with values at steps 0, 10, 20, …"""
    return [(study.name, arm, "s.py", env, seed, 10 * i, tag, value, "", "c0ffee", "torch 2")
            for seed, values in enumerate(seeds, start=1) for i, value in enumerate(values)]  # fmt: skip


def a_landscape(step: int, actions: list[list[float]]) -> Landscape:
    path = np.array([[-0.5, 0.0], [-0.4, 0.05], [0.1 * step, 0.02]])
    return Landscape(step, np.array([-1.0, 0.0, 0.5]), np.array([-0.07, 0.0, 0.07]), np.array(actions), path, -0.04)
