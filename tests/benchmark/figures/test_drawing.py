"""benchmark/figures/drawing.py: curves show the table, read back from the artists."""

import dataclasses

import pandas as pd
from handmade import STUDY, scored, tidy

from benchmark.figures import drawing, table


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
    (span,) = axes.patches
    assert span.get_label() == "A guided" and (span.get_x(), span.get_width()) == (0, 10)
    assert axes.get_title() == "E-v0" and "QUICK" not in figure.get_suptitle()

    for name in ("one", "two"):
        drawing.save(drawing.sample_efficiency(data, STUDY), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_quick_figure_says_so():
    quick = dataclasses.replace(STUDY, quick=True)
    figure = drawing.sample_efficiency(scored(A=[[0, 1], [2, 3]], B=[[0, 1], [2, 3]]), quick)
    assert figure.get_suptitle().startswith("QUICK LOOK, not a result: 2 seeds, 10 steps")
