"""One consultation with two models: answers that must be mended, what the advisor is told, waiting in a thread."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Endpoint, scalars, texts
from consultations import (
    ADVICE,
    DECLINE,
    INTERVENE,
    RULE,
    RUN,
    acts,
    assert_unguided,
    both,
    consult,
    consultant,  # noqa: F401
    exchanges,
    failures,
    finish,
    train,
    user_text,
)

import llm_supervisor as sup
from supervision.answers import gist, parse_code
from supervision.consultation import Decision

# -- answers that must be mended ---------------------------------------------------------------------------------------


def test_the_advisor_may_repair_its_answer_once(consultant):
    """The conversation goes on: its answer without the thoughts, then what was wrong with it."""
    bad = f"<think>hm</think>{json.dumps(ADVICE | {'intervene': 'yes'})}"
    with Endpoint(lambda body, n: bad if n == 0 else both()(body, n)) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None and failures(it) == 0
    first, second, _ = endpoint.requests
    assert second["messages"][:2] == first["messages"] and second["response_format"] == first["response_format"]
    assert second["messages"][2] == {"role": "assistant", "content": json.dumps(ADVICE | {"intervene": "yes"})}
    assert second["messages"][3]["role"] == "user"
    assert second["messages"][3]["content"].startswith(
        'the advisor\'s answer is unusable: "intervene" must be true or false. Answer again'
    )
    records = exchanges("run")
    assert records[0]["verdict"] == 'refused: the advisor\'s answer is unusable: "intervene" must be true or false'
    assert records[0]["answer"] == bad and records[1]["verdict"] == "intervene"


def test_the_advisor_may_not_repair_its_answer_twice(consultant):
    with Endpoint(both(advice="No.")) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is None and failures(it) == 1
    assert len(endpoint.requests) == 2


def rule(body: str) -> str:
    return f"```python\nimport numpy as np\n\ndef policy(obs, t):\n{body}\n```"


REFUSED = {  # what is wrong with a rule, and the reason that its author reads
    "syntax": (rule("    return ("), "line 4: syntax error: '\\(' was never closed"),
    "forbidden name": (rule("    return open('x')"), "line 4: .*open"),
    "wrong shape": (rule("    return np.zeros(2)"), r"returned shape \(2,\), expected \(1,\)"),
    "out of range": (rule("    return 1.5"), r"returned .*1\.5.*"),
    "not finite": (rule("    return np.nan"), "nan"),
    "exception": (rule("    return obs[17]"), "IndexError: .*"),
    "two rules": (f"{RULE}\nor\n{RULE}", "more than one code block"),
    "two functions": (
        f"{RULE[:-3]}\n\ndef policy(obs, t):\n    return 0.0\n```",
        "`policy` is already defined in line 8",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_the_coder_is_told_what_is_wrong_with_its_rule(fault, consultant):
    code, reason = REFUSED[fault]
    codes = iter([code, RULE])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        it = consultant(endpoint.url)
        assert acts(consult(it)) == [[0.5]] and failures(it) == 0
    first, second = (request["messages"] for request in endpoint.requests[1:])
    assert second[:2] == first and second[2] == {"role": "assistant", "content": code}
    told = second[3]["content"]
    assert second[3]["role"] == "user" and told.startswith("This answer was refused. Mend it. The reason:\n")
    assert re.search(reason, told), told
    if fault == "exception":
        assert "line 4" in told and "return obs[17]" in told  # the traceback's place
    refused, accepted = exchanges("run")[1:]
    assert refused["verdict"] == "refused: " + told.partition("reason:\n")[2]
    assert accepted["verdict"] == "guiding"


def test_the_coder_has_as_many_attempts_as_it_is_given(consultant):
    with Endpoint(both(code="no")) as endpoint:
        it = consultant(endpoint.url, coder_attempts=4)
        assert consult(it) is None and failures(it) == 1
    turns = [len(request["messages"]) for request in endpoint.requests]
    assert turns == [2, 2, 4, 6, 8]


# -- memory ------------------------------------------------------------------------------------------------------------


FALLS = """```python
def policy(obs, t):
    return 0.5 if obs[0] < 2 else 1 / 0
```"""


def tried(request: dict) -> str:
    return user_text(request).partition("What was tried before")[2]


def test_the_advisor_is_told_what_was_tried_and_what_came_of_it(consultant):
    """Returns of ten steps by hand: 0 of a still agent, 2 after it has learned to move by 0.2.

    The rule begins at step 10 and fails where it has brought the agent to 2, after four steps of 0.5.
    """
    script = iter([INTERVENE, FALLS, DECLINE, DECLINE])
    with Endpoint(lambda body, n: next(script)) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None
        train(it, 20)
        assert failures(it) == 1 and it.guided == [10, 11, 12, 13]
        it.action = 0.2
        consult(it, 30)
        consult(it, 40)
    advisor = [tried(request) for request in endpoint.requests if request["model"] == "an-advisor"]
    assert advisor[0] == ": nothing yet."
    failed = r"at step 14 the rule failed: policy\(obs, t\) at t=4 raised ZeroDivisionError: .*"
    lines = advisor[1].splitlines()
    assert lines[0] == " (1 consultations so far, the last of them):" and len(lines) == 2
    first = rf"step 10: unguided returns 0 \(10 steps\); advice: push to the right; guiding; {failed}"
    assert re.fullmatch(first, lines[1]), lines[1]
    assert advisor[2].splitlines() == [
        " (2 consultations so far, the last of them):", lines[1],
        "step 30: unguided returns 0 (10 steps), 2 (10 steps); not intervening",
    ]  # fmt: skip


def test_memory_is_bounded(consultant):
    """After 1,000 consultations with talkative models: the last eight, in at most 900 characters each."""
    talk = json.dumps(ADVICE | {"intervene": False, "advice": "word\n" * 2_000})
    asked = []
    with Endpoint(lambda body, n: asked.append(user_text(body)) or talk) as endpoint:
        it = consultant(endpoint.url)
        held = it.supervisor.consultations
        for number in range(1, 1_001):
            if 30 < number <= 970:  # the same without the question, which takes most of the time
                train(it, 10 * number)
                held.count += 1
                it.supervisor._report(Decision(None, "not intervening", "word\n" * 2_000), it.step, it.writer)
            else:
                consult(it, 10 * number)
            held.history[-1] += "; at step 5 the rule failed: " + gist("x" * 1_000)
    head, *lines = tried(endpoint.requests[-1]).splitlines()
    assert head == " (999 consultations so far, the last of them):"
    assert [line.partition(":")[0] for line in lines] == [f"step {10 * n}" for n in range(992, 1_000)]
    assert all(400 < len(line) <= 900 for line in lines) and failures(it) == 0
    early, late = (re.sub(r"[\d,]+", "#", text) for text in (asked[29], asked[-1]))
    assert early == late  # only numbers of steps have grown


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_training_goes_on_while_models_think(consultant):
    """Each of the two answers takes 0.3 s; no consultation takes nearly as long, and then the window begins."""
    with Endpoint(lambda body, n: time.sleep(0.3) or both()(body, n)) as endpoint:
        it = consultant(endpoint.url, llm_async=True)
        assert consult(it) is None and it.supervisor.waiting
        started = time.time()
        while it.supervisor.waiting and time.time() - started < 20:
            time.sleep(0.01)
            assert it.supervisor.guiding is None
            consult(it, it.step + 1)
        assert acts(it.guidance) == [[0.5]]
        assert it.step > 15 and not it.guided and it.supervisor.seconds < time.time() - started - 0.3
        assert [request["model"] for request in endpoint.requests] == ["an-advisor", "a-coder"]
    finish(it)
    active = scalars(it.run)["charts/guidance_active"]
    assert active[:2] == [(0, 0.0), (10, 0.0)] and active[-3:] == [
        (it.step - 1, 0.0),
        (it.step, 1.0),
        (it.step + 1, 0.0),
    ]
    assert not any(value for _, value in active[:-2])
    assert all(record["asynchronous"] for record in exchanges("run"))
    with pytest.raises(ValueError, match="cannot be repeated exactly: it was recorded with --llm-async"):
        consultant(None, "again", llm_log="runs/run/llm")


@pytest.mark.alone
@pytest.mark.parametrize("pause", [0.0, 1.0])  # before the run looks for the answer: the client's own time-out is first
def test_a_deadline_holds_while_training_goes_on(consultant, capsys, pause):
    with Endpoint(lambda body, n: time.sleep(5) or INTERVENE) as endpoint:
        it = consultant(endpoint.url, llm_async=True, llm_timeout=0.3)
        started = time.time()
        assert consult(it) is None
        time.sleep(pause)
        while it.supervisor.waiting:
            assert consult(it) is None and time.time() - started < 4
    assert_unguided(it, None, "no answer within 0.3 s", capsys.readouterr().out)


@pytest.mark.alone
def test_a_question_that_waits_at_the_end_is_given_up(consultant, capsys):
    with Endpoint(lambda body, n: time.sleep(5) or INTERVENE) as endpoint:
        it = consultant(endpoint.url, llm_async=True, llm_timeout=60.0)
        started = time.time()
        assert consult(it) is None and it.supervisor.waiting
        finish(it)
        assert not it.supervisor.waiting and time.time() - started < 2
    (record,) = exchanges("run")
    assert record["error"] == "given up: the guided time was over" and record["answer"] is None
    # the question was sent and is paid for: four characters a token, 300 tokens a picture
    asked = sum(len(turn["content"]) for turn in record["messages"]) // 4 + 300 * len(record["images"])
    assert asked > 500
    assert f"advisor 1 calls, about {asked:,} + 0 tokens" in capsys.readouterr().out


def test_an_asynchronous_run(run_here):
    """The window begins when the answers are there and then lasts as long as any other; a late answer is given up."""
    slow = [0.0, 0.05]  # of the advisor and of the coder

    def script(body, n):
        time.sleep(slow[body["model"] == "a-coder"] if n < 2 else 300)
        return both()(body, n)

    flags = ["--llm-async", "--llm-timeout", "600", "--guide-window", "800", "--guide-end", "9000", "--total-timesteps",
             "2000", "--learning-starts", "2000"]  # fmt: skip
    with Endpoint(script) as endpoint:
        started = time.time()
        run = run_here(*RUN, "--llm-base-url", endpoint.url, *flags)
        assert time.time() - started < 200 and run.global_step == 2_000
    active = scalars(run.run_name)["charts/guidance_active"]
    ones = [step for step, value in active if value == 1.0]
    begin = ones[0]
    assert 10 < begin < 800 and ones == [begin, begin + 799] and (begin + 800, 0.0) in active
    assert [e["error"] for e in exchanges(run.run_name)] == [None, None, "given up: the guided time was over"]


# -- a machine on which no rule's process starts ----------------------------------------------------------------------


def break_starts(monkeypatch, times: int = 1_000) -> None:
    """Let so many starts of a rule's process fail, as a temporary folder that is gone does."""
    popen, left = subprocess.Popen, [times]

    def start(*args, **options):
        if left[0] == 0:
            return popen(*args, **options)
        left[0] -= 1
        raise FileNotFoundError(2, "No such file or directory", "/gone")

    monkeypatch.setattr("supervision.sandbox.policy.subprocess.Popen", start)


NO_START = "a rule's process could not be started: [Errno 2] No such file or directory: '/gone'"


def test_it_is_found_out_before_training(consultant, monkeypatch):
    break_starts(monkeypatch)
    with Endpoint(both()) as endpoint, pytest.raises(ValueError) as caught:
        consultant(endpoint.url)
    assert str(caught.value) == NO_START and endpoint.requests == [] and not list(Path().iterdir())


def test_no_supervisor_starts_no_process(monkeypatch):
    break_starts(monkeypatch)
    args = sup.SupervisorArgs(supervisor="none")
    args.env_id = "Line-v0"
    sup.Supervisor(args, None, env_fn=pytest.fail, run_dir="run").prepare()


def test_it_costs_the_window_and_is_not_told_to_the_coder(consultant, monkeypatch, capsys):
    """The paid answer is kept in the record with what became of it; the next window goes on as usual."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, coder_attempts=3)
        break_starts(monkeypatch, times=1)
        assert consult(it, 10) is None and failures(it) == 1
        assert f"step 10: supervisor: unguided returns 0 (10 steps); unguided: {NO_START}\n" in capsys.readouterr().out
        assert consult(it, 20) is not None and failures(it) == 1
    assert [request["model"] for request in endpoint.requests] == ["an-advisor", "a-coder"] * 2
    assert all(len(request["messages"]) == 2 and NO_START not in str(request["messages"])
               for request in endpoint.requests if request["model"] == "a-coder")  # fmt: skip
    finish(it)
    assert scalars(it.run)["supervisor/failures"] == [(10, 1.0), (20, 1.0)]
    assert texts(it.run, "supervisor/verdict")[0] == f"unguided: {NO_START}"
    records = exchanges(it.run)
    assert records[1]["answer"] == RULE and records[1]["verdict"] == f"not tried: {NO_START}"
    assert records[3]["verdict"] == "guiding"


def test_it_takes_no_attempt_from_a_rule_that_was_refused_before(consultant, monkeypatch):
    codes = iter(["no code", RULE])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        it = consultant(endpoint.url, coder_attempts=5)
        break_starts(monkeypatch, times=1)
        assert consult(it) is None and failures(it) == 1
    assert len(endpoint.requests) == 3


def test_it_is_repeated_from_the_record_as_it_was(consultant, monkeypatch):
    """On a machine where processes start: the first window is unguided there too, and the second guided."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url)
        with monkeypatch.context() as context:
            break_starts(context, times=1)
            consult(it, 10)
        consult(it, 20)
        finish(it)
    again = consultant(None, run="again", llm_log="runs/run/llm")
    assert consult(again, 10) is None and failures(again) == 1
    assert consult(again, 20) is not None
    finish(again)
    assert texts("again", "supervisor/verdict") == texts("run", "supervisor/verdict")


def test_a_fixed_rule_that_did_not_start_beside_an_advisor_cannot_be_repeated(consultant, monkeypatch):
    """Nothing in the record stands for the rule's own start."""
    Path("rule.py").write_text(parse_code(RULE))
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, guide_policy="rule.py")
        with monkeypatch.context() as context:
            break_starts(context, times=1)
            assert consult(it, 0) is None and failures(it) == 1  # it is there already: asked about at once
        finish(it)
    with pytest.raises(ValueError, match="cannot be repeated exactly: not tried: a rule's process"):
        consultant(None, run="again", llm_log="runs/run/llm", guide_policy="rule.py")


def test_what_was_said_while_training_went_on_is_logged(consultant):
    """Advice and code of a consultation that was taken up again at later steps (--llm-async)."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, llm_async=True)
        ended = time.time() + 20
        while consult(it, it.step + 10) is None and time.time() < ended:
            it.supervisor.exchange.wait()
        assert it.guidance is not None
        finish(it)
    assert ADVICE["advice"] in texts(it.run, "supervisor/advice")[0]
    assert "def policy" in texts(it.run, "supervisor/code")[0]
