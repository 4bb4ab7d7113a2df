"""benchmark/figures/table.py: tables say what the event files say."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from handmade import STUDY, a_study, rows, tidy, write_run

from benchmark.figures import table


def test_table_of_a_sweep(tmp_path):
    """One row for each scalar, with what the record says; unfinished runs are not in it; written and read again."""
    run = next(run for arm, run in STUDY.runs(1) if arm == "A" and run.seed == 2)
    write_run(tmp_path / run.name / "runs" / "x", {"charts/a": [(0, 1.5), (3, 1 / 3)], "eval/b": [(2, -7.0)]})
    record = {"commit": "c0ffee", "versions": {"python": "3.11", "torch": "2"}, "processor": "A 1"}
    (tmp_path / run.name / "run.json").write_text(json.dumps(record))
    write_run(tmp_path / f"{run.name}.failed" / "runs" / "x", {"charts/a": [(0, 9.0)]})
    found = table.read_sweep(STUDY, tmp_path, threads=1)
    constant = ("study", "A", "guided_sac_continuous.py", "E-v0", 2)
    end = (run.hash, "c0ffee", "python 3.11, torch 2, on A 1")
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
        ("A", 2, table.EPISODIC_RETURN): episodes, ("A", 2, table.GUIDED_STEPS): [(9, 8.0)],
        ("A", 2, table.TRIAL_PASSED): [(9, 0.0)], ("A", 2, table.SAMPLED): [(10, 5.0)],
        ("B", 1, STUDY.metric): [(20, 7.0)], ("B", 1, table.EPISODIC_RETURN): [(2, 2.0), (12, -3.0), (13, 2.0)],
    })  # fmt: skip
    kept = table.committed(data, STUDY)
    rows = kept[["arm", "seed", "tag", "step", "value"]]
    assert rows[rows.tag == table.BEHAVIOUR].to_numpy().tolist() == [
        ["A", 1, table.BEHAVIOUR, 10, 2.5], ["A", 1, table.BEHAVIOUR, 20, 5.0],
        ["B", 1, table.BEHAVIOUR, 20, 0.333333333],
    ]  # fmt: skip
    kinds = STUDY.metric, table.GUIDANCE_ACTIVE, table.GUIDED_STEPS, table.TRIAL_PASSED, table.SAMPLED
    rest = data[data.tag.isin(kinds)]
    assert kept[kept.tag != table.BEHAVIOUR].to_numpy().tolist() == rest.to_numpy().tolist()
    assert table.committed(data[:0], STUDY).empty


@pytest.mark.parametrize("arm", ["1", "1.0", "None", "nan", "true", ""])
def test_an_arms_name_stays_text(tmp_path, arm):
    study = a_study("s", ["E-v0"], [arm])
    written = table.as_table([*rows(study, "E-v0", arm, [1.0, np.nan])])
    table.write_table(written, tmp_path / "t.csv")
    read = table.load_table(tmp_path / "t.csv")
    assert read.arm.tolist() == [arm, arm] and np.isnan(read.value[1])
    pd.testing.assert_frame_equal(read, written)
