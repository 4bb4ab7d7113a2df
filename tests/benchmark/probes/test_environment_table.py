"""benchmark/probes/environments.py: what its cells say is what happened, with environments that are installed here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmark.probes.environments import (
    CASES,
    DISCRETE,
    HEADER,
    PACKAGES,
    SHOWN,
    Case,
    table,
    try_one,
    versions,
)

PYTHON = Path(sys.executable)
ODD = """
import gymnasium as gym
import numpy as np

class Odd(gym.Env):
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None, kind="dict"):
        self.observation_space, self.kind = gym.spaces.Dict(
            goal=gym.spaces.Box(-1, 1, (2,)),
            place=gym.spaces.Sequence(gym.spaces.Discrete(3)) if kind == "list" else gym.spaces.Discrete(3),
        ), kind

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return {"goal": np.zeros(2, np.float32), "place": 1}, {}

    def step(self, action):
        self.t += 1
        reward = None if self.kind == "late" and self.t == 250 else 0.0
        return {"goal": np.zeros(2, np.float32), "place": 1}, reward, False, False, {}

gym.register("Odd-v0", Odd)
"""


def cells(case: Case, tmp_path: Path, steps: int = 60) -> tuple[dict[str, str], bool]:
    row, as_said = try_one(PYTHON, case, steps, tmp_path / "try")
    return dict(zip(HEADER, row, strict=True)), as_said


@pytest.fixture
def odd(tmp_path):
    """A module beside the runs; the present folder is where an interpreter with -c looks, not one with a script."""
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "odd.py").write_text(ODD)
    path = tmp_path / "site"
    path.mkdir()
    (path / "python").write_text(f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{tmp_path / "try"} exec {PYTHON} "$@"\n')
    (path / "python").chmod(0o755)
    return path / "python"


@pytest.mark.slow
def test_an_environment_that_trains(tmp_path):
    row, as_said = cells(Case("Taxi-v4", DISCRETE, limits="none known"), tmp_path)
    assert as_said
    assert row == {
        "environment": "`Taxi-v4`", "script": "discrete", "observations": "an int",
        "trains": "yes", "pictures": "yes", "known limits": "none known",
    }  # fmt: skip
    settings = [json.loads(path.read_text())["args"] for path in (tmp_path / "try" / "runs").glob("*/settings.json")]
    assert [args["guide_policy"] for args in settings if args.get("guide_policy")] == ["rule.py"] and len(settings) == 3
    assert "def policy(obs, t):" in (tmp_path / "try" / "rule.py").read_text()


@pytest.mark.slow
def test_flattened_refused_and_failing_ones(odd, tmp_path):
    """A list is refused as the case says, or not as another says; a run that ends early is shown with its last line."""
    row, as_said = try_one(odd, Case("odd:Odd-v0"), 60, tmp_path / "try")
    assert as_said and row[2:] == ["(5,), flattened", "yes", "no: the environment has no render mode rgb_array", ""]
    of_lists = {"env_kwargs": {"kind": "list"}}
    row, as_said = try_one(odd, Case("odd:Odd-v0", **of_lists, refused="is Sequence("), 60, tmp_path / "try")
    assert as_said and row[3] == "refused in a line"
    row, as_said = try_one(odd, Case("odd:Odd-v0", **of_lists), 60, tmp_path / "try")
    fails = "**the prompt fails: llm_supervisor.py: error: the observations of Odd-v0 cannot be"
    assert not as_said and row[3].startswith(fails)
    row, as_said = try_one(odd, Case("odd:Odd-v0", env_kwargs={"kind": "late"}), 300, tmp_path / "try")
    late = "error: Odd-v0 gives the reward None for a step: it must be one number"
    assert not as_said and row[3] == f"**the prompt fails: {late}**" and row[4] == "–"


def test_the_table_in_the_docs_is_the_one_that_was_written():
    """Row by row, with the versions; each row is of a case, with what is known of it."""
    written = (ROOT / "benchmark" / "results" / "environments.md").read_text()
    page = (ROOT / "docs" / "compatibility.md").read_text()
    lines = [line for line in written.splitlines() if line.startswith(("|", "With "))]
    assert all(line in page.splitlines() for line in lines)
    limits = {f"`{case.env_id}`": set() for cases in CASES.values() for case in cases}
    for case in (case for cases in CASES.values() for case in cases):
        limits[f"`{case.env_id}`"].add(case.limits)
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    for name, *_, known in (row if len(row) == len(HEADER) else [*row, ""] for row in rows):
        assert known in limits[name.split()[0]], name


def test_a_table_has_no_stray_columns():
    assert table([["a | b", *[""] * (len(HEADER) - 1)]]).splitlines()[2].count("|") == len(HEADER) + 1


def test_versions_are_those_of_the_interpreter():
    expected = subprocess.run([PYTHON, "-c", "import numpy; print(numpy.__version__)"], capture_output=True, text=True)
    assert versions(PYTHON, ["numpy"]) == f"numpy {expected.stdout.strip()}"
    assert set(PACKAGES) == set(SHOWN) == set(CASES)
