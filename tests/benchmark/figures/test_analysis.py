"""benchmark/figures/analysis.py: statistics agree with sums by hand."""

import dataclasses
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from handmade import SCRIPT, STUDY, a_study, rows, scored, tidy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rliable import metrics
from scipy.stats import trim_mean

from benchmark.figures import analysis, drawing, table
from benchmark.figures.analysis import Curves
from benchmark.sweeps.studies import Arm


def test_iqm_by_hand():
    """Eight seeds: the mean of the middle four, at each step for itself; equal seeds leave an interval of no width."""
    scores = np.array([[0, 5], [1, 5], [2, 5], [3, 5], [4, 5], [5, 5], [6, 5], [100, 5]], dtype=float)
    estimate = analysis.iqm(scores)
    assert estimate.value.tolist() == [3.5, 5.0]
    assert estimate.low[1] == estimate.high[1] == 5.0
    assert 0 < estimate.low[0] < 3.5 < estimate.high[0] < 100


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(2, 11).flatmap(lambda seeds: arrays(float, (seeds, 3), elements=st.floats(-1e6, 1e6))))
def test_iqm_is_scipys_trimmed_mean(scores):
    with mock.patch.object(analysis, "REPS", 2):
        assert analysis.iqm(scores).value.tolist() == trim_mean(scores, 0.25).tolist()


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


@settings(max_examples=50, deadline=None, derandomize=True)
@given(arrays(float, (3, 4), elements=st.integers(-2, 2)), arrays(float, (5, 4), elements=st.integers(-2, 2)))
def test_probability_of_improvement_is_rliables(scores, others):
    """Small integers, so that ties are many; rliable takes one task's scores (runs, tasks) at a time."""
    with mock.patch.object(analysis, "REPS", 2):
        value = analysis.probability_of_improvement(scores, others).value
    theirs = [metrics.probability_of_improvement(scores[:, [i]], others[:, [i]]) for i in range(4)]
    assert value.tolist() == pytest.approx(theirs, abs=1e-12)


def test_first_steps_at_a_threshold_by_hand():
    """First step at 90; a seed that never gets there, one that dips later, one that has it before training."""
    metric = STUDY.metric
    data = tidy({
        ("A", 1, metric): [(0, 0.0), (10, 90.0), (20, 50.0), (30, 95.0)], ("A", 2, metric): [(0, 0.0), (10, 89.9)],
        ("A", 3, metric): [(0, 0.0), (20, 91.0)], ("A", 4, metric): [(0, 91.0)], ("B", 1, metric): [(5, 99.0)],
    })  # fmt: skip
    assert analysis.first_steps(data, "E-v0", "A", metric, 90.0).tolist() == [10, np.inf, 20, 0]


def test_threshold_is_reached_by_its_own_float32():
    """140 successes of 200 are 0.7; an event file holds 0.699999988, a table's nine digits of it."""
    assert analysis.reaches(np.array([0.695, 0.699999988, 0.7, 0.705]), 0.7).tolist() == [False, True, True, True]
    data = tidy({("A", 1, STUDY.metric): [(0, 0.695), (10, 0.699999988)]})
    assert analysis.first_steps(data, "E-v0", "A", STUDY.metric, 0.7).tolist() == [10]


@pytest.mark.usefixtures("few_samples")
def test_who_reaches_and_holds_the_threshold_by_hand():
    """Of A's four seeds three get there, by 10, 10 and 20, and two hold it; of B's two one, so its median is never."""
    data = scored(A=[[0, 90, 95], [0, 91, 80], [0, 0, 99], [0, 0, 0]], B=[[0, 0, 0], [0, 90, 90]])
    text = analysis.summary(data, dataclasses.replace(STUDY, seeds=[1, 2, 3, 4]))
    section = text.split("First step with `eval/episodic_return` ≥ 90:")[1].split("\n\n")[1]
    assert section.splitlines() == [
        "| arm | reach it | median | seeds by step | hold it at step |", "|-|-|-|-|-|",
        "| A | 3 of 4 | 15 | 2 by 10, 3 by 20 | 20: 2 of 4 |", "| B | 1 of 2 | never | 1 by 10 | 20: 1 of 2 |",
    ]  # fmt: skip


def test_the_mean_of_the_last_three_evaluations_by_hand():
    """Of those after step 0: (1 + 2 + 6) / 3; with two of them their mean; without any none."""
    curve = Curves(np.array([0, 10, 20, 30, 40]), np.array([[9.0, 9.0, 1.0, 2.0, 6.0], [0.0, 0.0, 3.0, 3.0, 3.0]]))
    assert analysis.last_mean(curve).tolist() == [3.0, 3.0]
    assert analysis.last_mean(Curves(curve.steps[:3], curve.scores[:, :3])).tolist() == [5.0, 1.5]


@pytest.mark.usefixtures("few_samples")
def test_arms_are_compared_over_the_steps_that_both_have():
    """By hand: at step 20 A loses to B, in the mean of the last three it wins, and its area lies above; beyond step 20
    only A has evaluations, which do not count."""
    a = Curves(np.array([0, 5, 10, 15, 20, 30]), np.array([[0.0, 7, 9, 9, 1, -99], [0.0, 7, 8, 9, 1, -99]]))
    b = Curves(np.array([0, 10, 15, 20]), np.array([[0.0, 2, 2, 2], [0.0, 3, 2, 2]]))
    assert analysis.compared(a, b) == ("20", "0.00 [0.00, 0.00]", "1.00 [1.00, 1.00]", "above")
    assert analysis.compared(b, a) == ("20", "1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]", "below")
    same = Curves(b.steps, b.scores + 0.1)
    assert analysis.compared(b, same)[3] == "overlap"
    untrained = Curves(np.array([0]), np.zeros((2, 1)))
    assert analysis.compared(untrained, a) == ("0", "", "", "")


@pytest.mark.usefixtures("few_samples")
def test_what_a_rule_was_allowed_by_hand():
    """Seed 1: ended at its second look, after 40 guided steps, and once more; seed 2: never; plain SAC has no rule."""
    steps, passed = table.GUIDED_STEPS, table.TRIAL_PASSED
    data = tidy({
        ("A", 1, steps): [(20, 10.0), (50, 40.0), (90, 60.0), (100, 60.0)],
        ("A", 1, passed): [(20, 1.0), (50, 0.0), (90, 0.0)],
        ("A", 2, steps): [(30, 15.0), (100, 80.0)], ("A", 2, passed): [(30, 1.0)],
        ("B", 1, STUDY.metric): [(0, 1.0)],
    })  # fmt: skip
    assert [values.tolist() for values in analysis.guided(data, "E-v0", "A")][:2] == [[60, 80], [2, 0]]
    assert analysis.guided(data, "E-v0", "A").before.tolist()[0] == 40 and np.isnan(
        analysis.guided(data, "E-v0", "A").before[1]
    )
    text = analysis.summary(pd.concat([data, scored(A=[[0, 1], [0, 2]], B=[[0, 1], [0, 1]])]), STUDY)
    section = text.split("What the rules were allowed, median [lowest, highest] over the seeds:\n\n")[1]
    assert section.split("\n\n")[0].splitlines() == [
        "| arm | guided steps | ended by a trial | guided steps before |", "|-|-|-|-|",
        "| A | 70 [60, 80] | in 1 of 2 seeds, 2 times | 40 [40, 40] |",
    ]  # fmt: skip
    unguided = scored(A=[[0, 1], [0, 2]], B=[[0, 1], [0, 1]])
    assert "What the rules were allowed" not in analysis.summary(unguided, STUDY)


@pytest.mark.usefixtures("few_samples")
def test_sampled_evaluations_have_a_section_where_there_are_any():
    data = scored(A=[[0, 1], [0, 2]], B=[[0, 1], [0, 1]])
    sampled = tidy({("A", seed, table.SAMPLED): [(0, 4.0), (10, 6.0 + 2 * seed)] for seed in (1, 2)})
    text = analysis.summary(pd.concat([data, sampled]), STUDY)
    section = text.split("Return of sampled actions, from the same starts:\n\n")[1].split("\n\n")[0]
    assert section.splitlines()[2:] == ["| A | 0 | 4.000 [4.000, 4.000] |", "| A | 10 | 9.000 [8.000, 10.000] |"]
    assert "sampled" not in analysis.summary(data, STUDY)


def test_the_origin_tells_what_was_kept():
    """By hand: A's own runs, and B's of another commit, whose seeds 1 and 2 were run again."""
    data = scored(A=[[0], [1]], B=[[0], [1]]).assign(commit="new", versions="torch 2")
    old = data.arm == "B"
    data.loc[old, ["commit", "versions"]] = ["old", f"torch 1{table.KEPT}seeds 1, 2 are the same at new"]
    assert analysis.origin(data) == (
        "Runs of commit new, with torch 2. Kept from the table of before: B, of commit old, with torch 1; "
        "seeds 1, 2 are the same at new."
    )


def test_curves_keep_the_steps_of_all_seeds():
    data = scored(A=[[1, 2, 3], [4, 5]])
    steps, scores = analysis.curves(data, "E-v0", "A", STUDY.metric)
    assert steps.tolist() == [0, 10] and scores.tolist() == [[1, 2], [4, 5]]


@pytest.mark.usefixtures("few_samples")
def test_a_curve_that_ends_early_is_said():
    """Seed 2 of A ends at step 10, seed 1 goes on to 20: said of A, not of B, whose seeds are alike."""
    text = analysis.summary(scored(A=[[1, 2, 3], [4, 5]], B=[[1, 2], [4, 5]]), STUDY)
    said = [line for line in text.splitlines() if "the last that all its seeds have" in line]
    assert said == ["A is shown up to step 10, the last that all its seeds have; its longest run goes on to step 20."]


def test_seeds_without_a_common_step_are_refused():
    """Such as a training episode's return, which each seed has at steps of its own."""
    apart = tidy({("A", 1, STUDY.metric): [(10, 1.0)], ("A", 2, STUDY.metric): [(20, 1.0)]})
    with pytest.raises(ValueError, match=r"^A on E-v0: no step at which all 2 seeds have eval/episodic_return; "):
        analysis.curves(apart, "E-v0", "A", STUDY.metric)


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
    both = dataclasses.replace(STUDY, environments=["E-v0", "F-v0"], thresholds={"F-v0": (3.0,)})
    data = scored(A=[[1, 2]], B=[[3, 4]])
    other = scored(A=[[1, 2], [3, 4]]).assign(env="F-v0")
    first, second = analysis.summary(pd.concat([data, other]), both).split("## F-v0")
    assert first == (
        "## E-v0\n\n`eval/episodic_return`, A 1 seeds (missing: 2), B 1 seeds (missing: 2):\n\n**not measured yet**\n\n"
    )
    assert "| A | 10 | 3.000 [2.000, 4.000] | 2.000 | 4.000 | 1 of 2 |" in second.splitlines()
    assert "| A | 10 | 10 | 3.000 [2.000, 4.000] | 3.000 [2.000, 4.000] |" in second.splitlines()


@pytest.mark.usefixtures("few_samples")
def test_each_environment_has_its_threshold():
    """90 on the one, none on the other: no column, no table and no line there."""
    both = dataclasses.replace(STUDY, environments=["E-v0", "F-v0"])
    data = scored(A=[[0, 80], [0, 95]])
    data = pd.concat([data, data.assign(env="F-v0")])
    first, second = analysis.summary(data, both).split("## F-v0")
    assert "seeds ≥ 90 |" in first and "First step with" in first and "1 of 2" in first
    assert "≥" not in second and "First step" not in second
    assert [[line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
            for axes in drawing.sample_efficiency(data, both).axes] == [[90], []]  # fmt: skip


def test_several_thresholds_have_a_column_and_a_table_each():
    both = dataclasses.replace(STUDY, thresholds={"E-v0": (1.0, 90.0)})
    data = scored(A=[[0, 80], [0, 95]])
    text = analysis.summary(data, both)
    assert "| highest | seeds ≥ 1 | seeds ≥ 90 |" in text and "| 95.0 | 2 of 2 | 1 of 2 |" in text
    assert "≥ 1:" in text and "≥ 90:" in text
    (axes,) = drawing.sample_efficiency(data, both).axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [1, 90]


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


@pytest.mark.usefixtures("few_samples")
def test_the_behaviours_return_by_hand():
    """A section and a second column of panels, at the steps that all seeds have; neither where nobody was guided."""
    text = analysis.summary(behaved(guided=1.0), STUDY)
    section = text.split("Return of the behaviour, guided actions included")[1].split("\n\n")[1]
    assert section.splitlines() == [
        "| arm | step | IQM [95 % interval] |", "|-|-|-|", "| A | 20 | 65.0 [60.0, 70.0] |",
        "| B | 10 | 6.0 [5.0, 7.0] |", "| B | 20 | 7.0 [6.0, 8.0] |",
    ]  # fmt: skip
    greedy, training = drawing.sample_efficiency(behaved(guided=1.0), STUDY).axes
    assert greedy.get_ylabel() == "greedy return"
    assert training.get_ylabel() == "training return,\nguided actions included"
    assert {line.get_label(): line.get_xydata().tolist() for line in training.lines} == {
        "A (2 seeds)": [[20, 65]], "B (2 seeds)": [[10, 6], [20, 7]]
    }  # fmt: skip
    assert [line.get_color() for line in training.lines] == [line.get_color() for line in greedy.lines[:2]]
    assert training.get_title() == greedy.get_title() == "E-v0"

    unguided, old = behaved(guided=0.0), behaved(guided=1.0)
    old = old[old.tag != table.BEHAVIOUR]
    for data in (unguided, old):
        assert "Return of the behaviour" not in analysis.summary(data, STUDY)
        assert len(drawing.sample_efficiency(data, STUDY).axes) == 1


def test_summary_by_hand():
    text = analysis.summary(scored(A=[[0, 95], [0, 95]], B=[[-0.01, 80], [-0.01, 90]]), STUDY)
    for row in (
        "## E-v0",
        "`eval/episodic_return`, A 2 seeds, B 2 seeds:",
        "| A | 10 | 95.0 [95.0, 95.0] | 95.0 | 95.0 | 2 of 2 |",
        "| B | 0 | 0.0 [0.0, 0.0] | 0.0 | 0.0 | 0 of 2 |",
        "| B | 10 | 85.0 [80.0, 90.0] | 80.0 | 90.0 | 1 of 2 |",
        "| A | 2 of 2 | 10 | 2 by 10 | 10: 2 of 2 |",
        "| B | 1 of 2 | never | 1 by 10 | 10: 1 of 2 |",
        "| B | 10 | 10 | 85.0 [80.0, 90.0] | 85.0 [80.0, 90.0] |",
        "| A over B | 10 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | above |",
    ):
        assert row in text.splitlines()


def test_area_under_the_curve_by_hand():
    """0 → 10 in 10 steps, then 10 for 30: (50 + 300) / 40 = 8.75; up to step 20 it is 5; a constant is its own area.

    What stands at step 0, before any training, counts for nothing.
    """
    curve = Curves(np.array([0, 10, 20, 50]), np.array([[-2e4, 0.0, 10.0, 10.0], [9.0, -3.0, -3.0, -3.0]]))
    assert analysis.area(curve).tolist() == [8.75, -3.0]
    assert analysis.area(curve, end=20).tolist() == [5.0, -3.0]
    assert analysis.area(curve, end=10).tolist() == [0.0, -3.0]  # a single evaluation
    assert analysis.area(curve, begin=20, end=50).tolist() == [10.0, -3.0]
    assert np.isnan(analysis.area(curve, end=0)).tolist() == [True, True]
    later = Curves(curve.steps[1:], curve.scores[:, 1:])  # never evaluated before training
    assert analysis.area(later).tolist() == [8.75, -3.0]


@pytest.mark.usefixtures("few_samples")
def test_the_summary_of_a_grid_is_short():
    """Of a grid's arms the last step and the area; compared with what is no point of the grid, not with each other."""
    arms = {"A x=1": Arm(SCRIPT, {}, {"x": 1}), "A x=2": Arm(SCRIPT, {}, {"x": 2}), "SAC": Arm(SCRIPT, {})}
    study = a_study("s", ["E-v0"], arms)
    data = table.as_table(row for i, arm in enumerate(arms) for row in rows(study, "E-v0", arm, [0, i], [0, i]))
    text = analysis.summary(data, study).splitlines()
    assert [line.split(" | ")[:2] for line in text if line.startswith("| A x=2 |")] == [["| A x=2", "10"],
                                                                                      ["| A x=2", "10"]]  # fmt: skip
    assert "| A x=2 | 10 | 10 | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |" in text
    assert "| SAC | 0 | 0.000 [0.000, 0.000] |" in " ".join(text)
    assert [line.split(" | ")[0] for line in text if " over " in line] == ["| A x=1 over SAC", "| A x=2 over SAC"]
