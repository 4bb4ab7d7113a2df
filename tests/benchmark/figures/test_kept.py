"""benchmark/figures/kept.py: rows of the table of the last time, and why they may not be taken."""

import dataclasses

import numpy as np
import pytest
from handmade import SCRIPT, STUDY, a_study, scored, tidy

from benchmark.figures import kept, table
from benchmark.sweeps.studies import Arm

THREE = dataclasses.replace(STUDY, seeds=[1, 2, 3])


def made(commit: str, versions: str = "torch 2", **arms: list[list[float]]):
    return scored(**arms).assign(commit=commit, versions=versions)


BEFORE = made("old", A=[[0, 1], [0, 2], [0, 3]], B=[[0, 9], [0, 9], [0, 9]])


def test_an_arm_with_the_same_digits_is_kept():
    """A's third seed comes from before, all its rows with their commit; B is what was run now."""
    now = made("new", A=[[0, 1], [0, 2]], B=[[5, 6], [5, 7], [5, 8]])
    found = kept.with_kept(now, BEFORE, THREE, ["A"])
    assert found[found.arm == "A"].drop(columns="versions").equals(BEFORE[BEFORE.arm == "A"].drop(columns="versions"))
    assert set(found[found.arm == "A"].versions) == {"torch 2; kept: seeds 1, 2 are the same at new"}
    assert found[found.arm == "B"].reset_index(drop=True).equals(now[now.arm == "B"].reset_index(drop=True))
    later = made("newer", A=[[0, 1], [0, 2]], B=[[5, 6], [5, 7], [5, 8]])
    again = kept.with_kept(later, found, THREE, ["A"])  # kept twice: of the first commit still, with the last mark
    assert set(again[again.arm == "A"].versions) == {"torch 2; kept: seeds 1, 2 are the same at newer"}
    assert set(again[again.arm == "A"].commit) == {"old"}


def test_what_was_not_logged_before_is_no_difference_and_what_is_not_logged_now_is_left_out():
    then = table.as_table([
        *BEFORE.itertuples(index=False, name=None),
        *tidy({("A", 3, "charts/supervision_steps"): [(0, 7.0)]}).itertuples(index=False, name=None),
    ])  # fmt: skip
    now = table.as_table([
        *made("new", A=[[0, 1], [0, 2]]).itertuples(index=False, name=None),
        *tidy({("A", 1, table.BEHAVIOUR): [(10, 5.0)]}).itertuples(index=False, name=None),
    ])  # fmt: skip
    found = kept.with_kept(now, then, THREE, ["A"])
    assert set(found.tag) == {STUDY.metric} and set(found.seed) == {1, 2, 3}


def test_guidance_is_compared_by_its_changes():
    """On from 0 to 20, however often that is logged, is the same; on to 30 is not."""

    def guided(*points: tuple[int, float]):
        return tidy({("A", 1, table.GUIDANCE_ACTIVE): points})

    then = guided((0, 1.0), (10, 1.0), (20, 0.0))
    assert kept.differs(guided((0, 1.0), (19, 1.0), (20, 0.0), (30, 0.0)), then) == ""
    assert kept.differs(guided((0, 1.0), (30, 0.0)), then) == "charts/guidance_active at step 20 is nothing, before 0"


@pytest.mark.parametrize(
    ("now", "before", "message"),
    [
        (dict(A=[[0, 1], [0, np.nextafter(np.float32(2), np.float32(3))]]), BEFORE,
         r"^study: A on E-v0, seed 2, cannot be kept: eval/episodic_return at step 10 is 2\.00000024, before 2$"),
        (dict(A=[[0, 1], [0, 2, 2]]), BEFORE, r"seed 2, .*: eval/episodic_return at step 20 is 2, before nothing$"),
        (dict(A=[[0, 1], [0]]), BEFORE, r"seed 2, .*: eval/episodic_return at step 10 is nothing, before 2$"),
        (dict(A=[[0, 1]]), BEFORE, "^study: A on E-v0 cannot be kept: 2 seeds are to be run again, 1 were$"),
        (dict(A=[[0, 1], [0, 2]]), BEFORE[BEFORE.seed < 2], "A on E-v0 cannot be kept: its table lacks seed 2, 3$"),
        (dict(A=[[0, 1], [0, 2]]), BEFORE[:0], "A on E-v0 cannot be kept: its table lacks seed 1, 2, 3$"),
    ],
)  # fmt: skip
def test_an_arm_that_cannot_be_kept_is_refused_with_its_reason(now, before, message):
    with pytest.raises(ValueError, match=message):
        kept.with_kept(made("new", **now), before, THREE, ["A"])


def test_two_seeds_of_a_kept_arm_are_run_again():
    study = a_study("s", ["E-v0"], ["A", "B"], seeds=[4, 5, 6])
    by_arm = {("A" if run.flags else "B", run.seed) for run in kept.runs(_flagged(study), 1, ["A"])}
    assert by_arm == {("A", 4), ("A", 5), ("B", 4), ("B", 5), ("B", 6)}
    assert [run.seed for run in kept.runs(study, 1, ["A"], only_again=True)] == [4, 5]


def _flagged(study):
    return dataclasses.replace(study, arms={"A": Arm(SCRIPT, {"gamma": 0.5}), "B": Arm(SCRIPT, {})})


def test_a_grid_is_kept_by_its_arms_name():
    arms = {"A x=1": Arm(SCRIPT, {}, {"x": 1}), "A x=2": Arm(SCRIPT, {}, {"x": 2}), "A plus": Arm(SCRIPT, {})}
    study = a_study("s", ["E-v0"], arms)
    assert kept.arms_of(study, ["A"]) == ["A x=1", "A x=2"]
    assert kept.arms_of(study, ["A x=2", "A plus"]) == ["A x=2", "A plus"]
    assert kept.arms_of(study, ["A", "A x=2"]) == ["A x=1", "A x=2"]  # each once
    assert kept.arms_of(study, ["C"]) == []
