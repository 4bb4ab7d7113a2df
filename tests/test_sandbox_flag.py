"""`--sandbox`: whose rules are run on a machine that cannot confine them, and what a rule that is too slow is told."""

import pytest

import llm_supervisor as sup
from supervision.chat import LATE
from supervision.sandbox import confinement
from supervision.sandbox.messages import PolicyError
from supervision.sandbox.process import Budget


def supervisor(**flags) -> sup.Supervisor:
    args = sup.SupervisorArgs(llm_base_url="http://127.0.0.1:9/v1", **flags)
    args.env_id, args.guide_window, args.guide_start, args.guide_end = "MountainCarContinuous-v0", 1, 0, 1
    return sup.Supervisor(args, None, env_fn=went_on, run_dir="run")


class WentOn(Exception):
    """The check of the platform is passed: the environment is made next."""


def went_on(render_mode: str | None) -> None:
    raise WentOn


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ({"supervisor": "llm"}, True),
        ({"supervisor": "auto"}, True),
        ({"supervisor": "replay", "llm_log": "runs/run/llm"}, True),
        ({"supervisor": "llm", "sandbox": "weak"}, False),
        ({"supervisor": "bundled"}, False),
        ({"supervisor": "llm", "guide_policy": "mine.py"}, False),  # the model only judges
    ],
)
def test_only_a_model_s_rules_need_the_filter_of_system_calls(flags, refused, monkeypatch):
    monkeypatch.setattr(confinement, "missing_layers", lambda: {"seccomp": "for a test"})
    expected = (ValueError, "--sandbox weak accepts that risk") if refused else (WentOn, None)
    with pytest.raises(expected[0], match=expected[1]):
        supervisor(**flags).prepare()


def test_a_rule_that_is_too_slow_is_recorded_like_a_missed_deadline():
    """`--supervisor replay` knows both by the same words, and refuses the answer again."""
    times = iter([0.0, 9.0])
    budget = Budget(0, 0.002, warn=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PolicyError, match=LATE):
        patch.setattr("supervision.sandbox.process.cpu_time", lambda pid: next(times))
        for _ in range(201):
            budget.count(1)
