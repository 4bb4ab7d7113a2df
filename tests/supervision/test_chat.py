"""The questions of a run: what they may cost, and their record, from which a run is repeated."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Endpoint, scalars, texts
from consultations import (
    DECLINE,
    HARMFUL,
    INTERVENE,
    KEEP,
    RULE,
    RUN,
    SOON,
    acts,
    both,
    consult,
    consultant,  # noqa: F401
    exchanges,
    finish,
    same_run,
    user_text,
)

from supervision.chat import Question, RecordedChat

# -- budget ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "spent"), [({"llm_max_calls": 3}, "3 calls, --llm-max-calls 3"),
                          ({"llm_max_tokens": 31}, "45 tokens, --llm-max-tokens 31")]
)  # fmt: skip
def test_a_spent_budget_ends_the_questions(budget, spent, consultant, capsys):
    """15 tokens a call: both budgets allow three; then the run goes on unguided, and says so once."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, **budget)
        assert [consult(it, step) is not None for step in (10, 30, 40, 50)] == [True, False, False, False]
        assert [request["model"] for request in endpoint.requests] == ["an-advisor", "a-coder", "an-advisor"]
    finish(it)
    printed = capsys.readouterr().out
    assert printed.count(f"supervisor: no model is asked any more in this run: the budget is spent ({spent})") == 1
    assert printed.count("supervisor: unguided returns 0 (10 steps)") == 2
    assert spent in texts(it.run, "supervisor/verdict")[1]
    logged, latency = scalars(it.run), r"\d\.\d s a call"
    for tag, value in {"advisor_calls": 2, "advisor_prompt_tokens": 20, "advisor_completion_tokens": 10,
                       "coder_calls": 1, "coder_prompt_tokens": 10, "coder_completion_tokens": 5}.items():  # fmt: skip
        assert logged[f"llm/{tag}"][-1] == (51, value), tag
    mean = np.mean([e["seconds"] for e in exchanges(it.run) if e["role"] == "advisor"])
    assert logged["llm/advisor_seconds"][-1][1] == pytest.approx(mean, rel=1e-4) and mean > 0
    summary = rf"advisor 2 calls, 20 \+ 10 tokens, {latency}; coder 1 calls, 10 \+ 5 tokens, {latency}"
    assert re.search(f"supervisor: models: {summary}\n", printed)
    assert re.fullmatch(summary, texts(it.run, "llm/summary")[0])


@pytest.mark.parametrize("page", ["guided_sac_continuous.md", "guided_sac_discrete.md"])
def test_the_metrics_of_models_are_documented(page, consultant):
    with Endpoint(both(advice=DECLINE)) as endpoint:
        it = consultant(endpoint.url)
        consult(it)
    finish(it)
    table = (ROOT / "docs" / page).read_text().split("## Logged metrics")[1].split("## Implementation")[0]
    logged = {tag for tag in scalars(it.run) if tag.startswith("llm/")} | {"llm/summary"}
    assert logged == set(re.findall(r"`(llm/\w+)`", table))


# -- record and replay -------------------------------------------------------------------------------------------------


def test_a_run_is_repeated_bit_for_bit_without_a_network(run_here):
    """A question without an answer, repair turns, a rule that its trial ended, a kept rule and a spent budget.

    The first question, at step 10, has no answer. The harmful rule of the second window, from 110, is ended at the
    first look, three pairs of ten steps later, and its coder asked again at once. That rule is kept at 270; at 370 the
    seven calls are spent.
    """
    codes, advice = iter(["no code", HARMFUL, RULE]), iter(["no JSON", INTERVENE, KEEP])

    def script(body, n):
        if "Training step 10 of 400." in user_text(body):
            return 500, "down", SOON
        return next(codes if body["model"] == "a-coder" else advice)

    flags = [*RUN, "--guide-end", "390", "--probe-share", "0.9", "--save-model"]
    with Endpoint(script) as endpoint:
        first = run_here(*flags, "--llm-base-url", endpoint.url, "--llm-max-calls", "7")
    assert scalars(first.run_name)["charts/guidance_active"] == [
        (0, 0.0), (10, 0.0), (109, 0.0), (110, 1.0), (169, 1.0), (170, 0.0), (170, 1.0), (270, 1.0), (369, 1.0),
        (370, 0.0), (390, 0.0), (400, 0.0),
    ]  # fmt: skip
    said = exchanges(first.run_name)
    assert said[4]["trial"].startswith("the rule was ended, for it earned less: return -")
    assert said[5]["messages"][-1]["content"] == f"{said[4]['trial']}. Write another rule."
    flags[flags.index("llm")] = "replay"
    second = run_here(*flags, "--llm-log", f"runs/{first.run_name}/llm")
    assert second.supervisor.mode == "replay" and len(exchanges(first.run_name)) == 8
    assert {"losses/alpha", "llm/coder_seconds"} < set(scalars(first.run_name))
    same_run(first.run_name, second.run_name)
    for ours, theirs in zip(first.modules, second.modules, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.alone
def test_a_repetition_never_waits_for_a_rule_that_was_too_slow(consultant):
    """Which rules are too slow is the recorded machine's word."""
    codes = iter(["```python\ndef policy(obs, t):\n    while True:\n        pass\n```", RULE])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None
        finish(it)
    late = exchanges("run")[1]["verdict"]
    assert re.fullmatch(r"refused: policy\(obs, t\) at t=0 took longer than 2 s", late)
    started = time.time()
    again = consultant(None, "again", llm_log="runs/run/llm")
    assert consult(again) is not None and time.time() - started < 2
    finish(again)
    same_run("run", "again")


def test_a_repetition_may_take_longer_than_the_recorded_run(consultant):
    """A rule that was in time there needs 0.2 s a call on this machine."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url)
        consult(it)
        finish(it)
    path = Path("runs/run/llm/0001-coder.json")
    slow = "def policy(obs, t):\n    return 0.0 * sum(i for i in range(6_000_000))\n"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"answer": slow}))
    again = consultant(None, "again", llm_log="runs/run/llm")
    guidance = consult(again)
    started = time.time()
    assert acts(guidance) == [[0.0]]
    assert time.time() - started > 0.1  # else this test shows nothing


@pytest.fixture
def recorded(consultant) -> Path:
    """The log of one consultation."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url)
        consult(it)
        finish(it)
    return Path("runs/run/llm")


def test_a_prompt_that_has_changed_ends_the_repetition(consultant, recorded, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for name in ("advisor.md", "coder.md"):
        text = (ROOT / "prompts" / "default" / name).read_text()
        (prompts / name).write_text(text.replace("Do what the advice says", "Do what you like"))
    again = consultant(None, "again", llm_log=str(recorded), prompt_dir=str(prompts))
    with pytest.raises(SystemExit) as e:
        consult(again)
    message = str(e.value)  # goes to stderr, with exit status 1
    assert message.startswith("error: question 2 is not the one of --llm-log runs/run/llm")
    assert re.search(r"^-- Do what the advice says\..*\n\+- Do what you like\.", message, flags=re.MULTILINE)
    assert len(message.splitlines()) < 12  # the difference, not the prompts


def test_other_settings_end_the_repetition(consultant, recorded):
    """Another step and another policy are other questions; behind the last one, of a run that was cut off, say, the run
    goes on unguided."""
    again = consultant(None, "again", llm_log=str(recorded))
    with pytest.raises(SystemExit, match=r"\n-advisor at step 10\n\+advisor at step 20\n"):
        consult(again, 20)
    again = consultant(None, "other", llm_log=str(recorded))
    again.action = 0.1
    with pytest.raises(SystemExit, match=r"\n-.*: 0, 10, terminated\n(.*\n)*\+.*: 1, 10, terminated\n"):
        consult(again)
    again = consultant(None, "longer", llm_log=str(recorded))
    assert consult(again) is not None
    assert consult(again, 30) is None
    assert again.supervisor.chat.closed == "--llm-log runs/run/llm ends with question 2"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "\udcff", '{"asynchronous": false}', '{"asynchronous": false, "verdict": null}']
)
def test_a_log_that_cannot_be_read_is_one_clear_line(text, consultant, recorded):
    (recorded / "0001-coder.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"^--llm-log runs/run/llm cannot be read: ") as e:
        consultant(None, "again", llm_log=str(recorded))
    assert "\n" not in str(e.value)


def test_records_are_repeated_by_their_numbers(consultant, recorded):
    """Also beyond 9,999, where the names no longer sort as the numbers do."""
    (recorded / "0000-advisor.json").rename(recorded / "9999-advisor.json")
    (recorded / "0001-coder.json").rename(recorded / "10000-coder.json")
    assert consult(consultant(None, "again", llm_log=str(recorded))) is not None


def test_pictures_are_kept_and_not_compared(recorded):
    """Another machine draws them otherwise, or not at all."""
    chat = RecordedChat(recorded, Path("runs/again/llm"))
    record = exchanges("run")[0]
    exchange = chat.ask(Question("advisor", "m", 10, "", record["messages"], [("unguided t=3", b"jpeg")]))
    assert chat.finish(exchange) == INTERVENE
    assert Path("runs/again/llm/0000-advisor-frame-unguided-t-3.jpg").read_bytes() == b"jpeg"
