"""benchmark/races/: the table that a race leaves, and the figure of it."""

import runpy

import pandas as pd

from benchmark.figures import drawing
from benchmark.races import speed, speed_figure


def test_races_add_up_to_one_table(tmp_path):
    """Three races by hand, one of them repeated: medians, lowest and highest blocks, one header."""
    csv = tmp_path / "results" / "speed.csv"
    speed.add_to(csv, "E", 1, {"ours": [50.0, 60.04, 100.0], "RLtools": [40.0]})
    speed.add_to(csv, "E", 2, {"ours": [70.0]})
    speed.add_to(csv, "E", 2, {"ours": [80.0]})
    assert csv.read_text().splitlines() == [
        "environment,threads,contestant,median,lowest,highest",
        "E,1,ours,60.0,50.0,100.0", "E,1,RLtools,40.0,40.0,40.0", "E,2,ours,80.0,80.0,80.0",
    ]  # fmt: skip


def test_the_figure_shows_the_table():
    """Each bar has its median's length, each thread a colour of its own, and what did not race leaves a gap."""
    rows = [("E", 1, "ours", 60.0), ("E", 1, "RLtools", 40.0), ("E", 2, "ours", 80.0), ("F", 2, "ours", 9.0)]
    table = pd.DataFrame(
        [(*row, row[-1] - 1, row[-1] + 2) for row in rows],
        columns=["environment", "threads", "contestant", "median", "lowest", "highest"],
    )
    figure = speed_figure.draw(table)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("E", "F")
    assert [label.get_text() for label in first.get_yticklabels()] == ["ours", "RLtools"]
    bars = [[bar.get_width() for bar in container] for container in first.containers if hasattr(container, "patches")]
    assert bars[0] == [60.0, 40.0] and bars[1][0] == 80.0 and bars[1][1] != bars[1][1]  # the last is no number
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1 thread", "2 threads"]


def test_the_command_draws_the_committed_table(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "save", lambda figure, path: drawn.append((figure, path)))
    runpy.run_path(speed_figure.__file__, run_name="__main__")
    ((figure, path),) = drawn
    assert path.name == "speed" and len(figure.axes) == pd.read_csv(speed_figure.TABLE).environment.nunique()
