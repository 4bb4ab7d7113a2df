"""benchmark/probes/guidance_cost.py: the rule's call is a part of the step."""

import re
import subprocess

import pytest
from conftest import ROOT
from handmade import command


@pytest.mark.parametrize("env_id", ["MountainCarContinuous-v0", "Taxi-v4"])
def test_the_cost_of_a_guided_step_is_a_part_of_the_step(env_id):
    line = command("probes.guidance_cost", f"--env-id={env_id}", "--steps=100", "--warm-up=150")
    output = subprocess.check_output(line, cwd=ROOT, text=True)
    assert " cuda=False" in output
    line = output.splitlines()[-1]
    step, call, share = map(float, re.findall(r"([0-9.]+) ms.* ([0-9.]+) ms: \+([0-9.]+)%", line)[0])
    assert 0 < call < step
    assert share == pytest.approx(100 * call / (step - call), rel=0.1)
