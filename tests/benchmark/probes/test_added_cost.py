"""benchmark/probes/added_cost.py: what guidance and the bonuses add to plain SAC."""

import pytest

from benchmark.probes import added_cost


def test_what_a_bonus_adds_is_compared_round_by_round():
    drifting = [10.0, 20.0, 40.0]
    assert added_cost.added([11.0, 26.0, 40.0], drifting) == pytest.approx([0.1, 0.3, 0.0])


def test_plain_sac_and_what_adds_to_it_take_turns(monkeypatch):
    monkeypatch.setenv("PATH", "")
    args = added_cost.Args(env_id="MountainCarContinuous-v0", blocks=2, steps=5, warm_up=105, threads=1)
    times = added_cost.race(args)
    assert list(times) == [added_cost.PLAIN, *added_cost.BARS]
    assert all(len(blocks) == 2 and min(blocks) > 0 for blocks in times.values())
