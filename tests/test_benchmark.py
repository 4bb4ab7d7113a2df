"""benchmark/: the table and the curve say what the event files say."""

import csv
import runpy
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT
from torch.utils.tensorboard import SummaryWriter

table = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmark" / "eval_table.py"), run_name="imported"))

# label, seed, time of the run, greedy return at steps 0 and 100
RUNS = [("a", 1, 10, (0.0, 95.0)), ("a", 2, 10, (2.0, 89.0)), ("a", 2, 20, (1.0, 91.0)), ("a", 3, 10, (5.0, 80.0)),
        ("b__x", 1, 10, (7.0, 8.0))]  # fmt: skip


@pytest.fixture
def runs():
    for label, seed, start, values in RUNS:
        with SummaryWriter(f"runs/Env-v1__{label}__{seed}__{start}") as writer:
            for step, value in zip((0, 100), values, strict=True):
                writer.add_scalar("eval/episodic_return", value, step)
    with SummaryWriter("runs/Env-v1__c__1__10") as writer:
        writer.add_scalar("charts/SPS", 1.0, 0)  # a run without evaluations


def test_table_by_hand(runs, monkeypatch, capsys):
    """Median, range and count by hand; the later run of a seed counts; a run without evaluations is left out."""
    monkeypatch.setattr(sys, "argv", ["eval_table.py", "--csv", "t.csv", "--figure", "f.png"])
    runpy.run_path(str(ROOT / "benchmark" / "eval_table.py"), run_name="__main__")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == [
        "| Env-v1 | a | 0 | 1.0 | 0.0 | 5.0 | 0 of 3 |",
        "| Env-v1 | a | 100 | 91.0 | 80.0 | 95.0 | 2 of 3 |",
        "| Env-v1 | b__x | 0 | 7.0 | 7.0 | 7.0 | 0 of 1 |",
        "| Env-v1 | b__x | 100 | 8.0 | 8.0 | 8.0 | 0 of 1 |",
    ]
    with open("t.csv", newline="") as file:
        data = list(csv.DictReader(file))
    assert len(data) == 8
    assert data[3] == {"env": "Env-v1", "label": "a", "seed": "2", "step": "100", "return": "91.0000"}


def test_curves_drawn_are_the_data(runs, monkeypatch, tmp_path):
    """The lines of the figure, read back from it: every seed, and the median by hand."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "close", lambda fig: None)
    table.draw({key: v for key, v in table.read(tmp_path / "runs").items() if key[1] == "a"}, tmp_path / "f.png", 90.0)
    lines = [line.get_ydata() for line in plt.gca().lines]
    assert [list(y) for y in lines] == [[0.0, 95.0], [1.0, 91.0], [5.0, 80.0], [1.0, 91.0], [90.0, 90.0]]
    assert (tmp_path / "f.png").stat().st_size > 1_000


def test_nothing_to_read_is_said(monkeypatch, tmp_path):
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(sys, "argv", ["eval_table.py"])
    with pytest.raises(SystemExit, match="--eval-frequency"):
        runpy.run_path(str(ROOT / "benchmark" / "eval_table.py"), run_name="__main__")
