"""benchmark/speed.py: the count of an update's matrix products, and the protocol with a contestant."""

import subprocess

import discrete_speed
import pytest
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
