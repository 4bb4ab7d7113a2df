"""benchmark/figures/drawing.py: curves show the table, read back from the artists."""

import dataclasses
import itertools
import math

import pandas as pd
import pytest
from handmade import SCRIPT, STUDY, scored, tidy
from matplotlib.colors import to_rgb
from PIL import Image

from benchmark.figures import drawing, table
from benchmark.sweeps.studies import Arm


def test_guided_intervals_by_hand():
    """Of four seeds, guided in [0, 20), [0, 10) and [20, 30), [10, 20), never: at least two in [0, 20)."""
    active, metric = table.GUIDANCE_ACTIVE, STUDY.metric
    data = tidy({
        ("A", 1, active): [(0, 1.0), (20, 0.0)],
        ("A", 2, active): [(0, 1.0), (10, 0.0), (20, 1.0), (30, 0.0)],
        ("A", 3, active): [(0, 0.0), (10, 1.0), (20, 0.0)],
        **{("A", seed, metric): [(0, 0.0), (40, 0.0)] for seed in (1, 2, 3, 4)},
    })  # fmt: skip
    assert drawing.guided_intervals(data, "E-v0", "A") == [(0, 20)]
    assert drawing.guided_intervals(data, "E-v0", "B") == []


def test_guidance_that_never_ends_is_drawn_to_the_end():
    data = tidy({("A", 1, table.GUIDANCE_ACTIVE): [(5, 1.0)], ("A", 1, STUDY.metric): [(0, 0.0), (40, 0.0)]})
    assert drawing.guided_intervals(data, "E-v0", "A") == [(5, 40)]


def test_curves_drawn_are_the_data(tmp_path):
    """Read back from the figure: the interquartile mean, the interval's edges, the threshold, the guided interval."""
    data = pd.concat([
        scored(A=[[0, 10, 20], [2, 30, 20]], B=[[5, 5, 5], [5, 5, 5]]),
        tidy({("A", seed, table.GUIDANCE_ACTIVE): [(0, 1.0), (10, 0.0)] for seed in (1, 2)}),
    ])  # fmt: skip
    figure = drawing.sample_efficiency(data, STUDY)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["A (2 seeds)"] == [[0, 1], [10, 20], [20, 20]]
    assert lines["B (2 seeds)"] == [[0, 5], [10, 5], [20, 5]]
    assert list(axes.lines[-1].get_ydata()) == [90, 90]
    band = {tuple(point) for point in axes.collections[0].get_paths()[0].vertices.tolist()}
    assert band == {(0, 0), (0, 2), (10, 10), (10, 30), (20, 20)}
    (bar,) = axes.patches
    assert (bar.get_x(), bar.get_width()) == (0, 10)
    assert bar.get_facecolor()[:3] == to_rgb(axes.lines[0].get_color())
    assert axes.get_title() == "E-v0" and "QUICK" not in figure.get_suptitle()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "greedy return")

    for name in ("one", "two"):
        drawing.save(drawing.sample_efficiency(data, STUDY), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
    assert Image.open(tmp_path / "one.png").mode == "P"


def test_forks_are_drawn_as_differences_at_the_same_step():
    """By hand: 12 − 10 and 35 − 20 greedy, 7 − 9 sampled; each arm, length and kind of actions its own line."""
    rows = [(50, 80, "unguided", "greedy", 10, 1), (50, 80, "bundled", "greedy", 12, 4),
            (100, 130, "unguided", "greedy", 20, 1), (100, 130, "bundled", "greedy", 35, 1),
            (50, 80, "unguided", "sampled", 9, 0), (50, 80, "bundled", "sampled", 7, 0),
            (50, 150, "unguided", "greedy", 1, 1), (50, 150, "bundled", "greedy", 1, 3)]  # fmt: skip
    data = pd.DataFrame(rows, columns=["fork", "step", "arm", "actions", "score", "speed"]).assign(env="E-v0", seed=3)
    figure = drawing.forks(data, {"score": "the score", "speed": "the speed"})
    drawn = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines[:-1]} for axes in figure.axes]
    assert drawn[0] == {"bundled, greedy, 30 steps": [[50, 2], [100, 15]], "bundled, sampled, 30 steps": [[50, -2]],
                        "bundled, greedy, 100 steps": [[50, 0]]}  # fmt: skip
    assert drawn[1]["bundled, greedy, 30 steps"] == [[50, 3], [100, 0]]
    assert [axes.get_title() for axes in figure.axes] == ["the score", "the speed"]
    assert figure.get_suptitle().startswith("E-v0, seed 3: ")
    one_length = drawing.forks(data[data.step != 150], {"score": "the score", "speed": "the speed"})
    assert [text.get_text() for text in one_length.legends[0].get_texts()] == ["bundled, greedy", "bundled, sampled"]


def test_bars_of_guidance_lie_above_the_panel_and_beside_each_other():
    """A's from step 0 to 10, B's from 0 to 20, drawn: above the panel's top, B's above A's, and in the picture."""
    active = {("A", 1): 10, ("A", 2): 10, ("B", 1): 20, ("B", 2): 20}
    data = pd.concat([
        scored(A=[[0, 1, 2], [0, 1, 2]], B=[[0, 1, 2], [0, 1, 2]]),
        tidy({(*run, table.GUIDANCE_ACTIVE): [(0, 1.0), (end, 0.0)] for run, end in active.items()}),
    ])  # fmt: skip
    figure = drawing.sample_efficiency(data, STUDY)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    first, second = (bar.get_window_extent() for bar in axes.patches)
    assert axes.bbox.y1 < first.y0 < first.y1 < second.y0 < second.y1 < axes.title.get_window_extent().y0
    assert (first.x0, second.x0) == pytest.approx((axes.transData.transform((0, 0))[0],) * 2)
    assert second.width == pytest.approx(2 * first.width)


def test_what_acts_at_random_is_not_drawn_as_learning():
    """With learning-starts 10 A's curve begins there, with its evaluation before the first update; B's at step 0."""
    arms = {"A": Arm(SCRIPT, {"learning-starts": 10}), "B": Arm(SCRIPT, {})}
    study = dataclasses.replace(STUDY, arms=arms)
    data = scored(A=[[0, 0, 7], [0, 0, 7]], B=[[0, 5, 5], [0, 5, 5]])
    (axes,) = drawing.sample_efficiency(data, study).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["A (2 seeds)"] == [[10, 0], [20, 7]] and drawn["B (2 seeds)"] == [[0, 0], [10, 5], [20, 5]]
    (span,) = axes.patches
    assert (span.get_x(), span.get_width()) == (0, 10)
    assert [text.get_text() for text in axes.texts] == ["A\nat random", "90"]

    study = dataclasses.replace(STUDY, arms={arm: Arm(SCRIPT, {"learning-starts": 15}) for arm in "AB"})
    (axes,) = drawing.sample_efficiency(data, study).axes
    assert axes.texts[0].get_text() == "all\nat random"
    assert axes.lines[0].get_xydata().tolist() == [[15, 0], [20, 7]]  # the policy of step 10 is that of step 15

    study = dataclasses.replace(STUDY, arms={arm: Arm(SCRIPT, {"learning-starts": 99}) for arm in "AB"})
    (axes,) = drawing.sample_efficiency(data, study).axes
    assert axes.lines[0].get_xydata().tolist() == [[20, 7]]


def test_an_arm_has_one_look_whatever_stands_beside_it():
    both = drawing.looks(["RND", "SAC", "mine", "GuidedSAC"]), drawing.looks(["GuidedSAC", "SAC"])
    assert all(both[0][arm] == both[1][arm] for arm in both[1])


def luminance(color: str) -> float:
    """WCAG 2's relative luminance of a colour."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


# RGB as the dichromats see it, severity 1 (Machado et al. 2009, tables of protanomaly, deuteranomaly, tritanomaly)
BLIND = {
    "red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


@pytest.mark.parametrize("eye", BLIND)
def test_the_papers_arms_are_told_apart_by_the_colour_blind(eye):
    """As a dichromat sees them, no two colours come near each other; and each stands out from the white page."""
    seen = {
        arm: [sum(w * c for w, c in zip(row, to_rgb(look.color), strict=True)) for row in BLIND[eye]]
        for arm, look in drawing.LOOKS.items()
    }  # fmt: skip
    nearest = min(math.dist(seen[a], seen[b]) for a, b in itertools.combinations(seen, 2))
    assert nearest > 0.13, nearest
    assert all(1.05 / (luminance(look.color) + 0.05) > 2 for look in drawing.LOOKS.values())


def test_no_two_arms_of_a_figure_are_drawn_alike():
    """Neither in colour nor, for those who print in grey, in line and mark."""
    for group in (drawing.LOOKS.values(), drawing.OTHERS):
        for i in range(3):
            assert len({look[i] for look in group}) == len(group)


def test_the_legend_is_as_wide_as_a_page():
    """Columns are filled one after the other: of 10, 2, 30 and 4 letters in two columns 10 and 30 count."""
    assert drawing.letters(["x" * n for n in (10, 2, 30, 4)], 2) == 10 + 8 + 30 + 8
    figure = drawing.sample_efficiency(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3]]), STUDY)
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().width < figure.bbox.width


def test_a_quick_figure_says_so():
    quick = dataclasses.replace(STUDY, quick=True)
    figure = drawing.sample_efficiency(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3]]), quick)
    assert figure.get_suptitle().startswith("QUICK LOOK, not a result: 2 seeds, 10 steps")


def test_only_deep_falls_bend_the_scale():
    """Below −1,000 it is logarithmic away from 0; 3,000 of a good return leaves it straight."""
    (fallen,) = drawing.sample_efficiency(scored(A=[[-9000, -13], [-9000, -13]], B=[[0, 1], [0, 1]]), STUDY).axes
    (good,) = drawing.sample_efficiency(scored(A=[[0, 3000], [0, 3000]], B=[[0, 1], [0, 1]]), STUDY).axes
    assert (fallen.get_yscale(), good.get_yscale()) == ("symlog", "linear")
