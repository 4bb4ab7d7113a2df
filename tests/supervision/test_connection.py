"""The way to a model server: redirects, proxies, what a server drips or makes large."""

import gzip
import json
import threading
import time
from pathlib import Path

import pytest
from conftest import Endpoint, completion
from consultations import INTERVENE, RULE, SECRET, SOON, both, consult, consultant, exchanges  # noqa: F401

from supervision.connection import Connection, is_loopback, masked

# -- other hosts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_neither_key_nor_prompt_go_to_another_server(status, consultant, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with Endpoint(both()) as other:
        there = {"Location": f"{other.url}/chat/completions?key={SECRET}"}
        with Endpoint(lambda body, n: (status, "", there), models=(200, "{}")) as endpoint:
            assert consult(consultant(endpoint.url)) is None
            assert len(endpoint.requests) == 1
        assert not other.requests and not other.keys
    printed, host = capsys.readouterr().out, other.url.removesuffix("/v1")
    assert f"HTTP {status}: the server sends us on to {host}, where neither key nor prompt are sent" in printed
    assert SECRET not in printed and SECRET not in json.dumps(exchanges("run"))


def test_the_list_of_models_is_fetched_from_no_other_server(consultant, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with Endpoint(both()) as other, Endpoint(both()) as endpoint:
        endpoint.server.RequestHandlerClass.do_GET = lambda handler: handler.answer(
            307, "", {"Location": f"{other.url}/models"}
        )
        consultant(endpoint.url)
        assert not other.keys


@pytest.mark.parametrize("location", ["/v1/elsewhere", "elsewhere", "{url}/elsewhere"])
def test_a_redirect_on_the_same_server_is_followed(location, consultant):
    def script(body, n):
        if n == 0:
            return 307, "", {"Location": location.format(url=endpoint.url)}
        return both()(body, n)

    with Endpoint(script) as endpoint:
        assert consult(consultant(endpoint.url)) is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_goes_through_no_proxy(host, variable, consultant, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with Endpoint(both()) as proxy, Endpoint(both()) as endpoint:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
        it = consultant(endpoint.url.replace("127.0.0.1", host), llm_timeout=1.0)
        guidance = consult(it)
        assert not proxy.requests and not proxy.keys
        assert (guidance is not None) == (host != "[::1]")  # where this server does not listen


def test_other_hosts_go_through_the_proxy_that_is_set(consultant, monkeypatch):
    with Endpoint(both()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        assert consult(consultant("http://model.invalid/v1")) is not None


def test_what_is_loopback():
    ours = ["127.0.0.1", "127.1", "2130706433", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost", "0.0.0.0"]
    assert all(map(is_loopback, ours))
    assert not any(map(is_loopback, ["10.0.0.1", "example.com", "127.example.com", "::2", "localhost.example.com", ""]))
    assert "mounts" not in Connection("http://10.0.0.1/v1").options()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", None),
        ("https://x.azure.com/openai/deployments/gpt-4o-mini-2024-07-18", None),
        (
            "https://gw.ai/v1/0123456789abcdef0123456789abcdef/my-gateway/openai",
            "https://gw.ai/v1/***/my-gateway/openai",
        ),
        ("https://h/sk-abc-def/v1", "https://h/***/v1"),
        ("https://h/v1/token_x", "https://h/v1/***"),
        ("h/aB3dE5gH7jK9mN1pQ/v1", "h/***/v1"),
    ],
)
def test_what_of_an_address_is_secret(url, shown):
    assert masked(url) == (shown or url)


# -- what is slow or large ---------------------------------------------------------------------------------------------


def drip_headers(handler) -> None:
    """A byte of a header every 0.1 s: no single read takes long, and there is no response yet."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def continue_forever(handler) -> None:
    """One interim response after the other."""
    while True:
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.mark.alone
@pytest.mark.parametrize("slow", [drip_headers, continue_forever])
def test_what_drips_is_left_at_the_deadline(slow, consultant):
    """The server sees the connection end, and no thread of ours is left, however many questions met such a server."""
    left, threads = threading.Semaphore(0), threading.active_count()

    def dripping(handler) -> None:
        try:
            slow(handler)
        except OSError:
            left.release()
            raise

    with Endpoint(lambda body, n: dripping) as endpoint:
        it = consultant(endpoint.url, llm_timeout=0.6)
        for step in (10, 20, 30):
            started = time.time()
            assert consult(it, step) is None and time.time() - started < 1.5
            assert left.acquire(timeout=3), "the server is still listened to"
    assert all("no answer within 0.6 s" in record["error"] for record in exchanges("run"))
    ended = time.time() + 5
    while threading.active_count() > threads + 1 and time.time() < ended:  # the writer's own
        time.sleep(0.05)
    assert threading.active_count() <= threads + 1, threading.enumerate()


def new_peak() -> int:
    """Memory of this process, in bytes; `peak` forgets what there was before."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Most memory of this process since `new_peak`, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[" + "[]," * 1_300_000 + "1]", "ValueError: a response of more than 200,000 parts"),
        ('{"choices": [{"message": {"content": "' + "x" * 3_000_000 + '"}}]}', "an answer of 3,000,000 characters"),
        ('{"x": "' + '\\"' * 1_900_000, "JSONDecodeError: "),
        ('{"x": ' + "9" * 3_000_000 + "}", "ValueError: "),
    ],
    ids=["wide", "long", "open string", "number"],
)
def test_a_large_response_takes_neither_long_nor_much(body, expected, consultant):
    with Endpoint(lambda b, n: (200, body)) as endpoint:
        it = consultant(endpoint.url, llm_timeout=10.0)
        started, before = time.process_time(), new_peak()
        assert consult(it) is None
        assert time.process_time() - started < 2 and peak() - before < 200_000_000
    assert expected in exchanges("run")[0]["error"]


def test_a_response_of_many_megabytes_is_not_read(consultant):
    body = '{"x": [' + "[]," * 6_300_000 + "1]}"
    with Endpoint(lambda b, n: (200, body)) as endpoint:
        it = consultant(endpoint.url, llm_timeout=10.0)
        before = new_peak()
        assert consult(it) is None and peak() - before < 100_000_000
    assert exchanges("run")[0]["error"] == "ValueError: a response of more than 4,000,000 bytes"


def test_a_refusal_of_many_megabytes_is_read_as_far_as_it_is_shown(consultant):
    body = json.dumps({"error": {"message": "no such model", "x": []}})[:-3] + "[]," * 6_000_000 + "1]}}"
    with Endpoint(lambda b, n: (404, body)) as endpoint:
        it = consultant(endpoint.url, llm_timeout=10.0)
        started, before = time.process_time(), new_peak()
        assert consult(it) is None
        assert time.process_time() - started < 2 and peak() - before < 100_000_000
    assert "NotFoundError: HTTP 404: " in exchanges("run")[0]["error"] and len(exchanges("run")[0]["error"]) <= 500


def raw(payload: bytes, encoding: str):
    def answer(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Encoding", encoding)
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        handler.wfile.write(payload)

    return answer


def test_what_is_small_on_the_wire_stays_small(consultant):
    """A hundred megabytes of blanks as 100 KB; an encoding that nobody asked for; a gateway that compresses always."""
    bomb = gzip.compress(b" " * 100_000_000)
    with Endpoint(lambda b, n: raw(bomb, "gzip")) as endpoint:
        before = new_peak()
        assert consult(consultant(endpoint.url)) is None and peak() - before < 200_000_000
    assert "more than 4,000,000 bytes" in exchanges("run")[0]["error"]
    with Endpoint(lambda b, n: raw(b"x", "br")) as endpoint:
        assert consult(consultant(endpoint.url, "br")) is None
    assert "a response with the encoding br, which was not asked for" in exchanges("br")[0]["error"]
    answers = [gzip.compress(completion(text).encode()) for text in (INTERVENE, RULE)]
    with Endpoint(lambda b, n: raw(answers[n], "gzip")) as endpoint:
        assert consult(consultant(endpoint.url, "gzip")) is not None


@pytest.mark.alone
def test_training_goes_on_as_fast_while_a_server_sends_rubbish(consultant):
    """Decoding in another thread holds up this one; --llm-async."""
    body = "[" + "[]," * 1_300_000 + "1]"

    def work(seconds: float) -> int:
        rounds, ended = 0, time.time() + seconds
        while time.time() < ended:
            sum(range(1_000))
            rounds += 1
        return rounds

    alone = work(0.5)
    with Endpoint(lambda b, n: (503, "busy", SOON) if n == 0 else (200, body)) as endpoint:
        it = consultant(endpoint.url, llm_async=True)
        assert consult(it) is None and it.supervisor.waiting
        assert work(0.5) > alone / 4
