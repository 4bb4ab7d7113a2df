"""benchmark/speed.py and its kin: the count of an update's matrix products, and the protocol with a contestant."""

import subprocess
from pathlib import Path

import discrete_speed
import pandas as pd
import pytest
import scaling
from conftest import ROOT
from speed import Args, Contestant, commands, products


def test_products_are_those_of_one_update():
    """By hand, multiplications per transition of the batch: forward ones, then gradients."""
    obs, act, hidden = 348, 17, 256
    actor = obs * hidden + hidden * hidden + hidden * 2 * act
    critics = 2 * ((obs + act) * hidden + hidden * hidden + hidden)
    through_critics = 2 * (hidden * hidden + hidden)
    expected = 2 * actor + 3 * critics  # π(s), π(s'); Q̄(s', a'), Q(s, a), Q(s, π(s))
    expected += critics + through_critics  # the critics' step
    expected += through_critics + 2 * act * hidden  # from the actor's loss to the actions
    expected += actor + hidden * hidden + 2 * act * hidden  # the actor's step
    ours = sum(times * rows * inner * columns for times, rows, inner, columns in products(obs, act, batch=256))
    assert ours == 256 * expected


CONTESTANTS = commands(Args(), "MountainCarContinuous-v0") | {
    f"discrete: {name}": discrete_speed.command(discrete_speed.Args(), name) for name in discrete_speed.FLAGS
}


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_contestant_answers_each_block_with_its_seconds(name, tmp_path):
    peer = Contestant(name, CONTESTANTS[name], str(tmp_path), {"OMP_NUM_THREADS": "1", "PATH": ""})
    try:
        seconds = [peer.run(110), peer.run(5), peer.run(50)]
        assert all(s is not None for s in seconds), peer.error
        assert 0 < seconds[1] < seconds[2]
    finally:
        peer.process.kill()
        peer.process.wait()
    assert peer.run(5) is None and peer.error


def test_filling_the_buffer_counts_in_peak_memory(tmp_path):
    def peak(*flags: str) -> int:
        command = [*commands(Args(), "MountainCarContinuous-v0")["ours"], *flags, "--fill"]
        return int(subprocess.check_output(command, cwd=tmp_path, text=True).splitlines()[-1])

    each = 4 * (2 + 1 + 1 + 1) + 8 * 2  # observation, action, reward, termination; two numbers of places
    grown = peak("--buffer-size", "5000000") - peak("--buffer-size", "1000")
    assert grown == pytest.approx(5e6 * each, rel=0.05)


@pytest.mark.parametrize("panel", scaling.PANELS)
def test_a_setting_of_the_scaling_figure_runs(panel, tmp_path):
    command = scaling.command(panel, scaling.PANELS[panel][0], tmp_path)
    env = {"OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": f"{ROOT / 'benchmark'}:{ROOT}"}
    peer = Contestant(panel, command, str(tmp_path), env)
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
