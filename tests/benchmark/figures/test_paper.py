"""The paper's figures show their data (read back from the artists), and their tables agree with hand work."""

import dataclasses
import re

import numpy as np
import pytest
from conftest import ROOT
from handmade import SCRIPT, a_landscape, a_study, rows

from benchmark.figures import drawing, paper, table
from benchmark.figures.drawing import NOT_MEASURED, PHASES
from benchmark.figures.models import Gait
from benchmark.sweeps.studies import Arm

pytestmark = pytest.mark.usefixtures("few_samples")


def lines(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}


def toy_text(quick: bool = False) -> list[drawing.Part]:
    """FrozenLake with guidance, a second study with RND and another SAC, and a first seed of E3B."""
    lake, arms = "FrozenLake-v1", ["GuidedSAC", "SAC", "as printed"]
    first = a_study("first", [lake], arms, thresholds={lake: (0.7,)}, quick=quick)
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
    figure = drawing.figure_3(toy_text())
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert figure.get_suptitle() == drawing.ESTIMATE
    assert list(panels) == ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4", "Blackjack-v1"]
    assert lines(panels["FrozenLake-v1"]) == {
        "SAC (2 seeds)": [[0, 0], [10, 0.25]],
        "RND (2 seeds)": [[0, 0], [10, 0.5]],
        "GuidedSAC (2 seeds)": [[0, 0], [10, 0.5], [20, 1]],
        "threshold": [[0, 0.7], [1, 0.7]],  # from the left edge to the right one
    }
    marks = [line.get_marker() for line in panels["FrozenLake-v1"].lines[:3]]
    assert len(set(marks)) == 3  # seen also where they coincide
    (bar,) = panels["FrozenLake-v1"].patches
    assert (bar.get_x(), bar.get_width()) == (0, 10)
    assert [text.get_text() for text in panels["FrozenLake-v1"].texts] == ["0.7"]
    assert panels["FrozenLake-v1"].lines[-1].get_ydata() == [0.7, 0.7]
    assert lines(panels["Taxi-v4"]) == {"SAC (2 seeds)": [[0, -150], [10, 7]]}
    for name in ("CliffWalking-v1", "Blackjack-v1"):
        assert not panels[name].lines and [text.get_text() for text in panels[name].texts] == [NOT_MEASURED]
    assert not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends  # one for all panels, nothing twice
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["SAC (2 seeds)", "RND (2 seeds)", "GuidedSAC (2 seeds)", "threshold", drawing.GUIDED]


def test_table_of_figure_3_by_hand():
    """Areas up to the step that all measured arms have, and a row for what is missing.

    At step 10 GuidedSAC's seeds have 0 and 1 and SAC's 0 and ½: of the four pairs two are won and one is a tie, 0.625.
    """
    pictures, short, text = paper.figure(3, toy_text(), None)
    assert list(pictures) == ["figure_3"]
    assert short.splitlines() == [
        "IQM at the last step that all arms have:", "",
        "| task | step | SAC | RND | ICM | E3B | GuidedSAC |", "|-|-|-|-|-|-|-|",
        "| FrozenLake-v1 | 10 | 0.250 [0.000, 0.500] | 0.500 [0.250, 0.750] | not measured yet | not measured yet | "
        "0.500 [0.000, 1.000] |",
        "| Taxi-v4 | 10 | 7.0 [6.0, 8.0] | not measured yet | not measured yet | not measured yet | "
        "not measured yet |", "",
        "P(GuidedSAC better) there:", "", "| task | SAC | RND | ICM | E3B |", "|-|-|-|-|-|",
        "| FrozenLake-v1 | 0.62 [0.00, 1.00] | 0.50 [0.00, 1.00] |  |  |",
    ]  # fmt: skip
    for row in (
        "| FrozenLake-v1 | SAC | 2 | 10 | 0.250 [0.000, 0.500] | 10 to 10 | 0.250 [0.000, 0.500] | 10 | "
        "0.62 [0.00, 1.00] | first |",
        "| FrozenLake-v1 | GuidedSAC | 2 | 20 | 1.000 [1.000, 1.000] | 10 to 10 | 0.500 [0.000, 1.000] |  |  | first |",
        "| FrozenLake-v1 | E3B | not measured yet |  |  |  |  |  |  |  |",
        "| Taxi-v4 | SAC | 2 | 10 | 7.0 [6.0, 8.0] | 10 to 10 | 7.0 [6.0, 8.0] |  |  | second |",
        "| Blackjack-v1 | GuidedSAC | not measured yet |  |  |  |  |  |  |  |",
        "- [first](first.md): Runs of commit c0ffee, with torch 2.",
    ):
        assert row in text.splitlines()


def test_areas_are_compared_over_the_steps_that_all_have():
    """Evaluated at 10 and 20, and at 20 alone: from 20 to 20."""
    car = "MountainCarContinuous-v0"
    study = a_study("car", [car], ["SAC", "GuidedSAC"])
    rare = [row for row in rows(study, car, "SAC", [0, 1, 3], [0, 1, 3]) if row[5] != 10]
    data = table.as_table([*rows(study, car, "GuidedSAC", [0, 2, 4], [0, 2, 4]), *rare])
    _, short, text = paper.figure(4, [(data, study)], None)
    assert "| MountainCarContinuous-v0 | 20 | 3.000 [3.000, 3.000] | not measured yet | 4.000 [4.000, 4.000] |" in short
    assert "| GuidedSAC | 2 | 20 | 4.000 [4.000, 4.000] | 20 to 20 | 4.000 [4.000, 4.000] |" in text
    assert "| SAC | 2 | 20 | 3.000 [3.000, 3.000] | 20 to 20 | 3.000 [3.000, 3.000] | 20 | 1.00 [1.00, 1.00] |" in text


def test_figure_4_marks_its_steps_and_leaves_out_what_is_not_measured():
    car, robot = "MountainCarContinuous-v0", "Humanoid-v5"
    study = a_study("car", [car], ["SAC", "RND", "ICM"])
    data = table.as_table(row for arm in study.arms for row in rows(study, car, arm, [0, 5], [0, 7]))
    empty = table.as_table([]), a_study("robot", [robot], ["SAC", "RND", "GuidedSAC"])
    pictures, short, text = paper.figure(4, [(data, study), empty], None)
    assert list(pictures) == ["figure_4a"] and lines(pictures["figure_4a"].axes[0]) == {
        "SAC (2 seeds)": [[0, 0], [10, 6]], "RND (2 seeds)": [[0, 0], [10, 6]],
    }  # fmt: skip
    for each in (short, text):
        assert "**Humanoid-v5: not measured yet.**" in each.splitlines()
    robots = table.as_table(rows(empty[1], robot, "GuidedSAC", [50, 60, 70], [50, 60, 90]))
    longer = table.as_table(rows(study, car, "SAC", [0] * 9, [0] * 9))  # than the steps of the panel
    figure = drawing.figure_4b([(longer, study), (robots, empty[1])])
    assert lines(figure.axes[0]) == {"GuidedSAC (2 seeds)": [[0, 50], [10, 60], [20, 80]]}
    assert figure.get_suptitle().startswith("20 steps, where the paper guides for 900,000")
    quick = [
        (longer, dataclasses.replace(study, quick=True)),
        (robots, dataclasses.replace(empty[1], quick=True, seeds=[1])),
    ]
    assert drawing.figure_4b(quick).get_suptitle().startswith("QUICK LOOK, not a result: 1 seeds, 20 steps\n20 steps")


def timing_study(quick: bool = False, duration_first: bool = False) -> drawing.Part:
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
    figure = drawing.figure_7(*timing_study())
    final, area = figure.axes[:2]
    assert (final.get_title(), area.get_title()) == ("final return", "area under the curve")
    (image,) = final.images
    assert np.array_equal(image.get_array().filled(np.nan), [[21, 421], [29, np.nan]], equal_nan=True)
    (image,) = area.images
    assert np.array_equal(image.get_array().filled(np.nan), [[10.5, 210.5], [14.5, np.nan]], equal_nan=True)
    assert [label.get_text() for label in area.get_xticklabels()] == ["0", "100"]
    assert [label.get_text() for label in final.get_yticklabels()] == ["5", "7"]
    cells = {text.get_position(): text.get_text() for text in final.texts}
    assert cells == {(0, 0): "21.0 [20.0, 22.0]", (1, 0): "421.0 [420.0, 422.0]", (0, 1): "29.0 [28.0, 30.0]"}
    colors = {text.get_position(): text.get_color() for text in final.texts}
    assert colors == {
        (0, 0): "white",
        (1, 0): "black",
        (0, 1): "white",
    }  # on the darkest, the lightest, near the darkest


@pytest.mark.parametrize("duration_first", [False, True])  # in the study's file
def test_margins_of_figure_7_are_stratified(duration_first):
    """Of both cells at start 0, seeds {20, 22} and {28, 30}: the middle half of the four is {22, 28}."""
    _, short, text = paper.figure(7, [timing_study(duration_first=duration_first)], None)
    found = text.splitlines()
    assert short == "" and found[-1].startswith("- [timing](timing.md): ")
    assert found[0].startswith("| guide-start |")
    assert [line.split(" | ")[0] for line in found[2:4]] == ["| 0", "| 100"]
    assert "| 0 | 2 | 25.0 [24.0, 26.0] | 12.5 [12.0, 13.0] |" in found
    assert any(line.startswith("| 100 | 1 | 421.0 [420.0, 422.0] |") for line in found)


def test_figure_5_is_its_landscapes():
    """A row for each seed, a column for each phase: the actions and the path as they were given."""
    actions = np.linspace(-0.9, 0.9, 9).reshape(3, 3)
    given = {seed: [a_landscape(step, actions / (seed + step)) for step in (1, 2, 3, 4)] for seed in (1, 2)}
    study = a_study("policy_landscape", ["MountainCarContinuous-v0"], ["A"], quick=True)
    figure = drawing.figure_5(given, (table.as_table(rows(study, "E", "A", [0, 0])), study))
    for axes, (seed, i) in zip(figure.axes, [(seed, i) for seed in given for i in range(4)], strict=False):
        (mesh,), (line,) = axes.collections, axes.lines
        assert np.array_equal(mesh.get_array(), given[seed][i].actions) and mesh.get_clim() == (-1, 1)
        assert np.array_equal(line.get_xydata(), given[seed][i].path)
        head = f"{PHASES[i]}\nstep {i + 1}\n" if seed == 1 else ""
        assert axes.get_title() == f"{head}return 0.0"
    assert figure.get_suptitle().startswith("QUICK LOOK, not a result: 2 seeds, 10 steps\n")


def test_figure_6_is_its_frames():
    def frame(arm: int, step: int) -> np.ndarray:
        """8 × 6 points; the upper 2 rows, the first and the last column are left out of the strip."""
        full = np.full((8, 6, 3), 255, np.uint8)
        full[2:, 1:5] = 10 * arm + step
        return full

    frames = {"SAC": [frame(0, j) for j in range(5)], "RND": [frame(1, j) for j in range(3)]}  # one fell
    study = a_study("humanoid", ["Humanoid-v5"], ["SAC", "RND"])
    gaits = {"SAC": Gait(0.25, 0.5, 0.125, 8, 2.0), "RND": Gait(1.0, 0.0, 0.0, 3, 1.5)}
    curves = [*rows(study, "Humanoid-v5", "SAC", [0, 1]), *rows(study, "Humanoid-v5", "RND", [0, 1, 2])]
    figure = drawing.figure_6(frames, gaits, (table.as_table(curves), study))
    titles = ("after 10 steps of training: 8 footfalls, 2.0 a second, 0.25 of",
              "after 20 steps of training: 3 footfalls, 1.5 a second, 1.00")  # fmt: skip
    for axes, arm, title in zip(figure.axes, frames, titles, strict=True):
        (image,) = axes.images
        assert axes.get_ylabel() == arm and axes.get_title(loc="left").startswith(title)
        assert image.get_array().shape == (6, 4 * len(frames[arm]), 3)
        assert image.get_array()[:, ::4, 0].tolist() == [[frame[2, 1, 0] for frame in frames[arm]]] * 6
        assert axes.get_xlim() == (-0.5, 19.5)  # the shorter strip's frames are as large
    assert figure.get_suptitle() == "greedy episodes"


def test_the_page_is_filled_between_its_marks():
    page = ("before\n<!-- figure 3, written by benchmark/results.py -->\nold \\1\n<!-- end of figure 3 -->\n"
            "<!-- figure 4, written by benchmark/results.py -->\n<!-- end of figure 4 -->\nafter")  # fmt: skip
    filled = paper.filled(page, 3, ["figure_3"], "| a \\1 |\n")
    assert filled.split("\n\n") == [
        "before\n<!-- figure 3, written by benchmark/results.py -->", "![Figure 3](figures/figure_3.png)", "| a \\1 |",
        "All numbers and their runs: [figure_3.md](../benchmark/results/figure_3.md).",
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
    glance = page.split("## Results at a glance")[1].split("\n## ")[0]
    assert paper.filled(page, number, [], "x") != page
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", section):
        assert (ROOT / "docs" / picture).is_file()
    for study in paper.STUDIES[number]:
        assert f"(../benchmark/studies/{study}.toml)" in section
    verdicts = re.findall(rf"^\| .*? \| (\*\*.*) \| \[{number}\]\(#figure-{number}-.*\) \|$", glance, re.MULTILINE)
    assert verdicts
    for verdict in verdicts:
        assert verdict.startswith("**not measured yet**") or re.search(r"\d \[.*\d, .*\d\]", verdict), verdict
        assert verdict.startswith("**not measured yet**") or "![" in section, verdict


def test_a_quick_figure_says_so():
    for figure in (drawing.figure_7(*timing_study(quick=True)), drawing.figure_3(toy_text(quick=True))):
        assert figure.get_suptitle().startswith("QUICK LOOK, not a result: 2 seeds, ")
