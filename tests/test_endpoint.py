"""Models behind an endpoint: faults, odd servers, repair turns, memory, budget, threads, record and replay, secrets."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, Endpoint, completion, events, run_process, scalars, texts
from torch.utils.tensorboard import SummaryWriter

import llm_supervisor as sup

RULE = "```python\nLIMIT = 0.5\n\n\ndef limited(x):\n    return min(x, LIMIT)\n\n\ndef policy(obs, t):\n    return limited(2.0)\n```"
HARMFUL = RULE.replace("LIMIT = 0.5", "LIMIT = -0.5")
ADVICE = {"analysis": "it stands still", "intervene": True, "advice": "push to the right", "keep_current_policy": False}
INTERVENE, KEEP = json.dumps(ADVICE), json.dumps(ADVICE | {"keep_current_policy": True})
DECLINE = json.dumps(ADVICE | {"intervene": False, "advice": ""})
SECRET = "sk-test-never-to-be-seen-4711"
CONNECTION = "APIConnectionError: Connection error"


class LineEnv(gym.Env):
    """Ten steps on a line; the reward is the action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.array([0.0]), {}

    def step(self, action):
        self.t += 1
        return np.array([float(self.t)]), float(action[0]), self.t == 10, False, {}


gym.register("Line-v0", entry_point=LineEnv)


def both(advice: str = INTERVENE, code: str = RULE):
    """Advisor and coder that always say the same."""
    return lambda body, n: code if body["model"] == "a-coder" else advice


@pytest.fixture
def consultant():
    """Makes supervisors of a still agent on LineEnv, ready to be consulted, with the writer of their run."""
    made = []

    def make(url: str | None, run: str = "run", **flags) -> SimpleNamespace:
        settings = dict(supervisor="replay" if flags.get("llm_log") else "llm", llm_base_url=url, llm_timeout=2.0,
                        replay_frames=0, advisor_model="an-advisor", coder_model="a-coder") | flags  # fmt: skip
        args = sup.SupervisorArgs(**settings)
        args.env_id, args.seed, args.guide_window, args.guide_end = "Line-v0", 0, 10, 100_000
        agent = SimpleNamespace(action=0.0)  # what the agent does
        supervisor = sup.Supervisor(
            args, env_fn=lambda mode: gym.make("Line-v0", render_mode=mode), run_dir=f"runs/{run}",
            act=lambda obs, deterministic: np.full((len(obs), 1), agent.action),
            intervene=lambda a, g: np.clip(a + g, -1, 1),
        )  # fmt: skip
        supervisor.prepare()
        made.append(SimpleNamespace(
            supervisor=supervisor, writer=SummaryWriter(f"runs/{run}"), agent=agent, run=run, step=0,
        ))  # fmt: skip
        return made[-1]

    yield make
    for it in made:
        finish(it)


def consult(it, step: int = 0):
    it.step = step
    return it.supervisor.consult(step, [], it.writer)


def finish(it) -> None:
    it.supervisor.end(it.step + 1, it.writer)
    it.writer.close()


def exchanges(run: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(Path(f"runs/{run}/llm").glob("*.json"))]


# -- faults -----------------------------------------------------------------------------------------------------------


def at_first(fault):
    """The first question meets a fault, those after it are answered."""
    return lambda body, n: fault if n == 0 else both()(body, n)


def drip(handler) -> None:
    """A byte every 0.2 s: no single read takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.2)


def cut(handler) -> None:
    """Half of a body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion(INTERVENE).encode()[:100])


def hang_up(handler) -> None:
    """No response at all."""
    handler.close_connection = True


def error(text: str) -> str:
    return json.dumps({"error": {"message": text, "type": "invalid_request_error"}})


LOOP = "The car must go to the left because the car must go to the right because " * 4_000
FAULTS = {  # name: what the server does, and what the verdict says of it
    "time-out before the answer": (lambda body, n: time.sleep(4) or INTERVENE, "no answer within 2 s$"),
    "time-out in the middle": (lambda body, n: drip, "no answer within 2 s$"),
    "hung up": (lambda body, n: hang_up, f"{CONNECTION}. .*without sending a response"),
    "truncated body": (lambda body, n: cut, f"{CONNECTION}. .*without sending complete message body"),
    "400": (lambda body, n: (400, error("context too long")), "BadRequestError: .*context too long"),
    "404": (lambda body, n: (404, error("no such model")), "NotFoundError: .*no such model"),
    "409": (lambda body, n: (409, error("conflict")), "ConflictError: "),
    "413": (lambda body, n: (413, error("too large")), "APIStatusError: .*too large"),
    "422": (lambda body, n: (422, error("unprocessable")), "UnprocessableEntityError: "),
    "429 for longer than we wait": (
        lambda body, n: (429, error("slow down"), {"Retry-After": "60"}),
        "no answer within 2 s; the last response was HTTP 429",
    ),
    "500": (lambda body, n: (500, "{}"), "InternalServerError: "),
    "503 in HTML": (lambda body, n: (503, "<h1>busy</h1>", {"Content-Type": "text/html"}), "InternalServerError: .*busy"),
    "redirect loop": (lambda body, n: (307, "", {"Location": "/v1/chat/completions"}), f"{CONNECTION}. .*redirects"),
    "HTML": (lambda body, n: (200, "<h1>hello</h1>", {"Content-Type": "text/html"}), "no chat completion: <h1>hello"),
    "empty body": (lambda body, n: (200, ""), "JSONDecodeError: "),
    "no JSON": (lambda body, n: (200, "{"), "JSONDecodeError: "),
    "a nest of brackets": (lambda body, n: (200, "[" * 100_000), "RecursionError: "),
    "no choices": (lambda body, n: (200, completion("", choices=[])), "no chat completion: "),
    "choices null": (lambda body, n: (200, completion("").replace("[{", "null, \"x\": [{")), "no chat completion: "),
    "an error with status 200": (lambda body, n: (200, error("provider is down")), "no chat completion: .*is down"),
    "message null": (lambda body, n: (200, completion("", choices=[{"message": None}])), "no chat completion: "),
    "content null": (lambda body, n: (200, completion(None)), r"an empty answer \(finish reason: stop\)"),
    "content of another type": (lambda body, n: (200, completion({"a": 1})), "an empty answer"),
    "refusal": (
        lambda body, n: (200, completion("", choices=[{"message": {"content": None, "refusal": "I must not."}}])),
        r"an empty answer \(refused: I must not\.\)",
    ),
    "2 MB": (lambda body, n: "word " * 400_000, "an answer of 2,000,000 characters, more than 400,000: word word"),
    "wrong language": (lambda body, n: "小车应该先向左再向右。", "unusable: it holds no complete JSON object"),
    "a loop": (lambda body, n: LOOP, "unusable: it holds no complete JSON object"),
    "a thought without end": (lambda body, n: f"<think>perhaps {INTERVENE}?", "unusable: it holds no complete JSON"),
    "cut JSON": (lambda body, n: INTERVENE[:-10], "unusable: it holds no complete JSON object"),
    "the coder refuses": (both(code="I cannot write code."), "line 1: syntax error"),
    "the coder writes JavaScript": (both(code="```js\nconst policy = (obs, t) => 0\n```"), "no code block of the answer"),
    "the coder is down": (
        lambda body, n: INTERVENE if body["model"] == "an-advisor" else (502, "bad gateway"),
        r"the coder \(a-coder\): InternalServerError: .*502",
    ),
}  # fmt: skip


def assert_unguided(it, guidance, expected: str, printed: str) -> None:
    """No guidance, one failure, and the reason on the terminal, on TensorBoard and in the record."""
    assert guidance is None and it.supervisor.failures == 1
    finish(it)
    assert scalars(it.run)["charts/guidance_active"][0] == (0, 0.0)
    assert scalars(it.run)["supervisor/failures"] == [(0, 1.0)]
    (verdict,) = texts(it.run, "supervisor/verdict")
    assert verdict.startswith("unguided: ") and re.search(expected, verdict), verdict
    assert f"supervisor: greedy return 0; {verdict}\n" in printed
    last = exchanges(it.run)[-1]
    assert re.search(expected, last["error"] or last["verdict"])
    assert len(verdict) < 700


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_window_unguided(fault, consultant, capsys):
    script, expected = FAULTS[fault]
    with Endpoint(script) as endpoint:
        it = consultant(endpoint.url)
        guidance = consult(it)
    assert_unguided(it, guidance, expected, capsys.readouterr().out)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """A certificate that nobody has signed but its owner, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0],
                    "-keyout", files[1]], check=True, capture_output=True)  # fmt: skip
    return files


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:9/v1", f"{CONNECTION}. .*refused"),
        ("http://name.invalid/v1", f"{CONNECTION}. .*(Name or service not known|name resolution|No address)"),
        ("tls", f"{CONNECTION}. .*CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_a_server_out_of_reach_leaves_the_window_unguided(url, expected, consultant, certificate, capsys):
    with Endpoint(both(), tls=certificate) as endpoint:
        it = consultant(endpoint.url if url == "tls" else url)
        guidance = consult(it)
        assert not endpoint.requests
    assert_unguided(it, guidance, expected, capsys.readouterr().out)


TRANSIENT = {
    "408": (408, error("late")),
    "429": (429, error("slow down"), {"Retry-After": "0.3"}),
    "500": (500, "{}"),
    "503": (503, "busy", {"Content-Type": "text/plain"}),
    "hung up": hang_up,
    "truncated body": cut,
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_is_retried(fault, consultant):
    started = time.time()
    with Endpoint(at_first(TRANSIENT[fault])) as endpoint:
        it = consultant(endpoint.url, audition_episodes=0)
        assert consult(it) is not None and it.supervisor.failures == 0
    assert [request["model"] for request in endpoint.requests] == ["an-advisor", "an-advisor", "a-coder"]
    assert endpoint.requests[0] == endpoint.requests[1]  # a repetition, not a plainer question
    assert time.time() - started > 0.3


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_refused_in_training_ends_the_questions(status, consultant, capsys):
    """Said once; the run goes on without a model, and what was agreed before stays as it is."""
    with Endpoint(lambda body, n: both()(body, n) if n < 2 else (status, error("key revoked"))) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it, 0) is not None
        assert consult(it, 10) is None and consult(it, 20) is None and consult(it, 30) is None
        assert len(endpoint.requests) == 3
    finish(it)
    printed = capsys.readouterr().out
    assert printed.count("key revoked") == 2  # the verdict, and that no model is asked any more
    assert printed.count("supervisor: no model is asked any more in this run: ") == 1
    assert scalars(it.run)["supervisor/failures"] == [(0, 0.0), (10, 1.0)]
    assert "key revoked" in texts(it.run, "supervisor/verdict")[1]


@pytest.mark.parametrize(
    ("models", "ends"),
    [
        ((401, error(f"the key {SECRET} is wrong")), True),
        ((403, "forbidden"), True),
        ((404, "{}"), False),
        ((501, "<html>"), False),
        ((200, "<html>"), False),
        ((200, '{"data": null}'), False),
    ],
)
def test_a_wrong_key_is_found_before_anything_is_written(models, ends, consultant, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with Endpoint(both(), models=models) as endpoint:
        if ends:
            with pytest.raises(ValueError, match=f"^the model server refuses the key in OPENAI_API_KEY: .*{models[0]}") as e:
                consultant(endpoint.url)
            assert SECRET not in str(e.value) and not os.path.exists("runs") and os.environ["OPENAI_API_KEY"] == SECRET
        else:
            assert consultant(endpoint.url).supervisor.mode == "llm"
        assert endpoint.keys == [f"Bearer {SECRET}"] and not endpoint.requests


def test_a_dead_host_does_not_hold_the_start(consultant, monkeypatch):
    monkeypatch.setattr(sup, "PROBE_SECONDS", 0.3)
    with Endpoint(both(), models=(200, "x" * 10)) as endpoint:
        endpoint.server.RequestHandlerClass.do_GET = drip
        started = time.time()
        consultant(endpoint.url)
        assert time.time() - started < 1.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"url": "http://user:pass-word@127.0.0.1/v1"}, "no user name, password or query.*OPENAI_API_KEY"),
        ({"url": "http://127.0.0.1/v1?key=pass-word"}, "no user name, password or query.*OPENAI_API_KEY"),
        ({"url": "user:pass-word@127.0.0.1/v1"}, "no user name, password or query.*OPENAI_API_KEY"),
        ({"url": "http://u:pass-word@127.0.0.1/v1", "supervisor": "none"}, "no user name, password or query"),
        ({"url": "127.0.0.1:8000/v1"}, "must look like http://127.0.0.1:8000/v1, not 127.0.0.1:8000/v1"),
        ({"url": "http://127.0.0.1:9/v1", "llm_timeout": 0.0}, "--llm-timeout must be a number of seconds above 0"),
        ({"url": "http://127.0.0.1:9/v1", "llm_timeout": float("nan")}, "--llm-timeout must be a number of seconds"),
        ({"url": "http://127.0.0.1:9/v1", "llm_max_calls": 0}, "--llm-max-calls must be at least 1, not 0"),
        ({"url": "http://127.0.0.1:9/v1", "llm_max_tokens": -1}, "--llm-max-tokens must be at least 1, not -1"),
        ({"url": None, "llm_log": "runs/none/llm"}, "--llm-log runs/none/llm holds no exchanges"),
        ({"url": None, "supervisor": "replay"}, "--supervisor replay and --llm-log .* belong together"),
        ({"url": None, "llm_log": "x", "supervisor": "llm"}, "--supervisor replay and --llm-log .* belong together"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_clear_line(flags, message, consultant):
    with pytest.raises(ValueError, match=message) as e:
        consultant(**flags)
    assert "pass-word" not in str(e.value) and "\n" not in str(e.value) and not os.path.exists("runs")


@pytest.mark.parametrize("key", ["two words", "schlüssel", "line\nbreak"])
def test_a_key_that_no_header_can_hold(key, consultant, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY must be one word of ASCII characters") as e:
        consultant("http://127.0.0.1:9/v1")
    assert key not in str(e.value)
