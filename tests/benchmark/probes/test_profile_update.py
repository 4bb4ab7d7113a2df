"""benchmark/probes/profile_update.py: the parts of a step, and its operations."""

import runpy
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, needs_compiler
from gymnasium.vector import SyncVectorEnv
from handmade import command

from benchmark.probes import profile_update
from guided_utils import optimisation

BRIEF = ["--env-id=MountainCarContinuous-v0", "--steps=20", "--warm-up=105"]


def test_the_parts_of_a_step_are_the_spans_between_its_moments():
    """Two whole steps and a begun one, by hand; the second takes twice as long as the first in every part."""
    spans = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    moments, now = [("step begins", 0.0), ("step ends", 0.5), ("step begins", 1.0)], 1.0
    for factor in (1, 2):
        for name, span in zip(profile_update.PARTS, spans, strict=True):
            now += factor * span
            moments += [("lerp begins", now - 0.1), (name, now)]
    means = profile_update.parts([*moments, ("step ends", now + 9.0)], steps=2)
    assert means == pytest.approx(dict(zip(profile_update.PARTS.values(), [1.5 * s for s in spans], strict=True)))
    with pytest.raises(ValueError, match="a step of the script is no longer"):
        profile_update.parts(moments, steps=3)


@pytest.fixture
def profile(monkeypatch, capsys):
    """Runs the program in this process, and returns what it printed; what it wraps is put back behind the test."""

    def run(*flags: str) -> str:
        for owner, name in ((torch, "randn"), (torch, "_foreach_lerp_"), (optimisation, "Adam"),
                            (SyncVectorEnv, "step")):  # fmt: skip
            monkeypatch.setattr(owner, name, getattr(owner, name))
        monkeypatch.setattr(sys, "argv", ["profile_update.py", *BRIEF, *flags])
        runpy.run_path(profile_update.__file__, run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--no-compile", pytest.param("--compile", marks=needs_compiler)])
def test_the_profile_is_of_the_scripts_own_steps(flag, profile):
    if flag == "--compile":  # a process of its own: what is compiled stays wrapped
        line = command("probes.profile_update", *BRIEF, flag)
        output = subprocess.check_output(line, cwd=ROOT, text=True)
    else:
        output = profile(flag)
    *_, head, _, row = output.splitlines()
    parts = profile_update.COMPILED_PARTS if flag == "--compile" else profile_update.PARTS
    assert head.strip("| ").split(" | ") == ["step", *parts.values()]
    step, *means = map(float, row.strip("| ").split(" | "))
    assert step == pytest.approx(sum(means), abs=0.05)
    assert min(means) > 0 and step < 10_000


def test_the_operations_are_those_of_the_steps_that_count(profile):
    """By hand: a step passes the actor's three layers three times, and the critics' Adam, the actor's and that of alpha
    are three calls of the fused kernel."""
    lines = profile("--operations=1000").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]
    calls = {name.strip("`"): float(number) for name, number, _ in rows}
    assert calls["aten::addmm"] == 3 * 3  # to act, and on s and s' in the update: three layers each
    assert calls["aten::_fused_adam_"] == 3
    assert rows[-1][0] == "all"
    own = [float(row[2]) for row in rows]
    assert own[:-1] == sorted(own[:-1], reverse=True)
    assert own[-1] == pytest.approx(sum(own[:-1]), abs=0.01 * len(own))


def test_only_the_listed_operations_are_cut_off():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(6):
            torch.ones(4).exp_().add_(1)
    everything = profile_update.operations(profiler, steps=2, most=100)
    assert {name: calls for name, calls, _ in everything}["`aten::exp_`"] == 3
    head = profile_update.operations(profiler, steps=2, most=1)
    assert [head[0], head[-1]] == [everything[0], everything[-1]] and len(head) == 2
