"""The figure of docs/speed.md, from the table that races of speed.py have left.

    python -m benchmark.races.speed_figure

Reads benchmark/results/speed.csv and writes docs/figures/speed.png.
Docs: docs/speed.md
"""

import pandas as pd
from matplotlib.figure import Figure

from benchmark import ROOT
from benchmark.figures import drawing

TABLE = ROOT / "benchmark" / "results" / "speed.csv"


@drawing.styled
def draw(table: pd.DataFrame) -> Figure:
    """A panel for each environment, a group of bars for each contestant, a bar for each number of threads."""
    environments, contestants = table.environment.unique(), table.contestant.unique()
    threads = sorted(table.threads.unique())
    figure = Figure(figsize=(drawing.WIDTH, 0.42 * len(contestants) + 1.4), layout="constrained")
    for axes, environment in zip(figure.subplots(1, len(environments), sharey=True, squeeze=False)[0], environments,
                                 strict=True):  # fmt: skip
        height = 0.8 / len(threads)
        for i, (number, look) in enumerate(zip(threads, drawing.OTHERS, strict=False)):
            rows = table[(table.environment == environment) & (table.threads == number)].set_index("contestant")
            rows = rows.reindex(contestants)
            places = [place + (i - (len(threads) - 1) / 2) * height for place in range(len(contestants))]
            spread = [rows["median"] - rows.lowest, rows.highest - rows["median"]]
            axes.barh(places, rows["median"], height, xerr=spread, color=look.color, error_kw={"lw": 1},
                      label=f"{number} thread{'s' if number > 1 else ''}")  # fmt: skip
        axes.set(title=environment, xlabel="steps per second, one update each")
        axes.set_yticks(range(len(contestants)), contestants)
        axes.grid(False, axis="y")
    figure.axes[0].invert_yaxis()
    drawing.one_legend(figure)
    return figure


if __name__ == "__main__":
    drawing.save(draw(pd.read_csv(TABLE)), ROOT / "docs" / "figures" / "speed")
