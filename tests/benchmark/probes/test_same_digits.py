"""benchmark/probes/same_digits.py: what is compared is what was asked for, and a difference is found."""

import subprocess
from pathlib import Path

import pytest

from benchmark.probes import same_digits

SCRIPT = """
import sys, time
from torch.utils.tensorboard import SummaryWriter

with SummaryWriter(f"runs/E__s__1__{time.time_ns()}") as writer:
    for step in range(3):
        writer.add_scalar("a", VALUE * step, step)
        writer.add_scalar("charts/SPS", time.perf_counter(), step)
sys.exit(STATUS)
"""


def written(folder: Path, value: float, status: int = 0) -> str:
    """A script that logs these values, in a folder of its own; returns the folder."""
    folder.mkdir(exist_ok=True)
    text = SCRIPT.replace("VALUE", str(value)).replace("STATUS", str(status))
    (folder / "script.py").write_text(text)
    return str(folder)


@pytest.fixture
def compared(tmp_path, monkeypatch, capsys):
    """Compare two commits or folders; returns the exit status and the table's rows."""
    monkeypatch.setattr(same_digits, "COMMANDS", {"a run": "script.py"})

    def call(before: str, after: str) -> tuple[int, list[str]]:
        status = same_digits.main(same_digits.Args(before, after, runs=tmp_path / "runs"))
        return status, [line for line in capsys.readouterr().out.splitlines() if line.startswith("| a run")]

    return call


def test_a_folder_is_run_again_and_a_difference_is_told(tmp_path, compared):
    """Values that are the same, then a changed one; the clock does not count."""
    before, after = written(tmp_path / "before", 2.0), written(tmp_path / "after", 2.0)
    assert compared(before, after) == (0, ["| a run | 3 | none |"])
    written(tmp_path / "after", 2.5)
    assert compared(before, after) == (1, ["| a run | 3 | a: step 1 2.0, now step 1 2.5 |"])


def test_a_commit_is_run_once_and_what_failed_is_not_compared(tmp_path, compared, monkeypatch):
    monkeypatch.chdir(written(tmp_path / "project", 2.0))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    same = written(tmp_path / "same", 2.0)
    runs = tmp_path / "runs"

    monkeypatch.setattr(same_digits, "DEFAULT_FLAGS", "")
    failing = written(tmp_path / "failing", 9.0, status=1)
    with pytest.raises(SystemExit, match=r"^error: a run of .*failing failed:"):
        same_digits.scalars_of(Path(failing), runs / "tried", "a run")
    assert same_digits.scalars_of(Path(same), runs / "tried", "a run") == {"a": [(0, 0.0), (1, 2.0), (2, 4.0)]}

    assert compared("HEAD", same) == (0, ["| a run | 3 | none |"])
    (kept,) = runs.glob("????????????/a_run/runs/*")
    assert compared("HEAD", same)[0] == 0 and list(runs.glob("????????????/a_run/runs/*")) == [kept]


def test_what_is_neither_a_commit_nor_a_folder_is_named(compared):
    with pytest.raises(SystemExit, match=r"^error: nowhere is neither a commit nor a folder$"):
        compared("nowhere", "HEAD")
