"""A rule that failed while it guided fails again at that step, in a repeated run and in one that goes on."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Endpoint, scalars, texts
from consultations import INTERVENE, RULE, RUN, both, exchanges, same_numbers, same_run
from processes import stop_at

FLAGS = [*RUN, "--trial-pairs", "0", "--probe-share", "0", "--guide-window", "300", "--total-timesteps", "420",
         "--save-model"]  # fmt: skip
SLOW = """```python
def policy(obs, t):
    x = 0.0
    for i in range(150_000):
        x += 1e-9 * i
    return 0.1
```"""
ENDLESS = "```python\ndef policy(obs, t):\n    while obs[0] > 5:\n        pass\n    return 0.9\n```"
ALWAYS = "```python\ndef policy(obs, t):\n    return 2\n```"


def replayed(flags: list[str], run_name: str) -> list[str]:
    flags = [flag if flag != "llm" else "replay" for flag in flags]
    return [*flags, "--llm-log", f"runs/{run_name}/llm"]


def said(printed: str) -> list[str]:
    """What was printed of the supervision, but for who it is, how long it took and where it lies."""
    lines = [line for line in printed.splitlines() if re.match(r"(step [\d,]+: )?supervisor: ", line)]
    return [re.sub(r"; supervision took [\d.]+ s; .*|[\d.]+ s a call", "", line) for line in lines]


def amend(run_name: str, number: int, failure: str) -> None:
    """Put down that a rule failed, beside the exchange of this number."""
    (path,) = Path(f"runs/{run_name}/llm").glob(f"{number:04d}-*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rule_failed": failure}))


@pytest.mark.parametrize(
    ("rule", "failed"),
    [
        pytest.param(SLOW, r"at step 200: policy\(obs, t\) took longer than 2 ms of CPU time a row: .*", id="budget"),
        pytest.param(ENDLESS, r"at step \d+: policy\(obs, t\) at t=\d took longer than 0.05 s", id="deadline"),
    ],
)
def test_a_rule_that_failed_in_training_fails_again_at_that_step(rule, failed, run_here, capsys):
    """200: the budget is an average of 200 calls behind the first; thirty were the dry run's, of the first three
    episodes' states, and the rule acts from step 30 on."""
    with Endpoint(both(code=rule)) as endpoint:
        first = run_here(*FLAGS, "--llm-base-url", endpoint.url)
    expected = said(capsys.readouterr().out)
    second = run_here(*replayed(FLAGS, first.run_name))
    assert said(capsys.readouterr().out) == expected
    record = exchanges(first.run_name)[1]["rule_failed"]
    assert re.fullmatch(failed, record, re.DOTALL)
    step, text = int(record.split()[2][:-1]), record.partition(": ")[2]
    assert scalars(second.run_name)["charts/guidance_active"][:5] == [
        (0, 0.0), (29, 0.0), (30, 1.0), (step - 1, 1.0), (step, 0.0),
    ]  # fmt: skip
    assert texts(second.run_name, "supervisor/verdict")[1].startswith(
        "the rule failed, unguided until the next window: "
    )
    assert any(f"step {step}: supervisor: the rule failed, unguided until the next window: {text}".startswith(line)
               for line in expected)  # fmt: skip
    assert f"; at step {step} the rule failed: " in exchanges(first.run_name)[2]["messages"][1]["content"]
    same_run(first.run_name, second.run_name)
    for ours, theirs in zip(first.modules, second.modules, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("script", "env_id", "rule", "flags"),
    [
        ("guided_sac_continuous.py", "Line-v0", RULE, ["--num-envs", "3", "--learning-starts", "30"]),
        ("guided_sac_discrete.py", "FrozenLake-v1", ALWAYS, ["--guide-probability", "1"]),
    ],
)
def test_the_record_alone_decides_when_a_rule_fails(script, env_id, rule, flags, run_here):
    """A rule that never fails here ends at the step and in the words on record: where that machine killed it, say.

    The first window begins six steps of each environment behind the start, a tenth of it, or where an episode ends.
    It is kept over windows, in which nobody is asked, so the step lies two windows behind the exchange that brought it.
    """
    flags = [*RUN, "--env-id", env_id, *flags, "--advisor-always", "--guide-window", "60", "--guide-end", "240",
             "--total-timesteps", "246"]  # fmt: skip
    with Endpoint(both(code=rule)) as endpoint:
        first = run_here(*flags, "--llm-base-url", endpoint.url, script=ROOT / script)
    assert len(exchanges(first.run_name)) == 1
    words = "policy(obs, t) at t=3 ended the policy's process: signal 9 (Killed)\nand more"
    amend(first.run_name, 0, f"at step 150: {words}")
    again = run_here(*replayed(flags, first.run_name), script=ROOT / script)
    active = scalars(again.run_name)["charts/guidance_active"]
    begin = active[2][0]
    assert 0 < begin <= 18 and active[:5] == [
        (0, 0.0), (begin - 1, 0.0), (begin, 1.0), (149, 1.0), (150, 0.0),
    ]  # fmt: skip
    assert scalars(again.run_name)["supervisor/failures"][1] == (150, 1.0)
    assert "signal 9 (Killed)" in texts(again.run_name, "supervisor/verdict")[1]
    (record,) = [e for e in exchanges(again.run_name) if "rule_failed" in e]
    assert record["rule_failed"] == f"at step 150: {words}"


def test_no_rule_is_too_slow_for_a_repeated_run(run_here):
    """A rule that was in time there exceeds its budget here, and guides to the window's end."""
    flags = [*FLAGS, "--guide-end", "300"]
    with Endpoint(both()) as endpoint:
        first = run_here(*flags, "--llm-base-url", endpoint.url)
    path = Path(f"runs/{first.run_name}/llm/0001-coder.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"answer": SLOW}))
    again = run_here(*replayed(flags, first.run_name))
    assert scalars(again.run_name)["charts/guidance_active"] == [
        (0, 0.0), (29, 0.0), (30, 1.0), (299, 1.0), (300, 0.0), (420, 0.0),
    ]  # fmt: skip


# windows at 10, 110 and 210; half of the episodes are probes: the rule acts from 60 to 70, 120 to 130, 260 to 270
BRIEF = ["--guide-window", "100", "--guide-end", "300", "--total-timesteps", "310", "--checkpoint-frequency", "40",
         "--checkpoint-keep", "all", "--trial-pairs", "0", "--probe-share", "0.5"]  # fmt: skip


def cut_off(run_here, monkeypatch, flags: list[str], step: int) -> str:
    """Interrupt a run after this step; returns its name."""
    before = {*Path("runs").iterdir()} if Path("runs").is_dir() else set()
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(SystemExit):
            run_here(*flags)
    (folder,) = {*Path("runs").iterdir()} - before
    return folder.name


def test_a_repeated_run_that_goes_on_fails_at_the_recorded_step(run_here, monkeypatch):
    """Interrupted twice while the rule guides, before the step and behind it."""
    with Endpoint(both()) as endpoint:
        first = run_here(*RUN, *BRIEF, "--llm-base-url", endpoint.url)
    amend(first.run_name, 5, "at step 267: it was killed")
    flags = replayed([*RUN, *BRIEF], first.run_name)
    whole = run_here(*flags)
    assert (267, 0.0) in scalars(whole.run_name)["charts/guidance_active"]
    cut = cut_off(run_here, monkeypatch, flags, 230)
    with monkeypatch.context() as patch:
        stop_at(patch, 280)
        with pytest.raises(SystemExit):
            run_here("--resume", f"runs/{cut}")
    for step in (230, 280):
        assert Path(f"runs/{cut}/checkpoints/step_{step:09}.pt").is_file()
    run_here("--resume", f"runs/{cut}")
    same_run(whole.run_name, cut)


@pytest.mark.parametrize(("cut_at", "number", "failed_at"), [(90, 1, 67), (130, 3, 125)])
def test_what_failed_behind_the_checkpoint_fails_again_in_the_run_that_goes_on(
    cut_at, number, failed_at, run_here, monkeypatch
):
    """The record of a run that is killed is ahead of its checkpoint: in the window that goes on, or in one behind it.

    Else the record would tell of a failure that the run, as it then went, has not had.
    """
    with Endpoint(both()) as endpoint:
        cut = cut_off(run_here, monkeypatch, [*RUN, *BRIEF, "--llm-base-url", endpoint.url], cut_at)
        for path in Path(f"runs/{cut}/checkpoints").iterdir():
            if path.name != "step_000000040.pt":
                path.unlink()
        failure = f"at step {failed_at}: it was killed"
        amend(cut, number, failure)
        run_here("--resume", f"runs/{cut}")
        assert len(endpoint.requests) == 6  # none twice
    next_one = 110 if failed_at < 110 else 210
    active = {(0, 0.0), (9, 0.0), (10, 1.0), (110, 1.0), (failed_at - 1, 1.0), (failed_at, 0.0), (next_one - 1, 0.0),
              (210, 1.0), (299, 1.0), (300, 0.0), (310, 0.0)}  # fmt: skip
    assert scalars(cut)["charts/guidance_active"] == sorted(active)
    assert [e.get("rule_failed") for e in exchanges(cut)] == [failure if i == number else None for i in range(6)]
    repeated = run_here(*replayed([*RUN, *BRIEF], cut))
    same_numbers(cut, repeated.run_name)  # TensorBoard's reader keeps both texts of a step that was run twice


@pytest.mark.parametrize("step", [125, 135], ids=["in a guided episode", "in a probe"])
def test_a_rule_that_cannot_be_started_again_is_a_failure_on_record(step, run_here, monkeypatch, capsys):
    with Endpoint(both()) as endpoint:
        cut = cut_off(run_here, monkeypatch, [*RUN, *BRIEF, "--llm-base-url", endpoint.url], step)
        path = Path(f"runs/{cut}/checkpoints/step_{step:09d}.pt")
        state = torch.load(path, weights_only=True)
        state["parts"]["supervisor"]["rule"]["source"] = "import os"
        torch.save(state, path)
        capsys.readouterr()
        run_here("--resume", f"runs/{cut}")
    lost = r"it could not be started again: .*os.*"
    assert re.search(f"step {step}: supervisor: the rule failed, unguided until the next window: {lost}\n",
                     capsys.readouterr().out)  # fmt: skip
    assert re.match(f"at step {step}: {lost}", exchanges(cut)[3]["rule_failed"])
    assert (step, 0.0) in scalars(cut)["charts/guidance_active"]
    same_run(cut, run_here(*replayed([*RUN, *BRIEF], cut)).run_name)


def test_a_fixed_rule_that_was_late_before_it_guided_cannot_be_repeated(run_here, tmp_path):
    """Its check comes before training and in each consultation, and only what fails in training has a step."""
    (tmp_path / "mine.py").write_text("def policy(obs, t):\n    return 0.5\n")
    flags = [*FLAGS, "--guide-policy", "mine.py"]
    with Endpoint(both(advice=INTERVENE)) as endpoint:
        first = run_here(*flags, "--llm-base-url", endpoint.url)
    amend(first.run_name, 0, "policy(obs, t) at t=7 took longer than 0.05 s")
    with pytest.raises(
        SystemExit, match=r"cannot be repeated exactly: policy\(obs, t\) at t=7 took longer than 0.05 s$"
    ):
        run_here(*replayed(flags, first.run_name))
