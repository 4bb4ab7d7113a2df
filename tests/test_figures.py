"""The paper's figures show their data (read back from the artists), and what they are made of agrees with hand work."""

import dataclasses
import functools
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import analysis
import figures
import gymnasium as gym
import models
import numpy as np
import pandas as pd
import paper
import pytest
import results
import sweep
import table
import tyro
from analysis import Curves
from audition_effect import effect
from conftest import ROOT, scalars
from figures import NOT_MEASURED, PHASES
from models import Gait, Landscape
from sweep import Arm, Run, Study

import llm_supervisor as sup

SCRIPT = ROOT / "guided_sac_continuous.py"
METRIC = "eval/episodic_return"


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch):
    """Of two seeds even 200 bootstrap samples hold each extreme in a quarter, so the intervals stay what they are."""
    monkeypatch.setattr(analysis, "REPS", 200)


def a_study(name: str, environments: list[str], arms: dict[str, Arm] | list[str], **changes) -> Study:
    arms = arms if isinstance(arms, dict) else {arm: Arm(SCRIPT, {}) for arm in arms}
    values = dict(metric=METRIC, thresholds={}, quick=False, seeds=[1, 2]) | changes
    return Study(name, environments, values.pop("seeds"), arms, **values)


def rows(study: Study, env: str, arm: str, *seeds: list[float], tag: str = METRIC) -> list[tuple]:
    """The rows of seeds 1, 2, … with values at steps 0, 10, 20, …"""
    return [(study.name, arm, "s.py", env, seed, 10 * i, tag, value, "", "c0ffee", "torch 2")
            for seed, values in enumerate(seeds, start=1) for i, value in enumerate(values)]  # fmt: skip


def lines(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}


# --- statistics ---
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


def test_the_summary_of_a_grid_is_short():
    """Of a grid's arms the last step and the area; compared with what is no point of the grid, not with each other."""
    arms = {"A x=1": Arm(SCRIPT, {}, {"x": 1}), "A x=2": Arm(SCRIPT, {}, {"x": 2}), "SAC": Arm(SCRIPT, {})}
    study = a_study("s", ["E-v0"], arms)
    data = table.as_table(row for i, arm in enumerate(arms) for row in rows(study, "E-v0", arm, [0, i], [0, i]))
    text = analysis.summary(data, study).splitlines()
    assert [line.split(" | ")[:2] for line in text if line.startswith("| A x=2 |")] == [["| A x=2", "10"],
                                                                                      ["| A x=2", "10"]]  # fmt: skip
    assert "| A x=2 | 10 | 10 | 1.000 [1.000, 1.000] |" in text
    assert "| SAC | 0 | 0.000 [0.000, 0.000] |" in " ".join(text)
    assert [line.split(" | ")[0] for line in text if " over " in line] == ["| A x=1 over SAC", "| A x=2 over SAC"]


@pytest.mark.parametrize("arm", ["1", "1.0", "None", "nan", "true", ""])
def test_an_arms_name_stays_text(tmp_path, arm):
    study = a_study("s", ["E-v0"], [arm])
    written = table.as_table([*rows(study, "E-v0", arm, [1.0, np.nan])])
    table.write_table(written, tmp_path / "t.csv")
    read = table.load_table(tmp_path / "t.csv")
    assert read.arm.tolist() == [arm, arm] and np.isnan(read.value[1])
    pd.testing.assert_frame_equal(read, written)


# --- figures 3 and 4 ---
def toy_text(quick: bool = False) -> list[figures.Part]:
    """FrozenLake with guidance, a second study with RND and another SAC, and a first seed of E3B."""
    first = a_study(
        "first", ["FrozenLake-v1"], ["GuidedSAC", "SAC", "as printed"], thresholds={"FrozenLake-v1": 0.7}, quick=quick
    )
    second = a_study("second", ["FrozenLake-v1", "Taxi-v4"], ["SAC", "RND", "E3B"], quick=quick)
    lake = "FrozenLake-v1"
    first_rows = [
        *rows(first, lake, "GuidedSAC", [0, 1, 1], [0, 0, 1]),
        *rows(first, lake, "GuidedSAC", [1, 0], [1, 0], tag=table.GUIDANCE_ACTIVE),
        *rows(first, lake, "SAC", [0, 0], [0, 0.5]),
        *rows(first, lake, "as printed", [0, 0], [0, 0]),
    ]
    second_rows = [
        *rows(second, lake, "SAC", [9, 9], [9, 9]),
        *rows(second, lake, "RND", [0, 0.25], [0, 0.75]),
        *rows(second, lake, "E3B", [0, 0]),
        *rows(second, "Taxi-v4", "SAC", [-200, 8], [-100, 6]),
    ]
    return [(table.as_table(first_rows), first), (table.as_table(second_rows), second)]


def test_figure_3_shows_each_arm_of_the_first_study_that_has_it():
    figure = figures.figure_3(toy_text())
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert figure.get_suptitle() == figures.ESTIMATE
    assert list(panels) == ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1"]
    assert lines(panels["FrozenLake-v1"]) == {
        "SAC (2 seeds)": [[0, 0], [10, 0.25]],
        "RND (2 seeds)": [[0, 0], [10, 0.5]],
        "GuidedSAC (2 seeds)": [[0, 0], [10, 0.5], [20, 1]],
        "threshold 0.7": [[0, 0.7], [1, 0.7]],  # from the left edge to the right one
    }
    styles = {line.get_label(): line.get_linestyle() for line in panels["FrozenLake-v1"].lines}
    assert len(set(styles.values()) - {":"}) == 3  # seen also where they coincide
    (span,) = panels["FrozenLake-v1"].patches
    assert span.get_label() == "GuidedSAC guided" and (span.get_x(), span.get_width()) == (0, 10)
    assert panels["FrozenLake-v1"].lines[-1].get_ydata() == [0.7, 0.7]
    assert lines(panels["Taxi-v4"]) == {"SAC (2 seeds)": [[0, -150], [10, 7]]}
    for name in ("CliffWalking-v1", "Blackjack-v1"):
        assert not panels[name].lines and [text.get_text() for text in panels[name].texts] == [NOT_MEASURED]
    assert not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends  # one for all panels, nothing twice
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["SAC (2 seeds)", "RND (2 seeds)", "GuidedSAC (2 seeds)", "GuidedSAC guided", "threshold 0.7"]


def test_table_of_figure_3_by_hand():
    """Areas up to the step that all measured arms have, and a row for what is missing.

    At step 10 GuidedSAC's seeds have 0 and 1 and SAC's 0 and ½: of the four pairs two are won and one is a tie, 0.625.
    """
    pictures, text = paper.figure(3, toy_text(), None)
    assert list(pictures) == ["figure_3"]
    for row in (
        "| FrozenLake-v1 | SAC | 2 | 10 | 0.250 [0.000, 0.500] | 10 to 10 | 0.250 [0.000, 0.500] | 10 | "
        "0.62 [0.00, 1.00] | first |",
        "| FrozenLake-v1 | GuidedSAC | 2 | 20 | 1.000 [1.000, 1.000] | 10 to 10 | 0.500 [0.000, 1.000] |  |  | first |",
        "| FrozenLake-v1 | E3B | not measured yet |  |  |  |  |  |  |  |",
        "| Taxi-v4 | SAC | 2 | 10 | 7.0 [6.0, 8.0] | 10 to 10 | 7.0 [6.0, 8.0] |  |  | second |",
        "| Blackjack-v1 | GuidedSAC | not measured yet |  |  |  |  |  |  |  |",
        "- [first](../benchmark/results/first.md): Runs of commit c0ffee, with torch 2.",
    ):
        assert row in text.splitlines()


def test_areas_are_compared_over_the_steps_that_all_have():
    """Evaluated at 10 and 20, and at 20 alone: from 20 to 20."""
    car = "MountainCarContinuous-v0"
    study = a_study("car", [car], ["SAC", "GuidedSAC"])
    rare = [row for row in rows(study, car, "SAC", [0, 1, 3], [0, 1, 3]) if row[5] != 10]
    data = table.as_table([*rows(study, car, "GuidedSAC", [0, 2, 4], [0, 2, 4]), *rare])
    _, text = paper.figure(4, [(data, study)], None)
    assert "| GuidedSAC | 2 | 20 | 4.000 [4.000, 4.000] | 20 to 20 | 4.000 [4.000, 4.000] |" in text
    assert "| SAC | 2 | 20 | 3.000 [3.000, 3.000] | 20 to 20 | 3.000 [3.000, 3.000] | 20 | 1.00 [1.00, 1.00] |" in text


def test_figure_4_marks_its_steps_and_leaves_out_what_is_not_measured():
    car, robot = "MountainCarContinuous-v0", "Humanoid-v5"
    study = a_study("car", [car], ["SAC", "RND", "ICM"])
    data = table.as_table(row for arm in study.arms for row in rows(study, car, arm, [0, 5], [0, 7]))
    empty = table.as_table([]), a_study("robot", [robot], ["SAC", "RND", "GuidedSAC"])
    pictures, text = paper.figure(4, [(data, study), empty], None)
    assert list(pictures) == ["figure_4a"] and lines(pictures["figure_4a"].axes[0]) == {
        "SAC (2 seeds)": [[0, 0], [10, 6]], "RND (2 seeds)": [[0, 0], [10, 6]],
    }  # fmt: skip
    assert "**Humanoid-v5: not measured yet.**" in text.splitlines()
    robots = table.as_table(rows(empty[1], robot, "GuidedSAC", [50, 60, 70], [50, 60, 90]))
    longer = table.as_table(rows(study, car, "SAC", [0] * 9, [0] * 9))  # than the steps of the panel
    figure = figures.figure_4b([(longer, study), (robots, empty[1])])
    assert lines(figure.axes[0]) == {"GuidedSAC (2 seeds)": [[0, 50], [10, 60], [20, 80]]}
    assert figure.get_suptitle().startswith("20 steps, where the paper guides for 900,000")
    quick = [
        (longer, dataclasses.replace(study, quick=True)),
        (robots, dataclasses.replace(empty[1], quick=True, seeds=[1])),
    ]
    assert figures.figure_4b(quick).get_suptitle().startswith("QUICK LOOK, not a result: 1 seeds, 20 steps\n20 steps")


# --- figure 7 ---
def timing_study(quick: bool = False, duration_first: bool = False) -> figures.Part:
    """Starts 0 and 100, durations 5 and 7; the curve ends at 4 · (start + duration); one cell has one seed only."""
    points = [{"guide-start": t, "guide-duration": d} for t in (100, 0) for d in (7, 5)]
    if duration_first:
        points = [dict(reversed(point.items())) for point in points]
    arms = {f"A {t}": Arm(SCRIPT, {}, t) for t in points} | {"SAC": Arm(SCRIPT, {})}
    study = a_study("timing", ["E-v0"], arms, quick=quick)
    ends = {name: 4.0 * sum(arm.point.values()) for name, arm in arms.items()}
    data = [row for name, end in ends.items() for row in rows(study, "E-v0", name, [99, 0, end], [99, 0, end + 2])]
    missing = f"A {points[0]}"  # start 100, duration 7
    return table.as_table(row for row in data if row[1] != missing or row[4] == 1), study


def test_figure_7_is_its_grid():
    figure = figures.figure_7(*timing_study())
    final, area = figure.axes[:2]
    assert (final.get_title(), area.get_title()) == ("final return", "area under the curve")
    (image,) = final.images
    assert np.array_equal(image.get_array().filled(np.nan), [[21, 421], [29, np.nan]], equal_nan=True)
    (image,) = area.images
    assert np.array_equal(image.get_array().filled(np.nan), [[10.5, 210.5], [14.5, np.nan]], equal_nan=True)
    assert [label.get_text() for label in final.get_xticklabels()] == ["0", "100"]
    assert [label.get_text() for label in final.get_yticklabels()] == ["5", "7"]
    cells = {text.get_position(): text.get_text() for text in final.texts}
    assert cells == {(0, 0): "21.0\n[20.0, 22.0]", (1, 0): "421.0\n[420.0, 422.0]", (0, 1): "29.0\n[28.0, 30.0]"}


@pytest.mark.parametrize("duration_first", [False, True])  # in the study's file
def test_margins_of_figure_7_are_stratified(duration_first):
    """Of both cells at start 0, seeds {20, 22} and {28, 30}: the middle half of the four is {22, 28}."""
    _, text = paper.figure(7, [timing_study(duration_first=duration_first)], None)
    found = text.splitlines()
    assert found[0].startswith("| guide-start |")
    assert [line.split(" | ")[0] for line in found[2:4]] == ["| 0", "| 100"]
    assert "| 0 | 2 | 25.0 [24.0, 26.0] | 12.5 [12.0, 13.0] |" in found
    assert any(line.startswith("| 100 | 1 | 421.0 [420.0, 422.0] |") for line in found)


# --- figure 5 ---
def a_landscape(step: int, actions: list[list[float]]) -> Landscape:
    path = np.array([[-0.5, 0.0], [-0.4, 0.05], [0.1 * step, 0.02]])
    return Landscape(step, np.array([-1.0, 0.0, 0.5]), np.array([-0.07, 0.0, 0.07]), np.array(actions), path, -0.04)


def test_figure_5_is_its_landscapes():
    """A row for each seed, a column for each phase: the actions and the path as they were given."""
    actions = np.linspace(-0.9, 0.9, 9).reshape(3, 3)
    given = {seed: [a_landscape(step, actions / (seed + step)) for step in (1, 2, 3, 4)] for seed in (1, 2)}
    study = a_study("policy_landscape", ["MountainCarContinuous-v0"], ["A"], quick=True)
    figure = figures.figure_5(given, (table.as_table(rows(study, "E", "A", [0, 0])), study))
    for axes, (seed, i) in zip(figure.axes, [(seed, i) for seed in given for i in range(4)], strict=False):
        (mesh,), (line,) = axes.collections, axes.lines
        assert np.array_equal(mesh.get_array(), given[seed][i].actions) and mesh.get_clim() == (-1, 1)
        assert np.array_equal(line.get_xydata(), given[seed][i].path)
        assert axes.get_title() == f"{PHASES[i]}: step {i + 1}, return 0.0"
    assert figure.get_suptitle().startswith("QUICK LOOK, not a result: 2 seeds, 10 steps\n")


def test_oscillation_by_hand():
    """With and against the motion in three cells each of two rows; the row at rest says nothing."""
    assert models.oscillation(a_landscape(1, [[-1, -0.1, 0.3], [1, 1, 1], [0.2, -0.5, -1]])) == 0.5
    assert models.oscillation(a_landscape(1, [[-1, -1, -1], [-1, 0, 1], [1, 1, 1]])) == 1.0


def moved(run_name: str, folder: Path) -> None:
    """What sweep.py leaves of a run: its folder, with `runs` in it."""
    shutil.copytree(Path("runs") / run_name, folder / "runs" / run_name)


def test_a_saved_model_is_the_one_that_training_evaluated(run_here, tmp_path):
    """The same return from the same start, within the run's own time limit; then figure 5 from such files."""
    flags = ["--total-timesteps=60", "--max-episode-steps=50", "--batch-size=8", "--supervisor=none", "--seed=3"]
    done = run_here(*flags, "--save-model", "--eval-frequency=30", "--eval-episodes=1")
    evaluations = scalars(done.run_name)["eval/episodic_return"]
    moved(done.run_name, tmp_path / "one")
    model = models.load_model(Run(SCRIPT, "MountainCarContinuous-v0", 3, {}, 1, ""), tmp_path / "one")
    env = model.make_env(None)
    episode = models.play(model, env, seed=4_000_000)  # where training's evaluation starts
    assert episode.episodic_return == pytest.approx(evaluations[-1][1], rel=1e-6)
    assert episode.observations.shape == (51, 2) and episode.feet.shape == (50, 0)

    plane = models.landscape(model, 60, size=4)
    assert plane.actions.shape == (4, 4)
    corner = model.act(np.array([[plane.positions[3], plane.velocities[0]]]))
    assert plane.actions[0, 3] == pytest.approx(corner.item(), rel=1e-5)
    assert (plane.positions[[0, 3]], plane.velocities[[0, 3]]) == (
        pytest.approx([-1.2, 0.6]),
        pytest.approx([-0.07, 0.07]),
    )

    arms = {str(step): Arm(SCRIPT, {"total-timesteps": step}, {"total-timesteps": step}) for step in (1, 2, 3, 60)}
    study = a_study("policy_landscape", ["MountainCarContinuous-v0"], arms)
    for _, run in study.runs(1):
        if run.seed != 2 or run.flags["total-timesteps"] != 3:  # seed 2 lacks a phase: it is left out
            moved(done.run_name, tmp_path / "sweep" / run.name)
    part = table.as_table(rows(study, "MountainCarContinuous-v0", "60", [0, 1])), study
    pictures, text = paper.figure(5, [part], sweep.Args([], runs=tmp_path / "sweep"))
    assert [axes.get_ylabel() for axes in pictures["figure_5"].axes if "seed" in axes.get_ylabel()] == [
        "seed 1\nvelocity"
    ]  # fmt: skip
    assert [line.split(" | ")[:3] for line in text.splitlines()[2:6]] == [
        ["| before", "1", "1"], ["| during", "2", "1"], ["| right after", "3", "1"], ["| long after", "60", "1"]
    ]  # fmt: skip
    assert text.count("fewer than 2 seeds") == 8

    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold one saved model, not 0: does the study set save-model"):
        models.load_model(Run(SCRIPT, "MountainCarContinuous-v0", 3, {}, 1, ""), tmp_path / "empty")


def test_a_saved_model_of_a_baseline_is_the_one_that_training_evaluated(run_here, tmp_path):
    """Figure 6 has RND beside the guided script."""
    flags = ["--env-id=Pendulum-v1", "--total-timesteps=40", "--learning-starts=10", "--batch-size=8", "--seed=3"]
    script = ROOT / "rnd_sac.py"
    done = run_here(*flags, "--save-model", "--eval-frequency=40", "--eval-episodes=1", script=script)
    moved(done.run_name, tmp_path / "one")
    model = models.load_model(Run(script, "Pendulum-v1", 3, {}, 1, ""), tmp_path / "one")
    episode = models.play(model, model.make_env(None), seed=4_000_000)
    assert episode.episodic_return == pytest.approx(scalars(done.run_name)["eval/episodic_return"][-1][1], rel=1e-5)


def test_runs_of_a_seed_are_equal_up_to_the_shorter_ones_end(run_here):
    """What figure 5 rests on: with guidance and its end in between, a longer run passes through the shorter one."""
    flags = ["--max-episode-steps=10", "--batch-size=8", "--eval-frequency=20", "--eval-episodes=1",
             "--supervisor=bundled", "--advisor-always", "--guide-end=30", "--replay-frames=0"]  # fmt: skip
    short, long = (scalars(run_here(*flags, f"--total-timesteps={steps}").run_name) for steps in (40, 60))
    for tag in ("eval/episodic_return", "charts/episodic_return"):
        assert short[tag] == [point for point in long[tag] if point[0] <= 40]
        assert len({value for _, value in short[tag]}) > 1 and len(long[tag]) > len(short[tag])


# --- figure 6 ---
def contacts(left: str, right: str) -> np.ndarray:
    return np.array([[char == "#" for char in foot] for foot in (left, right)]).T


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        # walking: after the first steps right, left, right come down, each after the other
        ("#####...#####...", "##...#####...###", Gait(1.0, 4 / 16, 0.0, 3)),
        # hopping on the left leg: it comes down twice, and the other foot never
        ("##...##...##", "............", Gait(0.0, 0.0, 6 / 12, 2)),
        # jumping with both feet at once
        ("##...##...##", "##...##...##", Gait(0.0, 6 / 12, 6 / 12, 2)),
        # left alone, then both at once
        ("##...##...##", "#######...##", Gait(0.0, 6 / 12, 3 / 12, 2)),
        # left, left, right: one of two footfalls follows the other foot
        ("##...##...########", "##############...#", Gait(0.5, 9 / 18, 0.0, 3)),
        # a bounce of two steps is no footfall; the landing at the start is none either
        ("..####..####", "..##########", Gait(np.nan, 10 / 12, 2 / 12, 0)),
        # standing
        ("####", "####", Gait(np.nan, 1.0, 0.0, 0)),
    ],
)  # fmt: skip
def test_gait_by_hand(left, right, expected):
    assert models.gait([contacts(left, right)]) == pytest.approx(expected, nan_ok=True)


def test_episodes_are_not_joined_into_one_gait():
    """Two episodes with one footfall each: no pair, so no alternation; shares are over all steps."""
    score = models.gait([contacts("#...#", "#####"), contacts("###", "...")])
    assert np.isnan(score.alternation) and score == pytest.approx((np.nan, 2 / 8, 0.0, 1), nan_ok=True)


def test_contacts_of_a_real_robot():
    """MuJoCo's contacts against geometry: a foot is a sphere, and touches where its lowest point is at the floor."""
    env = gym.make("Humanoid-v5")
    env.reset(seed=0)
    data, model, seen = env.unwrapped.data, env.unwrapped.model, []
    for _ in range(60):
        env.step(np.zeros(17))
        reach = [model.geom("floor").margin[0] + model.geom(foot).margin[0] for foot in models.FEET]
        heights = [data.geom(foot).xpos[2] - model.geom(foot).size[0] for foot in models.FEET]
        assert models.feet_on_floor(env) == [height < limit for height, limit in zip(heights, reach, strict=True)]
        seen.append(models.feet_on_floor(env))
    assert {(True, True), (False, False)} < set(map(tuple, seen))
    assert models.feet_on_floor(gym.make("MountainCarContinuous-v0")) == []


def test_figure_6_is_its_frames():
    frames = {arm: [np.full((4, 3, 3), 10 * i + j, np.uint8) for j in range(5)] for i, arm in enumerate(["SAC", "RND"])}
    study = a_study("humanoid", ["Humanoid-v5"], ["SAC", "RND"])
    gaits = {"SAC": Gait(0.25, 0.5, 0.125, 8), "RND": Gait(1.0, 0.0, 0.0, 3)}
    figure = figures.figure_6(frames, gaits, (table.as_table(rows(study, "Humanoid-v5", "SAC", [0, 1])), study))
    for axes, arm, title in zip(figure.axes, frames, ("8 footfalls, 0.25 of them", "3 footfalls, 1.00"), strict=True):
        (image,) = axes.images
        assert axes.get_ylabel() == arm and axes.get_title().startswith(title)
        assert image.get_array().shape == (4, 15, 3)
        assert image.get_array()[0, ::3, 0].tolist() == [frame[0, 0, 0] for frame in frames[arm]]
    assert "after 10 steps of training" in figure.get_suptitle()


def test_gait_without_pictures(run_here, tmp_path, monkeypatch, capsys):
    """Where MuJoCo cannot draw, the score is there, no picture is, and one line an arm says why."""
    done = run_here("--env-id=Humanoid-v5", "--total-timesteps=2", "--supervisor=none", "--save-model")
    study = a_study("humanoid", ["Humanoid-v5"], ["SAC"])
    for _, run in study.runs(1):
        moved(done.run_name, tmp_path / "sweep" / run.name)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(sup, "_choose_mujoco_gl", functools.cache(sup._choose_mujoco_gl.__wrapped__))  # asked anew
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    part = table.as_table(rows(study, "Humanoid-v5", "SAC", [0, 1], [0, 1])), study
    capsys.readouterr()
    pictures, text = paper.figure(6, [part], sweep.Args([], runs=tmp_path / "sweep"))
    assert not pictures
    assert capsys.readouterr().out == "no gait strip of SAC: no OpenGL for MuJoCo (tried glfw)\n"
    share = r"0\.\d\d \[.*\]"
    row = rf"^\| SAC \| 10 \| 2 \| \d+\.\d \[.*\] \| \d+ \[.*\] \| .* \| {share} \| {share} \|$"
    assert re.search(row, text, re.MULTILINE), text


# --- the page and the commands ---
def test_the_page_is_filled_between_its_marks():
    page = ("before\n<!-- figure 3, written by benchmark/results.py -->\nold \\1\n<!-- end of figure 3 -->\n"
            "<!-- figure 4, written by benchmark/results.py -->\n<!-- end of figure 4 -->\nafter")  # fmt: skip
    filled = paper.filled(page, 3, ["figure_3"], "| a \\1 |\n")
    assert filled.split("\n\n") == [
        "before\n<!-- figure 3, written by benchmark/results.py -->", "![Figure 3](figure_3.png)", "| a \\1 |",
        "<!-- end of figure 3 -->\n<!-- figure 4, written by benchmark/results.py -->\n<!-- end of figure 4 -->\nafter",
    ]  # fmt: skip
    assert paper.filled(filled, 3, ["figure_3"], "| a \\1 |\n") == filled
    with pytest.raises(ValueError, match="must hold one place for figure 5, not 0"):
        paper.filled(page, 5, [], "")


@pytest.mark.parametrize("number", paper.STUDIES)
def test_the_page_of_results_has_each_figure(number):
    """Its place, its pictures, and no verdict where nothing is measured or without an interval."""
    page = (ROOT / "docs" / "results.md").read_text()
    section = re.search(rf"## Figure {number}:.*?(?=\n## |\Z)", page, re.DOTALL)[0]
    assert paper.filled(page, number, [], "x") != page
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", section):
        assert (ROOT / "docs" / picture).is_file()
    for study in paper.STUDIES[number]:
        assert f"(../benchmark/studies/{study}.toml)" in section
    verdicts = re.findall(r"^\| .*? \| (\*\*.*) \|$", section, re.MULTILINE)
    assert verdicts
    for verdict in verdicts:
        assert verdict.startswith("**not measured yet**") or re.search(r"\d \[.*\d, .*\d\]", verdict), verdict
        assert verdict.startswith("**not measured yet**") or "![" in section, verdict


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("target", [*(f"figure-{number}" for number in paper.STUDIES), "results"])
def test_make_knows_the_figures(target, quick):
    """What make would run, read as results.py reads it; its studies exist in both forms."""
    command = ["make", "-n", "-C", str(ROOT), target, *(["QUICK=1"] if quick else [])]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in output.splitlines() if "benchmark/results.py" in line)
    args = tyro.cli(results.Args, args=line.split()[2:])
    assert args.quick == quick and args.studies == []
    assert args.figure == (None if target == "results" else int(target[-1]))
    for name in paper.STUDIES.get(args.figure, ()):
        assert sweep.load_study(ROOT / "benchmark" / "studies" / f"{name}.toml", quick).quick == quick


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

    study = sweep.load_study(ROOT / "benchmark" / "studies" / "guidance_timing.toml", quick=True)
    env = study.environments[0]
    data = table.as_table(row for arm in study.arms for row in rows(study, env, arm, [0, 0, 1], [0, 0, 1]))
    table.write_table(data, Path("runs/quick/guidance_timing.csv"))
    assert "| 1,000 | 2 | 1.0 [1.0, 1.0] | 0.5 [0.5, 0.5] |" in run_results("--figure", "7")
    assert sorted(path.name for path in Path("runs/quick").iterdir()) == [
        "figure_7.md", "figure_7.png", "figure_7.svg", "guidance_timing.csv", "guidance_timing.md"
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


def test_a_quick_figure_says_so():
    for figure in (figures.figure_7(*timing_study(quick=True)), figures.figure_3(toy_text(quick=True))):
        assert figure.get_suptitle().startswith("QUICK LOOK, not a result: 2 seeds, ")
    study = dataclasses.replace(toy_text()[0][1], quick=True)
    assert "](first.md)" in paper.origins([(toy_text()[0][0], study)])


def test_what_a_harmful_rule_did_is_told_by_arm():
    """By hand: two seeds of plain SAC, and two of a rule that guided one of two windows; guidance ends at step 20."""
    rows = [("SAC", seed, step, tag, value) for seed, offset in ((1, 0.0), (2, 1.0)) for step, tag, value in (
        (10, "charts/episodic_return", -4.0 + offset), (20, "charts/episodic_return", -2.0 + offset),
        (30, "charts/episodic_return", 99.0), (0, "eval/episodic_return", 50.0), (40, "eval/episodic_return", offset),
    )]  # fmt: skip
    rows += [("rule", seed, step, tag, value) for seed in (1, 2) for step, tag, value in (
        (0, "charts/guidance_active", 1.0), (10, "charts/guidance_active", 0.0), (20, "charts/guidance_active", 0.0),
        (5, "charts/episodic_return", -6.0), (40, "eval/episodic_return", -1.0), (0, "eval/episodic_return", 7.0),
    )]  # fmt: skip
    logged = pd.DataFrame(rows, columns=["arm", "seed", "step", "tag", "value"]).assign(env="E-v0")
    assert effect(logged) == [
        ["E-v0", "SAC", "2", "", "-2.5 [-3.0, -2.0]", "0.5 [0.0, 1.0]"],
        ["E-v0", "rule", "2", "2 of 4", "-6.0 [-6.0, -6.0]", "-1.0 [-1.0, -1.0]"],
    ]
