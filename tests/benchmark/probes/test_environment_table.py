"""benchmark/probes/environments.py: what its cells say is what happened, with environments that are installed here."""

import io
import json
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import ROOT

from benchmark.probes import environments
from benchmark.probes.environments import CASES, DISCRETE, HEADER, Case, table, tried, try_one, versions

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

gym.register("Elsewhere-v0", Odd)
"""


@pytest.fixture
def in_process(run_here, monkeypatch):
    """The scripts run in this process, with what `call` would return of theirs."""

    def call(python: Path, folder: Path, script: str, *flags: str) -> tuple[int, str, str]:
        status, out, errors = 0, io.StringIO(), io.StringIO()
        with chdir(folder), redirect_stdout(out), redirect_stderr(errors):
            try:
                run_here(*flags, script=ROOT / script)
            except SystemExit as ended:
                status = int(bool(ended.code))
                print(ended.code if isinstance(ended.code, str) else "", file=sys.stderr)
        return status, out.getvalue(), errors.getvalue()

    monkeypatch.setattr(environments, "call", call)


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A module beside the runs, and an interpreter that finds it: of one with a script the present folder is not."""
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "odd.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path / "try")
    path = tmp_path / "site"
    path.mkdir()
    (path / "python").write_text(f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{tmp_path / "try"} exec {PYTHON} "$@"\n')
    (path / "python").chmod(0o755)
    yield path / "python"
    sys.modules.pop("odd", None)
    gym.registry.pop("Elsewhere-v0", None)


@pytest.mark.slow
def test_an_environment_that_trains(in_process, tmp_path):
    row, as_said = try_one(PYTHON, Case("Taxi-v4", DISCRETE, limits="none known"), 60, tmp_path / "try")
    assert as_said
    assert dict(zip(HEADER, row, strict=True)) == {
        "environment": "`Taxi-v4`", "script": "discrete", "observations": "an int",
        "trains": "yes", "pictures": "yes", "known limits": "none known",
    }  # fmt: skip
    settings = [json.loads(path.read_text())["args"] for path in (tmp_path / "try" / "runs").glob("*/settings.json")]
    assert [args["guide_policy"] for args in settings if args.get("guide_policy")] == ["rule.py"] and len(settings) == 3
    assert "def policy(obs, t):" in (tmp_path / "try" / "rule.py").read_text()


@pytest.mark.slow
def test_flattened_and_failing_ones(in_process, odd, tmp_path):
    """What fails is shown with its last line, and so is a refusal where the case says nothing of one."""
    row, as_said = try_one(odd, Case("odd:Elsewhere-v0"), 60, tmp_path / "try")
    assert as_said and row[2:] == ["(5,), flattened", "yes", "no: the environment has no render mode rgb_array", ""]
    row, as_said = try_one(odd, Case("odd:Elsewhere-v0", env_kwargs={"kind": "list"}), 60, tmp_path / "try")
    fails = "**the prompt fails: llm_supervisor.py: error: the observations of Elsewhere-v0 cannot be"
    assert not as_said and row[3].startswith(fails)
    row, as_said = try_one(odd, Case("odd:Elsewhere-v0", env_kwargs={"kind": "late"}), 300, tmp_path / "try")
    late = "error: Elsewhere-v0 gives the reward None for a step: it must be one number"
    assert not as_said and row[3] == f"**the prompt fails: {late}**" and row[4] == "–"


def test_a_refusal_by_a_process(odd, tmp_path):
    """… is in a line, as the case says; what the process said is kept."""
    case = Case("odd:Elsewhere-v0", env_kwargs={"kind": "list"}, refused="is Sequence(")
    row, as_said = try_one(odd, case, 60, tmp_path / "try")
    assert as_said and row[3] == "refused in a line"
    said = (tmp_path / "try" / "log").read_text()
    assert said.startswith("$ llm_supervisor.py show-prompt --env-id odd:Elsewhere-v0 ") and said.endswith("\n[1]\n\n")


PROMPT = """obs is a float32 NumPy array of shape (3,).
## Code template
```python
def policy(obs, t):
    return 0.0
```
"""


def test_runs_that_fail_or_end_early_are_shown_with_their_last_line(tmp_path):
    def run(script: str, *flags: str) -> tuple[int, str, str]:
        if script == "rnd_sac.py":
            return 1, "step 20/60 \n", "Traceback\nValueError: no\n"
        if "--guide-policy" in flags:
            return 0, "step 59/60 \n", ""
        return (0, PROMPT, "") if script == "llm_supervisor.py" else (0, "step 60/60 \n", "")

    cells, as_said = tried(run, Case("E-v0"), 60, tmp_path)
    assert not as_said and cells == ["(3,)", "**guided: step 59/60**; **RND: ValueError: no**", "yes"]
    assert (tmp_path / "rule.py").read_text() == "def policy(obs, t):\n    return 0.0\n"


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
    assert set(environments.PACKAGES) == set(environments.SHOWN) == set(CASES)
