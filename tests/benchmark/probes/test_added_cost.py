"""benchmark/probes/added_cost.py: what guidance and the bonuses add to plain SAC."""

import pytest
from conftest import ROOT
from gymnasium.vector import SyncVectorEnv

from benchmark.probes import added_cost

PEER = """
import sys
script = sys.argv[2].rpartition("/")[2]
for line in sys.stdin:
    print(int(line) * len(script) / 1000, flush=True)
"""


def test_what_a_bonus_adds_is_compared_round_by_round():
    drifting = [10.0, 20.0, 40.0]
    assert added_cost.added([11.0, 26.0, 40.0], drifting) == pytest.approx([0.1, 0.3, 0.0])


def test_plain_sac_and_what_adds_to_it_take_turns(monkeypatch, tmp_path):
    """With a peer that takes a millisecond a step for each letter of its script's name."""
    (tmp_path / "peer.py").write_text(PEER)
    monkeypatch.setattr(added_cost, "PEER", tmp_path / "peer.py")
    times = added_cost.race(added_cost.Args(env_id="MountainCarContinuous-v0", blocks=2, steps=5, warm_up=105))
    assert list(times) == [added_cost.PLAIN, *added_cost.BARS]
    assert times == {
        name: pytest.approx([len(script)] * 2) for name, (script, *_) in added_cost.CONTESTANTS.items()
    }  # fmt: skip


@pytest.mark.parametrize("name", added_cost.BARS)
def test_what_adds_to_plain_sac_steps_as_often(name, run_here, monkeypatch):
    """Every step of the environment is one of the script's, and guidance is there at each."""
    script, *flags = added_cost.CONTESTANTS[name]
    steps, step = [], SyncVectorEnv.step
    monkeypatch.setattr(SyncVectorEnv, "step", lambda self, actions: steps.append(1) or step(self, actions))
    run = run_here("--env-id", "MountainCarContinuous-v0", "--total-timesteps", "107", "--learning-starts", "100",
                   *flags, script=ROOT / script)  # fmt: skip
    assert len(steps) == run.global_step == 107
    if name == added_cost.GUIDED:
        assert run.supervisor.guidance.guided_steps == 107
