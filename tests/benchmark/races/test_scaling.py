"""benchmark/races/scaling.py: each setting runs, and the figure shows the table."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from benchmark.races import scaling
from benchmark.races.speed import Contestant

IN_FORCE = {
    "batch size": lambda run: run.args.batch_size,
    "width of the hidden layers": lambda run: run.actor.fc2.in_features,
    "observation size": lambda run: run.rb.transitions.observations.shape[1],
}


@pytest.mark.parametrize("panel", IN_FORCE)
def test_a_setting_of_the_scaling_figure_is_in_force(panel, run_here, tmp_path):
    value = scaling.PANELS[panel][0]
    _, _, _, script, env_id, *flags = scaling.command(panel, value, tmp_path)
    run = run_here("--env-id", env_id, "--total-timesteps", "110", "--learning-starts", "100", *flags, script=script)
    assert IN_FORCE[panel](run) == value and run.global_step == 110


def test_a_setting_of_the_scaling_figure_runs_as_a_contestant(tmp_path):
    command = scaling.command("environments", 4, tmp_path)
    env = {"OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": str(ROOT)}
    peer = Contestant("environments", command, str(tmp_path), env)
    try:
        assert peer.run(110) is not None, peer.error
    finally:
        peer.process.kill()
        peer.process.wait()


def test_the_copy_of_another_width_differs_in_nothing_else(tmp_path):
    path = scaling.command("width of the hidden layers", 64, tmp_path)[3]
    pairs = zip(Path(path).read_text().splitlines(), scaling.SCRIPT.read_text().splitlines(), strict=True)
    changed = [(ours, script) for ours, script in pairs if ours != script]
    assert len(changed) == 3
    assert all(ours == script.replace("hidden: int = 256", "hidden: int = 64") for ours, script in changed)


def test_the_scaling_figure_shows_the_table():
    rows = [
        [panel, value, 2.0 * value, value, 3.0 * value, 0.5 * value]
        for panel, values in scaling.PANELS.items() for value in values
    ]  # fmt: skip
    figure = scaling.draw(pd.DataFrame(rows, columns=["panel", "value", "ms", "lowest", "highest", "products_ms"]))
    for axes, (panel, values) in zip(figure.axes, scaling.PANELS.items(), strict=True):
        step, alone, *per_env = axes.get_lines()
        assert list(step.get_xdata()) == list(values)
        assert list(step.get_ydata()) == [2.0 * v for v in values] and list(alone.get_ydata()) == [
            0.5 * v for v in values
        ]
        assert [list(line.get_ydata()) for line in per_env] == (
            [[2.0] * len(values)] if panel == "environments" else []
        )
