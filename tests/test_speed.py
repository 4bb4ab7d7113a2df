"""benchmark/speed.py and its kin: the count of an update's matrix products, and the protocol with a contestant."""

import re
import subprocess
import sys
from pathlib import Path

import added_cost
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


def test_what_a_bonus_adds_is_compared_round_by_round():
    drifting = [10.0, 20.0, 40.0]
    assert added_cost.added([11.0, 26.0, 40.0], drifting) == pytest.approx([0.1, 0.3, 0.0])


def test_plain_sac_and_what_adds_to_it_take_turns(monkeypatch):
    monkeypatch.setenv("PATH", "")
    args = added_cost.Args(env_id="MountainCarContinuous-v0", blocks=2, steps=5, warm_up=105, threads=1)
    times = added_cost.race(args)
    assert list(times) == [added_cost.PLAIN, *added_cost.BARS]
    assert all(len(blocks) == 2 and min(blocks) > 0 for blocks in times.values())


def test_the_cost_of_a_guided_step_is_a_part_of_the_step():
    command = ["benchmark/guidance_cost.py", "--env-id=MountainCarContinuous-v0", "--steps=100", "--warm-up=150"]
    line = subprocess.check_output([sys.executable, *command], cwd=ROOT, text=True).splitlines()[-1]
    step, call, share = map(float, re.findall(r"([0-9.]+) ms.* ([0-9.]+) ms: \+([0-9.]+)%", line)[0])
    assert 0 < call < step
    assert share == pytest.approx(100 * call / (step - call), rel=0.1)
