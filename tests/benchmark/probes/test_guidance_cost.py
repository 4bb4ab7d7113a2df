"""benchmark/probes/guidance_cost.py: the rule's call is a part of the step."""

import re
import runpy
import sys

import pytest
from gymnasium.vector import SyncVectorEnv

from benchmark.probes import guidance_cost
from supervision.sandbox.policy import SandboxedPolicy


@pytest.mark.parametrize("env_id", ["MountainCarContinuous-v0", "Taxi-v4"])
def test_the_cost_of_a_guided_step_is_a_part_of_the_step(env_id, monkeypatch, capsys):
    for owner, name in ((SandboxedPolicy, "__call__"), (SyncVectorEnv, "step")):  # put back behind the test
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(sys, "argv", ["guidance_cost.py", f"--env-id={env_id}", "--steps=40", "--warm-up=105"])
    runpy.run_path(guidance_cost.__file__, run_name="__main__")
    output = capsys.readouterr().out
    assert " cuda=False" in output
    line = output.splitlines()[-1]
    step, call, share = map(float, re.findall(r"([0-9.]+) ms.* ([0-9.]+) ms: \+([0-9.]+)%", line)[0])
    assert 0 < call < step
    assert share == pytest.approx(100 * call / (step - call), rel=0.1)
