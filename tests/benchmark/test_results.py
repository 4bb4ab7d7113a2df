"""benchmark/results.py: the one command for every table and figure."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from conftest import ROOT
from handmade import SCRIPT, STUDY, a_study, anywhere, command, rows, scored, write_run
from torch.utils.tensorboard import SummaryWriter

from benchmark import results
from benchmark.figures import analysis, kept, paper, table
from benchmark.sweeps.studies import Arm, load_study

pytestmark = pytest.mark.usefixtures("few_samples")
STUDY_FILE = f"""
environments = ["E-v0"]
seeds = [1, 2, 3]
threshold = 90
arms = {{ A = {{ script = "{SCRIPT.name}" }}, B = {{ script = "{SCRIPT.name}", flags = {{ gamma = 0.9 }} }} }}
quick = {{ seeds = [1, 2], flags = {{}} }}
"""


def test_results_from_event_files(monkeypatch, capsys):
    """Plain runs become table, statistics and figure; redrawn from the table alone they are the same."""
    Path("study.toml").write_text(STUDY_FILE)
    for arm, high in (("A", 95.0), ("B", 10.0)):
        for seed in (1, 2):
            points = {
                STUDY.metric: [(0, 0.0), (50, high)], "charts/SPS": [(5, 1.0)],
                table.GUIDANCE_ACTIVE: [(0, 1.0), (10, 0.0)], table.EPISODIC_RETURN: [(9, 8.0), (50, 10 / 3)],
            }  # fmt: skip
            write_run(Path(f"runs/E-v0__{arm}__{seed}__5"), points, gamma=0.9)

    def results(*flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["results.py", "study.toml", "--quick", *flags])
        runpy.run_path(str(ROOT / "benchmark" / "results.py"), run_name="__main__")
        return capsys.readouterr().out

    assert "| A over B | 50 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | above |" in results("--plain-runs", "runs")
    made = {path.name: path.read_bytes() for path in Path("runs/quick").iterdir()}
    assert sorted(made) == ["study.csv", "study.md", "study.png"]
    assert b"charts/SPS" not in made["study.csv"] and b"| A | 50 | 5.7 [5.7, 5.7] |" in made["study.md"]
    results("--redraw")
    assert {path.name: path.read_bytes() for path in Path("runs/quick").iterdir()} == made

    with pytest.raises(SystemExit, match=r"^results.py: error: .* give one of the two"):
        results("--redraw", "--plain-runs", "runs")
    Path("empty").mkdir()
    assert results("--plain-runs", "empty") == "study: not measured yet\n"
    assert {path.name: path.read_bytes() for path in Path("runs/quick").iterdir()} == made

    write_run(Path("runs/E-v0__A__2__6"), {STUDY.metric: [(0, 0.0), (50, np.nan)]}, gamma=0.9)
    with pytest.raises(SystemExit, match=r"^results.py: error: A on E-v0, seed 2: .* at step 50 is NaN"):
        results("--plain-runs", "runs")  # before anything is written
    assert {path.name: path.read_bytes() for path in Path("runs/quick").iterdir()} == made

    Path("runs/quick/study.csv").unlink()
    assert results("--redraw") == "study: not measured yet\n"


TINY_SCRIPT = """
import shutil, sys
from pathlib import Path

flags = dict(argument.removeprefix("--").split("=") for argument in sys.argv[1:])
if flags["seed"] == "2" and flags["gamma"] == "0.5":
    sys.exit("the disk is full")
shutil.copytree(Path(__file__).with_name(flags["gamma"]), "runs/x")
"""


def write_tiny_script(folder: Path, before: str = "") -> None:
    """A script whose runs return 0 at step 0 and 10 γ at step 10."""
    (folder / "script.py").write_text(before + TINY_SCRIPT)
    for gamma in (0.5, 0.7, 0.9):
        with SummaryWriter(folder / str(gamma)) as writer:
            for step in (0, 10):
                writer.add_scalar("eval/episodic_return", step * gamma, step)


def test_results_of_a_sweep_in_which_a_run_fails(tmp_path):
    """The failed run is reported, all else is made, a study without any run leaves what was there, the status is 1."""
    write_tiny_script(tmp_path)
    arms = "\n".join(f'[arms.{name}]\nscript = "{tmp_path / "script.py"}"\nflags = {{ gamma = {gamma} }}'
                     for name, gamma in (("A", 0.9), ("B", 0.5)))  # fmt: skip
    for name, seeds, shown in (("none", [2], arms.split("\n[arms.B]")[1]), ("some", [1, 2], arms)):
        shown = shown if name == "some" else f"[arms.B]{shown}"
        Path(f"{name}.toml").write_text(
            f'environments = ["E-v0"]\nseeds = {seeds}\nquick = {{ seeds = {seeds}, flags = {{}} }}\n{shown}'
        )
    Path("runs/quick").mkdir(parents=True)
    for kind in ("csv", "md", "png"):
        Path(f"runs/quick/none.{kind}").write_text("of the last time")
    line = command("results", "none.toml", "some.toml", "--quick", "--cores", "1")
    result = subprocess.run(line, env=anywhere(), capture_output=True, text=True, timeout=840)
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[-1] == "results.py: 1 runs failed, the tables are without them"
    assert "  | the disk is full" in result.stdout and "none: not measured yet" in result.stdout.splitlines()
    text = Path("runs/quick/some.md").read_text()
    assert "A 2 seeds, B 1 seeds (missing: 2):" in text and "| A | 10 | 9.000 [9.000, 9.000] |" in text
    assert sorted(path.name for path in Path("runs/quick").iterdir()) == [
        "none.csv", "none.md", "none.png", "some.csv", "some.md", "some.png"
    ]  # fmt: skip
    for kind in ("csv", "md", "png"):
        assert Path(f"runs/quick/none.{kind}").read_text() == "of the last time"


@pytest.mark.slow
def test_an_arm_is_kept_where_two_of_its_seeds_have_the_same_digits(tmp_path, monkeypatch, capsys):
    """A's third seed is not run again, its rows say where they are from; with another digit nothing else is run.

    The second time A's two seeds are done, so that nothing is left to run before their digits are compared.
    """
    write_tiny_script(tmp_path)
    arms = "\n".join(f'[arms.{name}]\nscript = "{tmp_path / "script.py"}"\nflags = {{ gamma = {gamma} }}'
                     for name, gamma in (("A", 0.9), ("B", 0.7)))  # fmt: skip
    Path("study.toml").write_text(
        f'environments = ["E-v0"]\nseeds = [1, 2, 3]\nquick = {{ seeds = [1, 2, 3], flags = {{}} }}\n{arms}'
    )
    study, csv = load_study(Path("study.toml"), quick=True), Path("runs/quick/study.csv")
    csv.parent.mkdir(parents=True)
    before = table.as_table(rows(study, "E-v0", "A", [0, 9], [0, 9], [0, 9]))
    table.write_table(before, csv)

    line = command("results", "study.toml", "--quick", "--cores", "1", "--keep-arms", "A", "--runs", "made")

    def made() -> list[tuple[float, int]]:
        """Gamma and seed of the runs that are there."""
        records = [json.loads(path.read_text()) for path in Path("made").glob("*/run.json")]
        return sorted((record["flags"]["gamma"], record["seed"]) for record in records)

    result = subprocess.run(line, env=anywhere(), capture_output=True, text=True, timeout=840)
    assert result.returncode == 0, result.stderr
    assert made() == [(0.7, 1), (0.7, 2), (0.7, 3), (0.9, 1), (0.9, 2)]
    after, columns = table.load_table(csv), ["seed", "tag", "step", "value", "commit"]
    kept = after[after.arm == "A"]
    assert kept[columns].to_numpy().tolist() == before[columns].to_numpy().tolist()
    assert set(after[after.arm == "B"].value) == {0.0, 7.0}
    assert "; kept: seeds 1, 2 are the same at " in kept.versions.unique()[0]
    assert "Kept from the table of before: A, of commit " in Path("runs/quick/study.md").read_text()

    before.loc[(before.seed == 2) & (before.step == 10), "value"] = 8.0
    table.write_table(before, csv)
    for path in list(Path("made").glob("*/run.json")):
        if json.loads(path.read_text())["flags"]["gamma"] == 0.7:
            shutil.rmtree(path.parent)
    monkeypatch.setattr(sys, "argv", ["results.py", *line[3:]])
    with pytest.raises(SystemExit) as ended:  # its text goes to stderr, with exit status 1
        runpy.run_path(str(ROOT / "benchmark" / "results.py"), run_name="__main__")
    assert ended.value.code == (
        "results.py: error: study: A on E-v0, seed 2, cannot be kept: eval/episodic_return at step 10 is 9, before 8"
    )
    assert tuple(capsys.readouterr()) == ("2 runs, 2 of them done before\n", "")  # Ray does not even start
    assert made() == [(0.9, 1), (0.9, 2)]


@pytest.mark.slow
def test_a_study_made_in_parts(tmp_path):
    """What the table has of the same settings and code is not run again; an interrupted part adds what is done."""
    waits = "import sys, time\n\nif '--seed=3' in sys.argv:\n    time.sleep(600)\n"
    write_tiny_script(tmp_path, before=waits)
    Path("study.toml").write_text(
        'environments = ["E-v0"]\nseeds = [1, 2, 3]\nquick = { seeds = [1, 2, 3], flags = {} }\n'
        f'[arms.A]\nscript = "{tmp_path / "script.py"}"\nflags = {{ gamma = 0.9 }}'
    )
    study, csv = load_study(Path("study.toml"), quick=True), Path("runs/quick/study.csv")
    csv.parent.mkdir(parents=True)
    before = table.as_table(rows(study, "E-v0", "A", [0, 5], [0, 5]))  # with digits that no run would have
    digest = next(run.hash for _, run in study.runs(threads=1) if run.seed == 1)
    table.write_table(before.assign(settings=np.where(before.seed == 1, digest, "of other code")), csv)

    line = command("results", "study.toml", "--quick", "--cores", "1", "--parts")
    process = subprocess.Popen(line, env=anywhere(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output = []
    for row in process.stdout:
        output.append(row)
        if row.startswith("1 done, 1 running"):
            process.terminate()
    errors = process.communicate(timeout=840)[1]
    assert process.returncode == 1 and errors.endswith("interrupted; the same command goes on from here\n"), errors
    assert "study: 1 runs of the table are of other settings or code and are left out\n" in output

    after = table.load_table(csv)
    assert {row.seed: row.value for row in after[after.step == 10].itertuples()} == {1: 5.0, 2: 9.0}
    assert "A 2 seeds (missing: 3):" in Path("runs/quick/study.md").read_text()
    assert [run.seed for run in kept.missing(study, 1, after)] == [3]


def test_a_run_is_done_only_when_its_model_is_kept(tmp_path, monkeypatch):
    """A disk without room for the model leaves no table by which the run would not be made again."""
    study = a_study("study", ["E-v0"], {"A": Arm(SCRIPT, {"save-model": True})}, quick=True)
    made = table.as_table(rows(study, "E-v0", "A", [0, 1], [0, 1]))
    monkeypatch.setattr(results, "read_tables", lambda study, args: (made, made))
    monkeypatch.setattr(results, "keep_model", lambda folder, target: (target / "model").write_text("x"))
    for _, run in study.runs(threads=1):
        (tmp_path / "sweep" / run.name).mkdir(parents=True)
    args = results.Args([], runs=tmp_path / "sweep", parts=True)
    with pytest.raises(FileNotFoundError):  # the target is no folder
        results.rebuild(study, args)
    assert not list(Path("runs").rglob("study.csv"))
    monkeypatch.setattr(results, "keep_model", lambda folder, target: None)
    assert results.rebuild(study, args) and list(Path("runs").rglob("study.csv"))


def test_arms_that_cannot_be_kept_are_named(monkeypatch):
    Path("study.toml").write_text(STUDY_FILE)
    for flags, message in ((["--redraw"], "--redraw runs nothing"), ([], "names 'C', which is an arm of none")):
        monkeypatch.setattr("sys.argv", ["results.py", "study.toml", "--quick", "--keep-arms", "C", *flags])
        with pytest.raises(SystemExit, match=message):
            runpy.run_path(str(ROOT / "benchmark" / "results.py"), run_name="__main__")


def test_missing_seeds_are_named():
    Path("study.toml").write_text(STUDY_FILE)
    text = analysis.summary(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3], [4, 5]]), load_study(Path("study.toml")))
    assert "A 2 seeds (missing: 3), B 3 seeds:" in text


def test_missing_seeds_are_those_of_the_arm():
    Path("study.toml").write_text(STUDY_FILE.replace("gamma = 0.9 }", "gamma = 0.9 }, seeds = [4, 2]"))
    text = analysis.summary(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3]]), load_study(Path("study.toml")))
    assert "A 2 seeds (missing: 3), B 2 seeds (missing: 4):" in text


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("target", [*(f"figure-{number}" for number in paper.STUDIES), "results"])
def test_make_knows_the_figures(target, quick):
    """What make would run, read as results.py reads it; its studies exist in both forms."""
    command = ["make", "-n", "-C", str(ROOT), target, *(["QUICK=1"] if quick else [])]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in output.splitlines() if "-m benchmark.results" in line)
    args = tyro.cli(results.Args, args=line.split()[3:])
    assert args.quick == quick and args.studies == []
    assert args.figure == (None if target == "results" else int(target[-1]))
    for name in paper.STUDIES.get(args.figure, ()):
        assert load_study(ROOT / "benchmark" / "studies" / f"{name}.toml", quick).quick == quick


def test_a_figure_from_its_tables(monkeypatch, capsys):
    """--redraw says "not measured yet" where there is no table, else it makes pictures and table."""

    def run_results(*flags: str) -> str:
        monkeypatch.setattr("sys.argv", ["results.py", "--quick", "--redraw", *flags])
        runpy.run_path(str(ROOT / "benchmark" / "results.py"), run_name="__main__")
        return capsys.readouterr().out

    assert "guidance_timing: not measured yet" in run_results("--figure", "7")
    assert [path.name for path in Path("runs/quick").iterdir()] == ["figure_7.md"]
    text = Path("runs/quick/figure_7.md").read_text()
    assert text.split("\n\n")[1:] == ["**MountainCarContinuous-v0: not measured yet.**\n"]

    study = load_study(ROOT / "benchmark" / "studies" / "guidance_timing.toml", quick=True)
    env = study.environments[0]
    data = table.as_table(row for arm in study.arms for row in rows(study, env, arm, [0, 0, 1], [0, 0, 1]))
    table.write_table(data, Path("runs/quick/guidance_timing.csv"))
    assert "| 1,000 | 2 | 1.0 [1.0, 1.0] | 0.5 [0.5, 0.5] |" in run_results("--figure", "7")
    assert sorted(path.name for path in Path("runs/quick").iterdir()) == [
        "figure_7.md", "figure_7.png", "guidance_timing.csv", "guidance_timing.md"
    ]  # fmt: skip
    with pytest.raises(SystemExit, match=r"^results.py: error: give studies or --figure"):
        run_results("study.toml", "--figure", "7")
    assert "figure 5 is left as it is" in run_results("--figure", "5")


def test_a_figure_keeps_what_was_measured_before(monkeypatch, capsys):
    """Studies without a run keep their table, also in the figure; a figure without any run stays as it is."""
    runs = {}

    def plain_results(number: int) -> str:
        monkeypatch.setattr(table, "read_plain", lambda study, folder: table.as_table(runs.get(study.name, ())))
        monkeypatch.setattr("sys.argv", ["results.py", "--quick", "--plain-runs", "runs", "--figure", str(number)])
        runpy.run_path(str(ROOT / "benchmark" / "results.py"), run_name="__main__")
        return capsys.readouterr().out

    folder = Path("runs/quick")
    folder.mkdir(parents=True)
    (folder / "figure_3.md").write_text("of the last time")
    taxi = a_study("taxi", ["Taxi-v4"], ["SAC"])
    table.write_table(table.as_table(rows(taxi, "Taxi-v4", "SAC", [0, 6], [0, 8])), folder / "taxi.csv")
    said = plain_results(3).splitlines()
    assert said == [*(f"{name}: not measured yet" for name in paper.STUDIES[3]), "figure 3: not measured yet"]
    assert (folder / "figure_3.md").read_text() == "of the last time"

    lake = a_study("frozen_lake", ["FrozenLake-v1"], ["SAC"])
    runs["frozen_lake"] = rows(lake, "FrozenLake-v1", "SAC", [0, 1], [0, 1])
    said = plain_results(3)
    assert "taxi: not measured yet" in said and "frozen_lake: not measured yet" not in said
    text = (folder / "figure_3.md").read_text()
    at_10 = "| 10 | {0} | 10 to 10 | {0} |  |  |"
    assert f"| FrozenLake-v1 | SAC | 2 {at_10.format('1.000 [1.000, 1.000]')} frozen_lake |" in text
    assert f"| Taxi-v4 | SAC | 2 {at_10.format('7.000 [6.000, 8.000]')} taxi |" in text
