"""Models behind an endpoint: faults, odd servers, repair turns, memory, budget, threads, record and replay, secrets."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, Endpoint, completion, run_process, scalars, texts
from torch.utils.tensorboard import SummaryWriter

import llm_supervisor as sup

RULE = """```python
LIMIT = 0.5


def limited(x):
    return min(x, LIMIT)


def policy(obs, t):
    return limited(2.0)
```"""
HARMFUL = RULE.replace("LIMIT = 0.5", "LIMIT = -0.5")
ADVICE = {"analysis": "it stands still", "intervene": True, "advice": "push to the right", "keep_current_policy": False}
INTERVENE, KEEP = json.dumps(ADVICE), json.dumps(ADVICE | {"keep_current_policy": True})
DECLINE = json.dumps(ADVICE | {"intervene": False, "advice": ""})
SECRET = "sk-test-never-to-be-seen-4711"
CONNECTION = "APIConnectionError: Connection error"


class LineEnv(gym.Env):
    """Ten steps on a line from its origin; the reward is the action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, 0.0
        return np.array([self.x]), {}

    def step(self, action):
        self.t, self.x = self.t + 1, self.x + float(action[0])
        return np.array([self.x]), float(action[0]), self.t == 10, False, {}


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
        args.env_id, args.seed, args.guide_window, args.guide_start, args.guide_end = "Line-v0", 0, 10, 0, 100_000
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


def flood(handler) -> None:
    """A body without end, as fast as it is taken."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 1_000_000)


def hang_up(handler) -> None:
    """No response at all."""
    handler.close_connection = True


def error(text: str) -> str:
    return json.dumps({"error": {"message": text, "type": "invalid_request_error"}})


SOON = {"Retry-After-Ms": "10"}  # so that the tests need not wait for the client's own 0.5, 1, 2, … s
LOOP = "The car must go to the left because the car must go to the right because " * 4_000
FAULTS = {  # name: what the server does, and what the verdict says of it
    "time-out before the answer": (lambda body, n: time.sleep(4) or INTERVENE, "no answer within 1 s$"),
    "time-out in the middle": (lambda body, n: drip, "no answer within 1 s$"),
    "a body without end": (lambda body, n: flood, "ValueError: a response of more than 20,000,000 bytes"),
    "hung up": (lambda body, n: hang_up, f"{CONNECTION}. .*without sending a response"),
    "truncated body": (lambda body, n: cut, f"{CONNECTION}. .*without sending complete message body"),
    "400": (lambda body, n: (400, error("context too long")), "BadRequestError: .*context too long"),
    "404": (lambda body, n: (404, error("no such model")), "NotFoundError: .*no such model"),
    "409": (lambda body, n: (409, error("conflict"), SOON), "ConflictError: "),
    "413": (lambda body, n: (413, error("too large")), "APIStatusError: .*too large"),
    "422": (lambda body, n: (422, error("unprocessable")), "UnprocessableEntityError: "),
    "429 for longer than we wait": (
        lambda body, n: (429, error("slow down"), {"Retry-After": "60"}),
        "no answer within 1 s; the last response was HTTP 429",
    ),
    "500": (lambda body, n: (500, "{}", SOON), "InternalServerError: "),
    "503 in HTML": (
        lambda body, n: (503, "<h1>busy</h1>", SOON | {"Content-Type": "text/html"}),
        "InternalServerError: HTTP 503: <h1>busy</h1>$",
    ),
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
    "the coder writes JavaScript": (both(code="```js\nconst policy = (obs, t) => 0\n```"), "no code block of the"),
    "the coder is down": (
        lambda body, n: INTERVENE if body["model"] == "an-advisor" else (502, "bad gateway", SOON),
        "InternalServerError: HTTP 502: bad gateway",
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
        it = consultant(endpoint.url, llm_timeout=1.0 if expected.startswith("no answer") else 2.0)
        guidance = consult(it)
    assert_unguided(it, guidance, expected, capsys.readouterr().out)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """A certificate that nobody has signed but its owner, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
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
        ("http://name.invalid/v1", f"{CONNECTION}. .*(name|Name|address)"),
        ("tls", f"{CONNECTION}. .*CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_a_server_out_of_reach_leaves_the_window_unguided(url, expected, consultant, certificate, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with Endpoint(both(), tls=certificate) as endpoint:
        it = consultant(endpoint.url if url == "tls" else url)
        guidance = consult(it)
        assert not endpoint.requests
    assert_unguided(it, guidance, expected, capsys.readouterr().out)


def test_a_terminal_need_not_know_the_servers_script(consultant, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    with Endpoint(lambda body, n: (400, error("余额不足"))) as endpoint:
        assert consult(consultant(endpoint.url)) is None
    terminal.flush()
    assert b"\\u4f59\\u989d" in terminal.buffer.getvalue()


# it speaks of a content type and of images, and not of those in the request
GATEWAY = '<HTML><META HTTP-EQUIV="Content-Type" CONTENT="text/html"><BODY><IMG SRC="image.png">Bad gateway</HTML>'
TRANSIENT = {
    "408": (408, error("late"), SOON),
    "429": (429, error("slow down"), {"Retry-After": "0.3"}),
    "500": (500, "{}", SOON),
    "503": (503, "busy", SOON),
    "502, a gateway's page": (502, GATEWAY, SOON | {"Content-Type": "text/html"}),
    "hung up": hang_up,
    "truncated body": cut,
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_is_retried(fault, consultant):
    started = time.time()
    with Endpoint(at_first(TRANSIENT[fault])) as endpoint:
        it = consultant(endpoint.url, audition_episodes=0, llm_timeout=5.0)
        assert consult(it) is not None and it.supervisor.failures == 0
    assert [request["model"] for request in endpoint.requests] == ["an-advisor", "an-advisor", "a-coder"]
    assert endpoint.requests[0] == endpoint.requests[1]  # a repetition, not a plainer question
    if fault == "429":
        assert time.time() - started > 0.3


def test_nobody_is_asked_after_the_deadline(consultant):
    """A server with one place must not work for a question that nobody waits for: neither on a repetition after the
    first attempt timed out, nor on the rest of an attempt that began late."""
    gone = threading.Event()

    def busy(handler) -> None:
        handler.connection.settimeout(4)
        if not handler.connection.recv(1):  # the client has hung up
            gone.set()

    with Endpoint(lambda body, n: (503, "{}") if n == 0 else busy) as endpoint:
        it = consultant(endpoint.url, llm_timeout=2.0)
        assert consult(it) is None
        assert gone.wait(0.5)
        time.sleep(2)  # the client's next pause would be over
        assert len(endpoint.requests) == 2


def test_an_answer_that_drips_is_left_at_the_deadline(consultant):
    """No thread goes on reading what nobody waits for."""
    left = threading.Event()

    def dripping(handler) -> None:
        try:
            drip(handler)
        except OSError:
            left.set()
            raise

    with Endpoint(lambda body, n: dripping) as endpoint:
        assert consult(consultant(endpoint.url, llm_timeout=1.0)) is None
        assert left.wait(2)


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
            with pytest.raises(
                ValueError, match=f"^the model server refuses the key in OPENAI_API_KEY: .*{models[0]}"
            ) as e:
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
        ({"url": "http://host:abc/v1"}, "must look like http://127.0.0.1:8000/v1, not http://host:abc/v1"),
        ({"url": "http://host:99999/v1"}, "must look like http://127.0.0.1:8000/v1, not http://host:99999/v1"),
        ({"url": "http://[::1/v1"}, "must look like http://127.0.0.1:8000/v1, not "),
        ({"url": "http://a..b/v1"}, "must look like http://127.0.0.1:8000/v1, not http://a..b/v1"),
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


# -- servers of many kinds --------------------------------------------------------------------------------------------


ODD = {  # name: (the advisor's answer, the coder's)
    "no usage": ((200, completion(INTERVENE, usage=None)), RULE),
    "usage beyond all numbers": (
        (200, completion(INTERVENE, usage={"prompt_tokens": 10**400, "completion_tokens": 1})),
        RULE,
    ),
    "usage of nothing": ((200, completion(INTERVENE, usage={"prompt_tokens": None})), RULE),
    "content in parts": ((200, completion([{"type": "text", "text": INTERVENE}, {"type": "other"}, 3])), RULE),
    "no finish reason": ((200, completion("", choices=[{"message": {"content": INTERVENE}}])), RULE),
    "half of a character": (INTERVENE.replace("still", "\\ud83d"), RULE.replace("LIMIT)", "LIMIT)  # \ud83d")),
    "thoughts": (f"<think>\nPerhaps {DECLINE}?\n</think>\n\n{INTERVENE}", f"<think>{HARMFUL}</think>{RULE}"),
    "thoughts whose tag stands in the prompt": (
        f"Perhaps {DECLINE}?</think>{INTERVENE}",
        f"{HARMFUL}\n</think>\n{RULE}",
    ),
    "thinking tags": (f"<thinking>{DECLINE}</thinking>{INTERVENE}", f"<thinking>hm</thinking>\n{RULE}"),
    "prose and fences": (f"The set {{1, 2}}:\n```json\n{INTERVENE}\n```\nBye {{.", f"Sure!\n{RULE}\nDone."),
    "line ends of Windows": (INTERVENE.replace(", ", ",\r\n"), RULE.replace("\n", "\r\n")),
    "a fence that is never closed": (INTERVENE, RULE.removesuffix("```")),
    "no fence": (INTERVENE, sup.parse_code(RULE)),
    "more keys than asked for": (json.dumps({"confidence": 0.9} | ADVICE), RULE),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_is_understood(kind, consultant):
    """Helper and constant beside `policy` work: the rule returns min(2, 0.5)."""
    advice, code = ODD[kind]
    with Endpoint(both(advice, code)) as endpoint:
        it = consultant(endpoint.url, audition_episodes=0)
        guidance = consult(it)
        assert guidance(np.zeros((1, 1)), np.array([0])).tolist() == [[0.5]]
        assert len(endpoint.requests) == 2
    advised, coded = exchanges(it.run)
    assert (advised["verdict"], coded["verdict"]) == ("intervene", "guiding, without audition")
    assert advised["usage"]["estimated"] == ("usage" in kind)
    finish(it)


@pytest.mark.parametrize("fault", ["too late", "no choices"])
def test_the_budget_sees_what_brought_no_answer(fault, consultant):
    """A server that is always a little too slow, or whose answers are of no use, is paid all the same."""

    def script(body, n):
        if fault == "too late":
            time.sleep(1)
        return 200, completion("", choices=[], usage={"prompt_tokens": 6, "completion_tokens": 5})

    with Endpoint(script) as endpoint:
        it = consultant(endpoint.url, llm_timeout=0.5, llm_max_tokens=10)
        assert consult(it, 0) is None and consult(it, 10) is None
        assert len(endpoint.requests) == 1 and it.supervisor.chat.closed.startswith("the budget is spent (")
    usage = exchanges("run")[0]["usage"]
    assert usage["estimated"] == (fault == "too late") and usage["total_tokens"] > 10


def test_tokens_are_estimated_where_a_server_does_not_count_them(consultant, capsys):
    """Four characters a token; 300 a picture."""
    with Endpoint(lambda body, n: (200, completion("word " * 8, usage=None))) as endpoint:
        it = consultant(endpoint.url)
        chat = it.supervisor.chat
        for pictures in ([], [(0, b"jpeg"), (9, b"jpeg")]):
            question = sup.Question("coder", "m", 0, "", [{"role": "system", "content": "x" * 401},
                                                         {"role": "user", "content": "y" * 401}], pictures)  # fmt: skip
            exchange = chat.ask(question)
            exchange.wait()
            chat.finish(exchange)
    assert [e["usage"]["prompt_tokens"] for e in exchanges("run")] == [200, 800]
    finish(it)
    assert "coder 2 calls, about 1,000 + 20 tokens" in capsys.readouterr().out


PICTURES = [(0, b"first"), (7, b"second")]


def ask(chat: sup.Chat, role: str = "advisor") -> str | None:
    """One question with two pictures; the answer, or None where there is none."""
    turns = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Look."}]
    exchange = chat.ask(sup.Question(role, "m", 0, "", turns, list(PICTURES)))
    exchange.wait()
    try:
        return chat.finish(exchange)
    except sup.SupervisionError:
        return None


def shape(request: dict) -> str:
    """Which extras a request has: s for the schema, p for the pictures."""
    return "s" * ("response_format" in request) + "p" * isinstance(request["messages"][1]["content"], list)


def takes(schema: bool = True, pictures: bool = True, status: int = 400, text: str = "invalid request"):
    """A server that refuses what it does not take."""

    def script(body, n):
        has = shape(body)
        refused = ("s" in has and not schema) or ("p" in has and not pictures)
        return (status, error(text), SOON) if refused else "yes"

    return script


LLAMA_CPP = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
SERVERS = {  # what a server takes, and the shapes of the requests to it: of the first question, then of the second
    "all": (takes(), ["sp"], ["sp"]),
    "no schema, DeepSeek": (takes(schema=False, text="This response_format type is unavailable"), ["sp", "p"], ["p"]),
    "no schema, the question quoted": (takes(schema=False, text="response_format and image_url"), ["sp", "p"], ["p"]),
    "no schema, 422": (takes(schema=False, status=422, text="detail"), ["sp", "p"], ["p"]),
    "no schema, 501": (takes(schema=False, status=501), ["sp", "sp", "p"], ["p"]),
    "no pictures, llama.cpp": (takes(pictures=False, status=500, text=LLAMA_CPP), ["sp", "s"], ["s"]),
    "no pictures, vLLM": (takes(pictures=False, text="m is not a multimodal model"), ["sp", "s"], ["s"]),
    "no pictures, DeepSeek": (takes(pictures=False, text="unknown variant `image_url`, expected `text`"), ["sp", "s"],
                              ["s"]),
    "no pictures, OpenRouter": (takes(pictures=False, status=404, text="No endpoints found that support image input"),
                                ["sp", "s"], ["s"]),
    "no pictures, unclear": (takes(pictures=False), ["sp", "p", ""], [""]),
    "no pictures beside so much text": (takes(pictures=False, text="maximum context length is 8192 tokens"),
                                        ["sp", "s"], ["sp", "s"]),
    "a gateway for a moment": (
        lambda body, n: "yes" if n else (502, GATEWAY, SOON | {"Content-Type": "text/html"}), ["sp", "sp"], ["sp"],
    ),
    "neither, unclear": (takes(schema=False, pictures=False), ["sp", "p", ""], [""]),
    "neither, clear": (takes(schema=False, pictures=False, text="image_url"), ["sp", "s", ""], [""]),
}  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_is_asked_in_a_way_that_it_takes(server, consultant, capsys):
    """From the second question on at once; that pictures are refused is said once."""
    script, first, second = SERVERS[server]
    with Endpoint(script) as endpoint:
        it = consultant(endpoint.url)
        assert ask(it.supervisor.chat) == "yes"
        assert [shape(request) for request in endpoint.requests] == first
        assert ask(it.supervisor.chat) == "yes" and ask(it.supervisor.chat) == "yes"
        assert [shape(request) for request in endpoint.requests[len(first) :]] == second * 2
    told = capsys.readouterr().out.count("supervisor: m takes no pictures: states only from now on")
    assert told == ("p" not in second[0])
    refused = [name for name, sign in (("schema", "s"), ("pictures", "p")) if sign not in first[-1]]
    assert exchanges("run")[0]["refused"] == refused


def test_a_server_that_refuses_all_is_no_reason_to_ask_more_plainly_later(consultant):
    down = [True]
    with Endpoint(lambda body, n: (400, error("out of credits")) if down[0] else "yes") as endpoint:
        it = consultant(endpoint.url)
        assert ask(it.supervisor.chat) is None
        down[0] = False
        assert ask(it.supervisor.chat) == "yes"
    assert [shape(request) for request in endpoint.requests] == ["sp", "p", "", "sp"]


def test_the_users_word_about_pictures_holds(consultant):
    """`on` never goes without them, `off` never sends them; the schema is the advisor's alone."""
    with Endpoint(takes(pictures=False, text="image")) as endpoint:
        assert ask(consultant(endpoint.url, advisor_vision="on").supervisor.chat) is None
        assert [shape(request) for request in endpoint.requests] == ["sp"]
        endpoint.requests.clear()
        it = consultant(endpoint.url, "off", advisor_vision="off")
        assert ask(it.supervisor.chat) == "yes" and ask(it.supervisor.chat, "coder") == "yes"
        assert [shape(request) for request in endpoint.requests] == ["s", ""]
        assert exchanges("off")[0]["images"] == [] and len(list(Path("runs/off/llm").iterdir())) == 2


def test_pictures_and_schema_as_the_server_gets_them(consultant):
    with Endpoint(takes()) as endpoint:
        ask(consultant(endpoint.url).supervisor.chat)
    (request,) = endpoint.requests
    text, *pictures = request["messages"][1]["content"]
    assert text == {"type": "text", "text": "Look.\n\nFrames of the replay at steps [0, 7]:"}
    assert [p["image_url"]["url"] for p in pictures] == ["data:image/jpeg;base64,Zmlyc3Q=",
                                                         "data:image/jpeg;base64,c2Vjb25k"]  # fmt: skip
    schema = request["response_format"]["json_schema"]["schema"]
    assert request["response_format"]["type"] == "json_schema" and schema["required"] == list(ADVICE)
    assert list(schema["properties"]) == list(ADVICE)  # the analysis first: a model thinks before it decides
    (record,) = exchanges("run")
    assert [Path("runs/run/llm", name).read_bytes() for name in record["images"]] == [b"first", b"second"]


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["{" * 400_000, '{"' * 200_000, '{"a":' * 80_000, '{"a":[' * 60_000, "{ " * 200_000 + '"', '{"a": 1}\n' * 40_000,
     "<think>" * 50_000, "</think>" * 50_000, "```\n" * 100_000, "```python\n" * 40_000, "`" * 400_000,
     "def policy(" * 36_000, " " * 400_000, "\n" * 400_000, '{"a": ' + "9" * 390_000, "\\" * 400_000],
    ids=lambda text: f"{text[:12]!r} {len(text)}",
)  # fmt: skip
def test_no_answer_takes_long_to_read(text):
    started = time.process_time()
    with pytest.raises(sup.SupervisionError):
        sup.parse_advice(text, has_rule=True)
    try:
        sup.check_source(sup.parse_code(text))
    except sup.PolicyError:
        pass
    else:
        pytest.fail("such a text is no rule")
    sup._gist(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (json.dumps(ADVICE | {"intervene": "yes"}), '"intervene" must be true or false$'),
        (json.dumps(ADVICE | {"advice": None}), '"advice" must be a string$'),
        (json.dumps(ADVICE | {"keep_current_policy": 1}), '"keep_current_policy" must be true or false$'),
        ('{"analysis": 1, "intervene": true, "keep_current_policy": "no"}',
         '"analysis" must be a string; "advice" is missing; "keep_current_policy" must be true or false$'),
        ('{"intervene": true, "advice": ["push"]}', 'unusable: "advice" must be a string$'),
        ('{"intervene": 1, "plan": {"a": 1}} {"b": 2}', 'unusable: "intervene" must be'),
    ],
)  # fmt: skip
def test_advice_is_held_against_the_schema(answer, problem):
    with pytest.raises(sup.SupervisionError, match=problem):
        sup.parse_advice(answer, has_rule=True)


def test_the_advisor_may_repair_its_answer_once(consultant):
    """The conversation goes on: its answer without the thoughts, then what was wrong with it."""
    bad = f"<think>hm</think>{json.dumps(ADVICE | {'intervene': 'yes'})}"
    with Endpoint(lambda body, n: bad if n == 0 else both()(body, n)) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None and it.supervisor.failures == 0
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
        assert consult(it) is None and it.supervisor.failures == 1
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
    "harmful": (HARMFUL, r"audition failed: return -5 guided, 0 unguided \(\d+ pairs of episodes\)"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_the_coder_is_told_what_is_wrong_with_its_rule(fault, consultant):
    code, reason = REFUSED[fault]
    codes = iter([code, RULE])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        it = consultant(endpoint.url, audition_max_steps=100)
        guidance = consult(it)
        assert guidance(np.zeros((1, 1)), np.array([0])).tolist() == [[0.5]] and it.supervisor.failures == 0
    first, second = (request["messages"] for request in endpoint.requests[1:])
    assert second[:2] == first and second[2] == {"role": "assistant", "content": code}
    told = second[3]["content"]
    assert second[3]["role"] == "user" and told.startswith("This answer was refused. Mend it. The reason:\n")
    assert re.search(reason, told), told
    if fault == "exception":
        assert "line 4" in told and "return obs[17]" in told  # the traceback's place
    refused, accepted = exchanges("run")[1:]
    assert refused["verdict"] == "refused: " + told.partition("reason:\n")[2]
    assert accepted["verdict"].startswith("guiding, audition passed: return 5 guided, 0 unguided")


def test_the_coder_has_as_many_attempts_as_it_is_given(consultant):
    with Endpoint(both(code="no")) as endpoint:
        it = consultant(endpoint.url, coder_attempts=4)
        assert consult(it) is None and it.supervisor.failures == 1
    turns = [len(request["messages"]) for request in endpoint.requests]
    assert turns == [2, 2, 4, 6, 8]


# -- memory -----------------------------------------------------------------------------------------------------------


def user_text(request: dict) -> str:
    return request["messages"][-1]["content"]


def test_the_advisor_is_told_what_was_tried_and_what_came_of_it(consultant):
    """Greedy returns of ten steps by hand: 0 of a still agent, 2 after it has learned to move by 0.2."""
    script = iter([INTERVENE, RULE, DECLINE, DECLINE])
    with Endpoint(lambda body, n: next(script)) as endpoint:
        it = consultant(endpoint.url, audition_max_steps=100)
        assert consult(it, 0) is not None
        it.supervisor.report_failure(sup.PolicyError("it fell"), 4, it.writer)
        it.agent.action = 0.2
        consult(it, 10)
        consult(it, 20)
    texts = [user_text(request).partition("What was tried before: ")[2] for request in endpoint.requests]
    assert texts[0] == "nothing yet"
    assert texts[2] == (
        "1 consultations so far, the last of them:\n"
        "step 0: greedy return 0; advice: push to the right; guiding, audition passed: return 5 guided, 0 unguided "
        "(3 pairs of episodes); at step 4 the rule failed: it fell; greedy return at the next consultation 2"
    )
    assert texts[3].startswith("2 consultations so far, the last of them:\nstep 0: ") and texts[3].endswith(
        "\nstep 10: greedy return 2; not intervening; greedy return at the next consultation 2"
    )


def test_memory_is_bounded(consultant):
    """After 1,000 consultations with talkative models: the last eight, in at most 900 characters each."""
    talk = json.dumps(ADVICE | {"intervene": False, "advice": "word\n" * 2_000})
    lengths = []
    with Endpoint(lambda body, n: lengths.append(len(user_text(body))) or talk) as endpoint:
        it = consultant(endpoint.url)
        replay = it.supervisor._record(0, it.writer)
        for step in range(1_000):
            if 20 <= step < 980:  # the same without the question, which takes most of the time
                decision = sup.Decision(replay, None, "not intervening", "word\n" * 2_000)
                it.supervisor.now = step
                it.supervisor._report(decision, it.writer)
            else:
                consult(it, step)
            it.supervisor.history[-1] += "; at step 5 the rule failed: " + sup._gist("x" * 1_000)
    last = user_text(endpoint.requests[-1]).partition("What was tried before: ")[2]
    head, *lines = last.splitlines()
    assert head == "999 consultations so far, the last of them:"
    assert [line.partition(":")[0] for line in lines] == [f"step {n}" for n in range(991, 999)]
    assert all(400 < len(line) <= 900 for line in lines) and it.supervisor.failures == 0
    assert lengths[-1] - lengths[12] <= 20  # only numbers of steps have grown


# -- threads ----------------------------------------------------------------------------------------------------------


def test_training_goes_on_while_models_think(consultant):
    """Each of the two answers takes 0.3 s; no consultation takes nearly as long, and then the window begins."""
    with Endpoint(lambda body, n: time.sleep(0.3) or both()(body, n)) as endpoint:
        it = consultant(endpoint.url, llm_async=True, audition_episodes=0)
        step, guidance = 0, consult(it)
        assert guidance is None and it.supervisor.waiting
        started = time.time()
        while it.supervisor.waiting and time.time() - started < 20:
            time.sleep(0.01)  # a training step
            step += 1
            guidance = consult(it, step)
        assert guidance(np.zeros((1, 1)), np.array([0])).tolist() == [[0.5]]
        assert step > 5 and it.supervisor.seconds < time.time() - started - 0.3
        assert [request["model"] for request in endpoint.requests] == ["an-advisor", "a-coder"]
    finish(it)
    active = scalars(it.run)["charts/guidance_active"]
    assert [value for _, value in active] == [0.0, 0.0, 1.0, 0.0] and active[2][0] == step
    assert all(record["asynchronous"] for record in exchanges("run"))
    with pytest.raises(ValueError, match="cannot be repeated exactly: it was recorded with --llm-async"):
        consultant(None, "again", llm_log="runs/run/llm")


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


RUN = ["--env-id", "Line-v0", "--supervisor", "llm", "--advisor-model", "an-advisor", "--coder-model", "a-coder",
       "--guide-window", "100", "--guide-end", "350", "--total-timesteps", "400", "--learning-starts", "250",
       "--batch-size", "8", "--replay-frames", "0", "--audition-max-steps", "100", "--llm-timeout", "2"]  # fmt: skip


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
    (begin,) = (step for step, value in active if value == 1.0)
    (end,) = {step for step, value in active if value == 0.0 and begin < step < 2_000}
    assert 0 < begin < 800 and end == begin + 800
    assert [e["error"] for e in exchanges(run.run_name)] == [None, None, "given up: the guided time was over"]


# -- budget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "spent"), [({"llm_max_calls": 3}, "3 calls, --llm-max-calls 3"),
                          ({"llm_max_tokens": 31}, "45 tokens, --llm-max-tokens 31")]
)  # fmt: skip
def test_a_spent_budget_ends_the_questions(budget, spent, consultant, capsys):
    """15 tokens a call: both budgets allow three; then the run goes on unguided, and says so once."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, audition_episodes=0, **budget)
        assert [consult(it, step) is not None for step in (0, 10, 20, 30)] == [True, False, False, False]
        assert [request["model"] for request in endpoint.requests] == ["an-advisor", "a-coder", "an-advisor"]
    finish(it)
    printed = capsys.readouterr().out
    assert printed.count(f"supervisor: no model is asked any more in this run: the budget is spent ({spent})") == 1
    assert printed.count("supervisor: greedy return") == 2
    assert spent in texts(it.run, "supervisor/verdict")[1]
    logged, latency = scalars(it.run), r"\d\.\d s a call"
    for tag, value in {"advisor_calls": 2, "advisor_prompt_tokens": 20, "advisor_completion_tokens": 10,
                       "coder_calls": 1, "coder_prompt_tokens": 10, "coder_completion_tokens": 5}.items():  # fmt: skip
        assert logged[f"llm/{tag}"][-1] == (31, value), tag
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


# -- record and replay ------------------------------------------------------------------------------------------------

TIMES = ("charts/SPS", "supervisor/seconds")  # of the clock


def same_run(first: str, second: str) -> None:
    """All that both runs logged is equal, but for the clock's."""
    ours, theirs = ({tag: v for tag, v in scalars(run).items() if tag not in TIMES} for run in (first, second))
    assert ours == theirs
    for tag in ("supervisor/advice", "supervisor/code", "supervisor/verdict", "llm/summary"):
        assert texts(first, tag) == texts(second, tag)
    ours, theirs = ([e | {"time": ""} for e in exchanges(run)] for run in (first, second))
    assert ours == theirs


def test_a_run_is_repeated_bit_for_bit_without_a_network(run_here):
    """Repair turns, a failed audition, a question without an answer, a kept rule and a spent budget are repeated."""
    codes, advice = iter(["no code", HARMFUL, RULE]), iter(["no JSON", INTERVENE, KEEP])

    def script(body, n):
        if "Training step 100;" in user_text(body):
            return 500, "down", SOON
        return next(codes if body["model"] == "a-coder" else advice)

    flags = [*RUN, "--save-model"]
    with Endpoint(script) as endpoint:
        first = run_here(*flags, "--llm-base-url", endpoint.url, "--llm-max-calls", "7")
    assert scalars(first.run_name)["charts/guidance_active"] == [
        (0, 1.0),
        (100, 0.0),
        (200, 1.0),
        (300, 0.0),
        (350, 0.0),
    ]
    flags[flags.index("llm")] = "replay"
    second = run_here(*flags, "--llm-log", f"runs/{first.run_name}/llm")
    assert second.supervisor.mode == "replay" and len(exchanges(first.run_name)) == 8
    assert {"losses/alpha", "llm/coder_seconds"} < set(scalars(first.run_name))
    same_run(first.run_name, second.run_name)
    for ours, theirs in zip(first.modules, second.modules, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


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
    flags = dict(replay_max_steps=3, audition_episodes=0)
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, **flags)
        consult(it)
        finish(it)
    path = Path("runs/run/llm/0001-coder.json")
    slow = "def policy(obs, t):\n    return 0.0 * sum(i for i in range(6_000_000))\n"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"answer": slow}))
    again = consultant(None, "again", llm_log="runs/run/llm", **flags)
    guidance = consult(again)
    started = time.time()
    assert guidance(np.zeros((1, 1)), np.array([0])).tolist() == [[0.0]]
    assert time.time() - started > 0.1  # else this test shows nothing


@pytest.mark.parametrize("where", ["audition", "window"])
def test_a_deadline_that_was_missed_in_the_middle_cannot_be_repeated(where, consultant):
    """How far a rule got in the audition or in training is not known; the still agent of the dry run stays at 0."""
    slow = "```python\ndef policy(obs, t):\n    while obs[0] > 1:\n        pass\n    return 0.5\n```"
    codes = iter([slow, RULE])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        it = consultant(endpoint.url, audition_episodes=3 if where == "audition" else 0)
        guidance = consult(it)
        if where == "window":
            guidance(np.zeros((1, 1)), np.array([0]))
            with pytest.raises(sup.PolicyError) as e:
                guidance(np.full((1, 1), 1.5), np.array([3]))
            it.supervisor.report_failure(e.value, 4, it.writer)
        finish(it)
    with pytest.raises(ValueError, match=r"cannot be repeated exactly: .* took longer than 0.(05|15) s"):
        consultant(None, "again", llm_log="runs/run/llm")


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
    """Another step and another policy are other questions; so is one too many."""
    again = consultant(None, "again", llm_log=str(recorded))
    with pytest.raises(SystemExit, match=r"\n-advisor at step 0\n\+advisor at step 10\n"):
        consult(again, 10)
    again = consultant(None, "other", llm_log=str(recorded))
    again.agent.action = 0.1
    with pytest.raises(SystemExit, match=r"\n-.*returns \[0\.0\].*\n(.*\n)*\+.*returns \[1\.0\]"):
        consult(again)
    again = consultant(None, "longer", llm_log=str(recorded))
    assert consult(again) is not None
    with pytest.raises(SystemExit, match="the run asks more than the 2 questions of --llm-log runs/run/llm"):
        consult(again, 10)


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


def test_pictures_are_kept_and_not_compared(consultant, recorded):
    """Another machine draws them otherwise, or not at all."""
    chat = sup.RecordedChat(recorded, Path("runs/again/llm"))
    record = exchanges("run")[0]
    exchange = chat.ask(sup.Question("advisor", "m", 0, "", record["messages"], [(3, b"jpeg")]))
    assert chat.finish(exchange) == INTERVENE
    assert Path("runs/again/llm/0000-advisor-frame-000003.jpg").read_bytes() == b"jpeg"


# -- secrets ----------------------------------------------------------------------------------------------------------


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


LEAKS = {  # name: what a server does with the key that it was given
    "success": both(),
    "echo in an error": lambda body, n: (400, error(f"Incorrect API key provided: {SECRET}")),
    "echo in HTML": lambda body, n: (500, f"<pre>Authorization: Bearer {SECRET}</pre>" * 20, SOON),
    "echo in the answer": both(f"Your key {SECRET}: {INTERVENE}", RULE.replace("LIMIT)", f"LIMIT)  # {SECRET}")),
    "echo in the advice": both(INTERVENE.replace("push", SECRET), RULE),
    "echo in escapes": both(INTERVENE.replace("push", SECRET.replace("k", "\\u006b")), RULE),
    "echo in a refusal": lambda body, n: (200, completion("", choices=[{"message": {"refusal": SECRET}}])),
    "echo without choices": lambda body, n: (200, json.dumps({"headers": [f"Bearer {SECRET}"]})),
    "echo in a redirect": lambda body, n: (307, "", {"Location": f"/v1/{SECRET}"}),
    "refused": lambda body, n: (401, error(f"Incorrect API key provided: {SECRET}")),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_the_key_is_nowhere(leak, consultant, monkeypatch, capfd, tmp_path):
    """Not in a byte that a run leaves, not on the terminal, not in what a child would inherit."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with Endpoint(LEAKS[leak]) as endpoint:
        it = consultant(endpoint.url)
        child = subprocess.run(["env"], capture_output=True, text=True).stdout
        consult(it)
        finish(it)
        assert set(endpoint.keys) == {f"Bearer {SECRET}"} and len(endpoint.keys) > 1
    printed = capfd.readouterr()
    assert SECRET not in child and SECRET not in printed.out + printed.err
    assert SECRET.encode() not in everything(tmp_path) and len(everything(tmp_path)) > 1_000
    assert "OPENAI_API_KEY" not in os.environ  # the guided time may be over long before the run is


def test_a_placeholder_is_no_secret(consultant, monkeypatch):
    """A local server's "key" may be a word of the rule."""
    monkeypatch.setenv("OPENAI_API_KEY", "LIMIT")
    with Endpoint(both()) as endpoint:
        assert consult(consultant(endpoint.url)) is not None


def test_a_run_with_a_wrong_key_ends_before_it_begins(run_here, monkeypatch, capfd):
    """One line, without the key, and no folder."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    wrong = 401, error(f"Incorrect API key provided: {SECRET}")
    message = r"^.*: error: the model server refuses the key in OPENAI_API_KEY: .*"
    with Endpoint(both(), models=wrong) as endpoint, pytest.raises(SystemExit, match=message) as e:
        run_here(*RUN, "--llm-base-url", endpoint.url)
    assert SECRET not in str(e.value) and "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "") and not list(Path().iterdir())


CRASH = """
import runpy, sys
import gymnasium as gym

class Crash(gym.Wrapper):
    steps = 0

    def step(self, action):
        Crash.steps += 1
        assert Crash.steps < 400, "crash"
        return self.env.step(action)

gym.register("Crash-v0", lambda **kwargs: Crash(gym.make("Pendulum-v1", **kwargs)))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_key_is_nowhere_in_a_run_that_breaks_off(tmp_path):
    """A process of its own, with a video, and a traceback in the middle of a window."""
    (tmp_path / "crash.py").write_text(CRASH)
    flags = [*RUN, "--replay-frames", "4", "--replay-max-steps", "100"]
    flags[1] = "Crash-v0"
    with Endpoint(both(), models=(200, '{"data": []}')) as endpoint:
        process = run_process(
            str(ROOT / "guided_sac_continuous.py"), *flags, "--llm-base-url", endpoint.url,
            script=str(tmp_path / "crash.py"), OPENAI_API_KEY=SECRET, PYTHONPATH=str(ROOT),
        )  # fmt: skip
        assert len(endpoint.requests) > 1 and set(endpoint.keys) == {f"Bearer {SECRET}"}
    assert process.returncode == 1 and "AssertionError: crash" in process.stderr, process.stderr
    assert SECRET.encode() not in everything(tmp_path) + process.stdout.encode() + process.stderr.encode()
    assert len(list(tmp_path.glob("runs/*/llm/*.json"))) == len(endpoint.requests)
