"""benchmark/: tables say what the event files say, statistics agree with sums by hand, figures show the table."""

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import analysis
import figures
import numpy as np
import pandas as pd
import pytest
import table
from conftest import ROOT
from sweep import Arm, Study, load_study
from torch.utils.tensorboard import SummaryWriter

SCRIPT = ROOT / "guided_sac_continuous.py"
STUDY = Study("study", ["E-v0"], [1, 2], {"A": Arm(SCRIPT, {"gamma": 1}), "B": Arm(SCRIPT, {})},
              metric="eval/episodic_return", thresholds={"E-v0": 90.0}, quick=False)  # fmt: skip


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


# --- tables ---
def test_table_of_a_sweep(tmp_path):
    """One row for each scalar, with what the record says; unfinished runs are not in it; written and read again."""
    run = next(run for arm, run in STUDY.runs(1) if arm == "A" and run.seed == 2)
    write_run(tmp_path / run.name / "runs" / "x", {"charts/a": [(0, 1.5), (3, 1 / 3)], "eval/b": [(2, -7.0)]})
    record = {"commit": "c0ffee", "versions": {"python": "3.11", "torch": "2"}}
    (tmp_path / run.name / "run.json").write_text(json.dumps(record))
    write_run(tmp_path / f"{run.name}.failed" / "runs" / "x", {"charts/a": [(0, 9.0)]})
    found = table.read_sweep(STUDY, tmp_path, threads=1)
    constant = ("study", "A", "guided_sac_continuous.py", "E-v0", 2)
    end = (run.hash, "c0ffee", "python 3.11, torch 2")
    assert [tuple(row) for row in found.itertuples(index=False)] == [
        (*constant, 0, "charts/a", 1.5, *end),
        (*constant, 3, "charts/a", float(np.float32(1 / 3)), *end),
        (*constant, 2, "eval/b", -7.0, *end),
    ]
    for name in ("t.csv", "t.csv.gz"):
        table.write_table(found, tmp_path / name)
        again = table.load_table(tmp_path / name)
        pd.testing.assert_frame_equal(again.drop(columns="value"), found.drop(columns="value"))
        assert (again.value.astype(np.float32) == found.value.astype(np.float32)).all()
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_without_one_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold the event files of one run, not of 0"):
        table.read_events(tmp_path / "empty")
    for name in ("x", "y"):
        write_run(tmp_path / name, {"a": [(0, 1.0)]})
    with pytest.raises(ValueError, match="not of 2"):
        table.read_events(tmp_path)


def test_table_of_plain_runs(tmp_path):
    """--exp-name is the arm; the later run of a seed counts; other runs are left out."""
    for name, value in (("E-v0__A__1__9", 1.0), ("E-v0__A__1__10", 2.0), ("E-v0__A__3__10", 3.0),
                        ("E-v0__other__1__10", 4.0), ("F-v0__A__1__10", 5.0)):  # fmt: skip
        write_run(tmp_path / name, {STUDY.metric: [(0, value)]}, gamma=1.0)
    (tmp_path / "sweep").mkdir()
    found = table.read_plain(STUDY, tmp_path)
    assert found[["arm", "seed", "value"]].to_numpy().tolist() == [["A", 1, 2.0]]
    own = dataclasses.replace(STUDY, arms={"A": dataclasses.replace(STUDY.arms["A"], seeds=[3])})
    assert table.read_plain(own, tmp_path)[["seed", "value"]].to_numpy().tolist() == [[3, 3.0]]


GOOD = dict(gamma=1.0, tau=0.01, total_timesteps=20, seed=1, exp_name="A", device="cpu", torch_num_threads=1)


@pytest.mark.parametrize(
    ("settings", "last", "message"),
    [
        (dict(seed=2, device="cuda", torch_num_threads=8), 20, None),
        (dict(seed=2), 21, None),  # several environments can step over the end
        (dict(seed=2), 19, r"E-v0__A__2__11 was cut off: its last eval/episodic_return is of step 19, not of 20"),
        (dict(seed=2), None, r"E-v0__A__2__11 was cut off: .* is of step 0, not of 20"),
        (dict(seed=2, gamma=0.5), 20, r"E-v0__A__2__11: the study sets gamma = 1, the run logged 0\.5"),
        (dict(seed=2, tau=0.02), 20, r"E-v0__A__2__11 logged tau = 0\.02, .*E-v0__A__1__10 of the same arm 0\.01"),
        (dict(seed=2, alpha=0.2), 20, r"E-v0__A__2__11 logged alpha = 0\.2, .*E-v0__A__1__10 of the same arm nothing"),
    ],
)
def test_plain_runs_must_be_the_studys(tmp_path, settings, last, message):
    """A run of other settings than the study's, or than the other seeds', and one cut off are refused by name."""
    write_run(tmp_path / "E-v0__A__1__10", {STUDY.metric: [(0, 1.0), (20, 2.0)]}, **GOOD)
    write_run(tmp_path / "E-v0__B__1__10", {STUDY.metric: [(0, 1.0), (20, 2.0)]}, **GOOD | dict(tau=0.5))
    evaluations = [] if last is None else [(0, 1.0), (last, 2.0)]
    write_run(tmp_path / "E-v0__A__2__11", {"charts/SPS": [(20, 1.0)], STUDY.metric: evaluations}, **GOOD | settings)
    if message is None:
        assert set(table.read_plain(STUDY, tmp_path)[["arm", "seed"]].itertuples(index=False, name=None)) == {
            ("A", 1), ("A", 2), ("B", 1)
        }  # fmt: skip
        return
    with pytest.raises(ValueError, match=message):
        table.read_plain(STUDY, tmp_path)


def test_what_is_kept_of_a_table_by_hand():
    """Episodes of return 1 and 4 end in (0, 10], one in (10, 20] at its very end, none in (20, 30], one after it."""
    episodes = [(3, 1.0), (10, 4.0), (20, 5.0), (35, 9.0)]
    data = tidy({
        ("A", 1, STUDY.metric): [(0, 7.0), (10, 7.0), (20, 7.0), (30, 7.0)], ("A", 1, table.EPISODIC_RETURN): episodes,
        ("A", 1, "charts/SPS"): [(5, 1.0)], ("A", 1, table.GUIDANCE_ACTIVE): [(0, 1.0)],
        ("A", 2, table.EPISODIC_RETURN): episodes, ("A", 2, table.SUPERVISION_STEPS): [(0, 8.0)],
        ("B", 1, STUDY.metric): [(20, 7.0)], ("B", 1, table.EPISODIC_RETURN): [(2, 2.0), (12, -3.0), (13, 2.0)],
    })  # fmt: skip
    kept = table.committed(data, STUDY)
    rows = kept[["arm", "seed", "tag", "step", "value"]]
    assert rows[rows.tag == table.BEHAVIOUR].to_numpy().tolist() == [
        ["A", 1, table.BEHAVIOUR, 10, 2.5], ["A", 1, table.BEHAVIOUR, 20, 5.0],
        ["B", 1, table.BEHAVIOUR, 20, 0.333333333],
    ]  # fmt: skip
    rest = data[data.tag.isin((STUDY.metric, table.GUIDANCE_ACTIVE, table.SUPERVISION_STEPS))]
    assert kept[kept.tag != table.BEHAVIOUR].to_numpy().tolist() == rest.to_numpy().tolist()
    assert table.committed(data[:0], STUDY).empty


# --- statistics ---
def test_iqm_by_hand():
    """Eight seeds: the mean of the middle four, at each step for itself; equal seeds leave an interval of no width."""
    scores = np.array([[0, 5], [1, 5], [2, 5], [3, 5], [4, 5], [5, 5], [6, 5], [100, 5]], dtype=float)
    estimate = analysis.iqm(scores)
    assert estimate.value.tolist() == [3.5, 5.0]
    assert estimate.low[1] == estimate.high[1] == 5.0
    assert 0 < estimate.low[0] < 3.5 < estimate.high[0] < 100


def test_interval_by_hand():
    """Two seeds, 0 and 1: resampling gives means 0, ½, 1 with ¼, ½, ¼, so the 2.5 and 97.5 % quantiles are 0 and 1."""
    assert [x.tolist() for x in analysis.iqm(np.array([[0.0], [1.0]]))] == [[0.5], [0.0], [1.0]]


def test_bootstrap_is_stratified():
    """Tasks are not mixed: where seeds agree on each of two tasks, no resample differs."""
    scores = np.array([[0.0, 10.0]] * 4)  # (runs, tasks)
    estimate = analysis.interval(scores, lambda sample: np.array([sample.mean()]))
    assert [x.tolist() for x in estimate] == [[5.0], [5.0], [5.0]]


def test_intervals_repeat_and_leave_the_generator_alone():
    scores = np.random.default_rng(0).normal(size=(5, 2))
    np.random.seed(7)
    first, drawn = analysis.iqm(scores), np.random.random()
    np.random.seed(8)
    second = analysis.iqm(scores)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    np.random.seed(7)
    assert np.random.random() == drawn


def test_probability_of_improvement_by_hand():
    """{1, 2, 3} against {0, 2, 4}: of nine pairs four are won, one is a tie, four are lost."""
    estimate = analysis.probability_of_improvement(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0]))
    assert estimate.value.tolist() == [0.5]
    assert 0 <= estimate.low[0] < 0.5 < estimate.high[0] <= 1
    certain = analysis.probability_of_improvement(np.array([5.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert [x.tolist() for x in certain] == [[1.0], [1.0], [1.0]]


def test_steps_to_a_threshold_by_hand():
    """First step at 90, with the supervision before it; a seed that never gets there; a later dip."""
    metric, supervision = STUDY.metric, table.SUPERVISION_STEPS
    data = tidy({
        ("A", 1, metric): [(0, 0.0), (10, 90.0), (20, 50.0), (30, 95.0)], ("A", 1, supervision): [(0, 4.0), (20, 9.0)],
        ("A", 2, metric): [(0, 0.0), (10, 89.9)],
        ("A", 3, metric): [(0, 0.0), (20, 91.0)], ("A", 3, supervision): [(0, 4.0), (20, 9.0)],  # the 9 come after it
        ("A", 4, metric): [(0, 91.0)], ("A", 4, supervision): [(0, 4.0)],
    })  # fmt: skip
    steps = analysis.steps_to(data, "E-v0", "A", metric, 90.0)
    assert steps.tolist() == [[10, 14], [np.inf, np.inf], [20, 24], [0, 0]]


def test_threshold_is_reached_by_its_own_float32():
    """140 successes of 200 are 0.7; an event file holds 0.699999988, a table's nine digits of it."""
    assert analysis.reaches(np.array([0.695, 0.699999988, 0.7, 0.705]), 0.7).tolist() == [False, True, True, True]
    data = tidy({("A", 1, STUDY.metric): [(0, 0.695), (10, 0.699999988)]})
    assert analysis.steps_to(data, "E-v0", "A", STUDY.metric, 0.7).tolist() == [[10, 10]]


def test_curves_keep_the_steps_of_all_seeds():
    data = scored(A=[[1, 2, 3], [4, 5]])
    steps, scores = analysis.curves(data, "E-v0", "A", STUDY.metric)
    assert steps.tolist() == [0, 10] and scores.tolist() == [[1, 2], [4, 5]]


def test_a_curve_that_ends_early_is_said():
    """Seed 2 of A ends at step 10, seed 1 goes on to 20: said of A, not of B, whose seeds are alike."""
    text = analysis.summary(scored(A=[[1, 2, 3], [4, 5]], B=[[1, 2], [4, 5]]), STUDY)
    said = [line for line in text.splitlines() if "the last that all its seeds have" in line]
    assert said == ["A is shown up to step 10, the last that all its seeds have; its longest run goes on to step 20."]


def test_an_evaluation_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"^B on E-v0, seed 2: eval/episodic_return at step 10 is NaN$"):
        analysis.summary(scored(A=[[1, 2], [3, 4]], B=[[1, 2], [3, np.nan]]), STUDY)


def test_one_seed_gives_no_statistic():
    with pytest.raises(ValueError, match=r"A on E-v0 has 1 finished runs .* an interval needs 2 seeds"):
        analysis.curves(scored(A=[[1, 2]]), "E-v0", "A", STUDY.metric)
    text = analysis.summary(scored(A=[[1, 2]], B=[[1, 2], [3, 4]]), STUDY)
    assert "A 1 seeds (missing: 2), B 2 seeds:" in text and "| B |" in text and "| A |" not in text
    assert " over " not in text


def test_an_environment_without_two_seeds_is_not_measured_yet():
    """Its section says so, and that of the other environment is whole."""
    both = dataclasses.replace(STUDY, environments=["E-v0", "F-v0"], thresholds={"F-v0": 3.0})
    data = scored(A=[[1, 2]], B=[[3, 4]])
    other = scored(A=[[1, 2], [3, 4]]).assign(env="F-v0")
    first, second = analysis.summary(pd.concat([data, other]), both).split("## F-v0")
    assert first == (
        "## E-v0\n\n`eval/episodic_return`, A 1 seeds (missing: 2), B 1 seeds (missing: 2):\n\n**not measured yet**\n\n"
    )
    assert "| A | 10 | 3.000 [2.000, 4.000] | 2.000 | 4.000 | 1 of 2 |" in second.splitlines()
    assert "| A | 10 | 10 | 3.000 [2.000, 4.000] |" in second.splitlines()


def test_each_environment_has_its_threshold():
    """90 on the one, none on the other: no column, no table and no line there."""
    both = dataclasses.replace(STUDY, environments=["E-v0", "F-v0"])
    data = scored(A=[[0, 80], [0, 95]])
    data = pd.concat([data, data.assign(env="F-v0")])
    first, second = analysis.summary(data, both).split("## F-v0")
    assert "seeds ≥ 90 |" in first and "First step with" in first and "1 of 2" in first
    assert "≥" not in second and "First step" not in second
    assert [[line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
            for axes in figures.sample_efficiency(data, both).axes] == [[90], []]  # fmt: skip


def behaved(*, guided: float) -> pd.DataFrame:
    """A and B with evaluations at 0, 10, 20, and the behaviour's rows: of A's second seed none at step 10."""
    return pd.concat([
        scored(A=[[0, 10, 20], [0, 10, 20]], B=[[0, 1, 2], [0, 1, 2]]),
        tidy({
            ("A", 1, table.GUIDANCE_ACTIVE): [(0, guided), (10, 0.0)],
            ("A", 1, table.BEHAVIOUR): [(10, 50.0), (20, 60.0)], ("A", 2, table.BEHAVIOUR): [(20, 70.0)],
            ("B", 1, table.BEHAVIOUR): [(10, 5.0), (20, 6.0)], ("B", 2, table.BEHAVIOUR): [(10, 7.0), (20, 8.0)],
        }),
    ])  # fmt: skip


def test_the_behaviours_return_by_hand(monkeypatch):
    """A section and a second row of panels, at the steps that all seeds have; neither where nobody was guided."""
    monkeypatch.setattr(analysis, "REPS", 200)
    text = analysis.summary(behaved(guided=1.0), STUDY)
    section = text.split("Return of the behaviour, guided actions included")[1].split("\n\n")[1]
    assert section.splitlines() == [
        "| arm | step | IQM [95 % interval] |", "|-|-|-|", "| A | 20 | 65.0 [60.0, 70.0] |",
        "| B | 10 | 6.0 [5.0, 7.0] |", "| B | 20 | 7.0 [6.0, 8.0] |",
    ]  # fmt: skip
    above, below = figures.sample_efficiency(behaved(guided=1.0), STUDY).axes
    assert (above.get_ylabel(), below.get_ylabel()) == (STUDY.metric, table.BEHAVIOUR)
    assert {line.get_label(): line.get_xydata().tolist() for line in below.lines} == {
        "A (2 seeds)": [[20, 65]], "B (2 seeds)": [[10, 6], [20, 7]]
    }  # fmt: skip
    assert [line.get_color() for line in below.lines] == ["C0", "C1"]
    assert below.get_title() == "E-v0: training episodes, guided actions included"

    unguided, old = behaved(guided=0.0), behaved(guided=1.0)
    old = old[old.tag != table.BEHAVIOUR]
    for data in (unguided, old):
        assert "Return of the behaviour" not in analysis.summary(data, STUDY)
        assert len(figures.sample_efficiency(data, STUDY).axes) == 1


def test_summary_by_hand():
    text = analysis.summary(scored(A=[[0, 95], [0, 95]], B=[[-0.01, 80], [-0.01, 90]]), STUDY)
    for row in (
        "## E-v0",
        "`eval/episodic_return`, A 2 seeds, B 2 seeds:",
        "| A | 10 | 95.0 [95.0, 95.0] | 95.0 | 95.0 | 2 of 2 |",
        "| B | 0 | 0.0 [0.0, 0.0] | 0.0 | 0.0 | 0 of 2 |",
        "| B | 10 | 85.0 [80.0, 90.0] | 80.0 | 90.0 | 1 of 2 |",
        "| A | 10 | 10 | 10 | 0 of 2 | 10 |",
        "| B | never | 10 | never | 1 of 2 | never |",
        "| A over B | 10 | 1.00 [1.00, 1.00] |",
    ):
        assert row in text.splitlines()


# --- figures ---
def test_guided_intervals_by_hand():
    """Of four seeds, guided in [0, 20), [0, 10) and [20, 30), [10, 20), never: at least two in [0, 20)."""
    active, metric = table.GUIDANCE_ACTIVE, STUDY.metric
    data = tidy({
        ("A", 1, active): [(0, 1.0), (20, 0.0)],
        ("A", 2, active): [(0, 1.0), (10, 0.0), (20, 1.0), (30, 0.0)],
        ("A", 3, active): [(0, 0.0), (10, 1.0), (20, 0.0)],
        **{("A", seed, metric): [(0, 0.0), (40, 0.0)] for seed in (1, 2, 3, 4)},
    })  # fmt: skip
    assert figures.guided_intervals(data, "E-v0", "A") == [(0, 20)]
    assert figures.guided_intervals(data, "E-v0", "B") == []


def test_guidance_that_never_ends_is_drawn_to_the_end():
    data = tidy({("A", 1, table.GUIDANCE_ACTIVE): [(5, 1.0)], ("A", 1, STUDY.metric): [(0, 0.0), (40, 0.0)]})
    assert figures.guided_intervals(data, "E-v0", "A") == [(5, 40)]


def test_curves_drawn_are_the_data(tmp_path):
    """Read back from the figure: the interquartile mean, the interval's edges, the threshold, the guided interval."""
    data = pd.concat([
        scored(A=[[0, 10, 20], [2, 30, 20]], B=[[5, 5, 5], [5, 5, 5]]),
        tidy({("A", seed, table.GUIDANCE_ACTIVE): [(0, 1.0), (10, 0.0)] for seed in (1, 2)}),
    ])  # fmt: skip
    figure = figures.sample_efficiency(data, STUDY)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["A (2 seeds)"] == [[0, 1], [10, 20], [20, 20]]
    assert lines["B (2 seeds)"] == [[0, 5], [10, 5], [20, 5]]
    assert list(axes.lines[-1].get_ydata()) == [90, 90]
    band = {tuple(point) for point in axes.collections[0].get_paths()[0].vertices.tolist()}
    assert band == {(0, 0), (0, 2), (10, 10), (10, 30), (20, 20)}
    (span,) = axes.patches
    assert span.get_label() == "A guided" and (span.get_x(), span.get_width()) == (0, 10)
    assert axes.get_title() == "E-v0" and "QUICK" not in figure.get_suptitle()

    for name in ("one", "two"):
        figures.save(figures.sample_efficiency(data, STUDY), tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_quick_figure_says_so():
    quick = dataclasses.replace(STUDY, quick=True)
    figure = figures.sample_efficiency(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3]]), quick)
    assert figure.get_suptitle().startswith("QUICK LOOK, not a result: 2 seeds, 10 steps")


# --- all together ---
STUDY_FILE = f"""
environments = ["E-v0"]
seeds = [1, 2, 3]
threshold = 90
arms = {{ A = {{ script = "{SCRIPT.name}" }}, B = {{ script = "{SCRIPT.name}", flags = {{ gamma = 0.9 }} }} }}
quick = {{ seeds = [1, 2], flags = {{}} }}
"""


def test_results_from_event_files(monkeypatch, capsys, tmp_path):
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

    assert "| A over B | 50 | 1.00 [1.00, 1.00] |" in results("--plain-runs", "runs")
    made = {path.name: path.read_bytes() for path in Path("runs/quick").iterdir()}
    assert sorted(made) == ["study.csv", "study.md", "study.png", "study.svg"]
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
import sys

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

flags = dict(argument.removeprefix("--").split("=") for argument in sys.argv[1:])
if flags["seed"] == "2" and flags["gamma"] == "0.5":
    sys.exit("the disk is full")
writer = EventFileWriter("runs/x")
for step in (0, 10):
    point = Summary.Value(tag="eval/episodic_return", simple_value=step * float(flags["gamma"]))
    writer.add_event(Event(step=step, wall_time=0.0, summary=Summary(value=[point])))
writer.close()
"""


def test_results_of_a_sweep_in_which_a_run_fails(tmp_path):
    """The failed run is reported, all else is made, a study without any run leaves what was there, the status is 1."""
    (tmp_path / "script.py").write_text(TINY_SCRIPT)
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
    command = [sys.executable, str(ROOT / "benchmark" / "results.py"), "none.toml", "some.toml", "--quick"]
    result = subprocess.run([*command, "--cores", "1"], capture_output=True, text=True, timeout=280)
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[-1] == "results.py: 1 runs failed, the tables are without them"
    assert "  | the disk is full" in result.stdout and "none: not measured yet" in result.stdout.splitlines()
    text = Path("runs/quick/some.md").read_text()
    assert "A 2 seeds, B 1 seeds (missing: 2):" in text and "| A | 10 | 9.000 [9.000, 9.000] |" in text
    assert sorted(path.name for path in Path("runs/quick").iterdir()) == [
        "none.csv", "none.md", "none.png", "some.csv", "some.md", "some.png", "some.svg"
    ]  # fmt: skip
    for kind in ("csv", "md", "png"):
        assert Path(f"runs/quick/none.{kind}").read_text() == "of the last time"


def test_slurm_template_runs_each_environment_and_seed():
    """Filled in as CleanRL's utility does it, the array's tasks are the product of environments and seeds."""
    text = (ROOT / "benchmark" / "cpu.slurm_template").read_text()
    for name, value in dict(array="0-3%2", env_ids="(E-v0 F-v0)", seeds="(5 6)", len_seeds="2", ntasks="1", nodes="",
                            cpus_per_gpu="1", command="python s.py --x 1").items():  # fmt: skip
        assert f"{{{{{name}}}}}" in text
        text = text.replace(f"{{{{{name}}}}}", value)
    assert "{{" not in text
    commands = []
    for task in range(4):
        script = f"srun() {{ echo $OMP_NUM_THREADS $@; }}\nSLURM_ARRAY_TASK_ID={task} SLURM_CPUS_PER_TASK=1\n{text}"
        commands.append(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert commands == [f"1 python s.py --x 1 --env-id {env} --seed {seed}\n" for env in ("E-v0", "F-v0")
                        for seed in (5, 6)]  # fmt: skip


def test_missing_seeds_are_named():
    Path("study.toml").write_text(STUDY_FILE)
    text = analysis.summary(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3], [4, 5]]), load_study(Path("study.toml")))
    assert "A 2 seeds (missing: 3), B 3 seeds:" in text


def test_missing_seeds_are_those_of_the_arm():
    Path("study.toml").write_text(STUDY_FILE.replace("gamma = 0.9 }", "gamma = 0.9 }, seeds = [4, 2]"))
    text = analysis.summary(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3]]), load_study(Path("study.toml")))
    assert "A 2 seeds (missing: 3), B 2 seeds (missing: 4):" in text


def test_overhead_is_measured():
    """The simulation of docs/benchmark.md, with few tasks."""
    command = [sys.executable, str(ROOT / "benchmark" / "overhead.py"), "--tasks", "5", "--starts", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    assert "Ray: 5 no-op tasks: " in result.stdout and "5 runs, 5 of them done before" in result.stdout
