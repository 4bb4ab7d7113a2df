"""Models behind an endpoint: faults, servers of many kinds, deadlines, secrets."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, Endpoint, completion, run_process, scalars, texts
from consultations import (
    ADVICE,
    CONNECTION,
    DECLINE,
    HARMFUL,
    INTERVENE,
    RULE,
    RUN,
    SECRET,
    SOON,
    acts,
    assert_unguided,
    both,
    consult,
    consultant,  # noqa: F401
    error,
    exchanges,
    failures,
    finish,
)

from supervision.answers import SupervisionError, parse_code
from supervision.chat import Chat, Question

# -- faults ------------------------------------------------------------------------------------------------------------


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


LOOP = "The car must go to the left because the car must go to the right because " * 4_000
FAULTS = {  # name: what the server does, and what the verdict says of it
    "time-out before the answer": (lambda body, n: time.sleep(4) or INTERVENE, "no answer within 1 s$"),
    "time-out in the middle": (lambda body, n: drip, "no answer within 1 s$"),
    "a body without end": (lambda body, n: flood, "ValueError: a response of more than 4,000,000 bytes"),
    "hung up": (lambda body, n: hang_up, f"{CONNECTION}. .*without sending a response"),
    "truncated body": (lambda body, n: cut, f"{CONNECTION}. .*without sending complete message body"),
    "400": (lambda body, n: (400, error("context too long")), "BadRequestError: .*context too long"),
    "404": (lambda body, n: (404, error("no such model")), "NotFoundError: .*no such model.* .does the server have"),
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
    "the coder refuses": (both(code="I cannot write code."), "the answer holds no code block: give one"),
    "the coder writes JavaScript": (both(code="```js\nconst policy = (obs, t) => 0\n```"), "no code block of the"),
    "the coder is down": (
        lambda body, n: INTERVENE if body["model"] == "an-advisor" else (502, "bad gateway", SOON),
        "InternalServerError: HTTP 502: bad gateway",
    ),
}  # fmt: skip


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
        it = consultant(endpoint.url, llm_timeout=5.0)
        assert consult(it) is not None and failures(it) == 0
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
        assert consult(it, 10) is not None
        assert consult(it, 30) is None and consult(it, 40) is None and consult(it, 50) is None
        assert len(endpoint.requests) == 3
    finish(it)
    printed = capsys.readouterr().out
    assert printed.count("key revoked") == 2  # the verdict, and that no model is asked any more
    assert printed.count("supervisor: no model is asked any more in this run: ") == 1
    assert scalars(it.run)["supervisor/failures"] == [(10, 0.0), (30, 1.0)]
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


@pytest.mark.alone
def test_a_dead_host_does_not_hold_the_start(consultant, monkeypatch):
    monkeypatch.setattr("supervision.endpoint.PROBE_SECONDS", 0.3)
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


# -- servers of many kinds ---------------------------------------------------------------------------------------------

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
    "no fence": (INTERVENE, parse_code(RULE)),
    "more keys than asked for": (json.dumps({"confidence": 0.9} | ADVICE), RULE),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_is_understood(kind, consultant):
    """Helper and constant beside `policy` work: the rule returns min(2, 0.5)."""
    advice, code = ODD[kind]
    with Endpoint(both(advice, code)) as endpoint:
        it = consultant(endpoint.url)
        assert acts(consult(it)) == [[0.5]]
        assert len(endpoint.requests) == 2
    advised, coded = exchanges(it.run)
    assert (advised["verdict"], coded["verdict"]) == ("intervene", "guiding")
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
        assert consult(it, 10) is None and consult(it, 20) is None
        assert len(endpoint.requests) == 1 and it.supervisor.chat.closed.startswith("the budget is spent (")
    usage = exchanges("run")[0]["usage"]
    assert usage["estimated"] == (fault == "too late") and usage["total_tokens"] > 10


def test_tokens_are_estimated_where_a_server_does_not_count_them(consultant, capsys):
    """Four characters a token; 300 a picture."""
    with Endpoint(lambda body, n: (200, completion("word " * 8, usage=None))) as endpoint:
        it = consultant(endpoint.url)
        chat = it.supervisor.chat
        for pictures in ([], [("t=0", b"jpeg"), ("t=9", b"jpeg")]):
            question = Question("coder", "m", 0, "", [{"role": "system", "content": "x" * 401},
                                                         {"role": "user", "content": "y" * 401}], pictures)  # fmt: skip
            exchange = chat.ask(question)
            exchange.wait()
            chat.finish(exchange)
    assert [e["usage"]["prompt_tokens"] for e in exchanges("run")] == [200, 800]
    finish(it)
    assert "coder 2 calls, about 1,000 + 20 tokens" in capsys.readouterr().out


PICTURES = [("unguided t=0", b"first"), ("guided t=7", b"second")]


def ask(chat: Chat, role: str = "advisor") -> str | None:
    """One question with two pictures; the answer, or None where there is none."""
    turns = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Look."}]
    exchange = chat.ask(Question(role, "m", 0, "", turns, list(PICTURES)))
    exchange.wait()
    try:
        return chat.finish(exchange)
    except SupervisionError:
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
    told = "Look.\n\nPictures of steps that are in the tables above, in order: unguided t=0, guided t=7."
    assert text == {"type": "text", "text": told}
    assert [p["image_url"]["url"] for p in pictures] == ["data:image/jpeg;base64,Zmlyc3Q=",
                                                         "data:image/jpeg;base64,c2Vjb25k"]  # fmt: skip
    schema = request["response_format"]["json_schema"]["schema"]
    assert request["response_format"]["type"] == "json_schema" and schema["required"] == list(ADVICE)
    assert list(schema["properties"]) == list(ADVICE)  # the analysis first: a model thinks before it decides
    (record,) = exchanges("run")
    assert record["images"] == [f"0000-advisor-frame-{what}.jpg" for what in ("unguided-t-0", "guided-t-7")]
    assert [Path("runs/run/llm", name).read_bytes() for name in record["images"]] == [b"first", b"second"]


# -- secrets -----------------------------------------------------------------------------------------------------------


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
        assert Crash.steps < 250, "crash"
        return self.env.step(action)

gym.register("Crash-v0", lambda **kwargs: Crash(gym.make("Pendulum-v1", **kwargs)))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_key_is_nowhere_in_a_run_that_breaks_off(tmp_path):
    """A process of its own, with a video, and a traceback in the middle of a window."""
    (tmp_path / "crash.py").write_text(CRASH)
    flags = [*RUN, "--replay-frames", "4"]
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
