"""The key of a model server: read once, and then nowhere but in the client."""

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, Endpoint
from consultations import RUN, SECRET, both, consult, consultant, finish  # noqa: F401

LINE = """
import runpy, sys
sys.path[:0] = [{root!r}, {tests!r}]
import consultations
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
def test_a_training_run_s_environment_holds_no_key(tmp_path):
    """Read from outside while it trains, of the run and of all its children; nor is it in anything that it leaves."""
    asked, go_on = threading.Event(), threading.Event()

    def script(body, n):
        if n == 2:  # in the second consultation; a rule's process is running
            asked.set()
            go_on.wait(60)
        return both()(body, n)

    (tmp_path / "line.py").write_text(LINE.format(root=str(ROOT), tests=str(ROOT / "tests")))
    environment = {**os.environ, "OPENAI_API_KEY": SECRET, "OMP_NUM_THREADS": "1"}
    with Endpoint(script, models=(200, '{"data": []}')) as endpoint:
        command = [sys.executable, "line.py", str(ROOT / "guided_sac_continuous.py"), *RUN, "--llm-base-url",
                   endpoint.url, "--llm-timeout", "100"]  # fmt: skip
        run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert asked.wait(120), run.communicate(timeout=5)
            pids = [str(run.pid), *Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
            seen = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]
            lines = Path(f"/proc/{run.pid}/limits").read_text().splitlines()
            (core,) = [line.split() for line in lines if "core" in line]
            go_on.set()
            printed = run.communicate(timeout=120)[0]
        finally:
            run.kill()
        assert set(endpoint.keys) == {f"Bearer {SECRET}"}
    assert run.returncode == 0, printed
    assert len(pids) > 1 and SECRET.encode() not in b"".join(seen) and b"OMP_NUM_THREADS=1" in seen[0]
    assert core[4] == "1", core  # too small for any core file; where dumps are piped to a program, "none"
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in files + printed.encode() and len(files) > 10_000


@pytest.mark.parametrize("copied", [False, True])
def test_the_bytes_are_gone_however_the_variable_came_there(copied):
    """Also those that the kernel shows where Python has put the variable elsewhere since."""
    code = (
        "import os, sys\nif sys.argv[1] == 'True':\n    os.environ['OPENAI_API_KEY'] = os.environ['OPENAI_API_KEY']\n"
        "from supervision.key import *\nassert len(read_key()) == 20\nforget_key()\nforget_key()\n"
        "shown = open('/proc/self/environ', 'rb').read()\n"
        "print(b'abc' in shown, b'BEFORE=1' in shown, b'OPENAI_API_KEY=\\0' in shown, os.getenv('OPENAI_API_KEY'))"
    )
    environment = {"BEFORE": "1", "XOPENAI_API_KEY": "x", "OPENAI_API_KEY": "abcdefghij" * 2, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code, str(copied)], env=environment, capture_output=True, text=True)
    assert process.stdout == "False True True None\n", process.stderr


@pytest.fixture
def core_limit():
    before = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def test_a_key_from_a_file(consultant, monkeypatch, core_limit):
    """Of mode 600, with a byte-order mark and a line's end as editors leave them."""
    Path("key").write_bytes(b"\xef\xbb\xbf" + SECRET.encode() + b"\r\n")
    Path("key").chmod(0o600)
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "key")
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, supervisor="auto")
        assert it.supervisor.mode == "llm" and consult(it) is not None
        assert set(endpoint.keys) == {f"Bearer {SECRET}"}
        assert consultant(endpoint.url, "again").supervisor.mode == "llm"  # a later run in this process has it too


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [
        (0o644, SECRET, "OPENAI_API_KEY_FILE key may be read by others .mode 644.: chmod 600 key"),
        (0o640, SECRET, "OPENAI_API_KEY_FILE key may be read by others .mode 640.: chmod 600 key"),
        (0o600, "", "OPENAI_API_KEY_FILE key is empty: write the key to it"),
        (0o600, "\udcff\udcfe", "OPENAI_API_KEY_FILE key cannot be read: it is no text"),
        (0o600, "two words", "OPENAI_API_KEY_FILE must be one word of ASCII characters"),
        (None, "", "OPENAI_API_KEY_FILE key cannot be read: No such file or directory"),
    ],
)
def test_a_key_file_that_will_not_do_is_one_line(mode, text, message, consultant, monkeypatch, core_limit):
    if mode is not None:
        Path("key").write_bytes(text.encode("utf-8", "surrogateescape"))
        Path("key").chmod(mode)
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "key")
    with pytest.raises(ValueError, match=message) as e:
        consultant("http://127.0.0.1:9/v1")
    assert "\n" not in str(e.value) and SECRET not in str(e.value)


def test_two_keys_are_one_too_many(consultant, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "key")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(ValueError, match="OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set: unset one of them"):
        consultant("http://127.0.0.1:9/v1")


@pytest.mark.parametrize("where", ["flag", "environment"])
def test_a_secret_in_the_address_is_masked(where, consultant, monkeypatch, capsys, tmp_path):
    """In the settings, in messages, in a server's echo."""
    secret = "a1b2c3d4e5f6a7b8c9d0"

    def echo(body, n):
        return 404, f'{{"error": "no /gate/{secret}/v1/chat/completions here"}}'

    with Endpoint(echo) as endpoint:
        url = endpoint.url.replace("/v1", f"/gate/{secret}/v1")
        if where == "environment":
            monkeypatch.setenv("OPENAI_BASE_URL", url)
        it = consultant(url if where == "flag" else None)
        assert consult(it) is None and len(endpoint.requests) > 0
        if where == "flag":
            assert it.supervisor.args.llm_base_url == endpoint.url.replace("/v1", "/gate/***/v1")
        finish(it)
    assert secret not in capsys.readouterr().out
    time.sleep(0.1)
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret.encode() not in files and b"[secret]" in files
    with pytest.raises(ValueError, match=r"must look like http://127.0.0.1:8000/v1, not htp://host/\*\*\*/v1"):
        consultant(f"htp://host/{secret}/v1")
    with pytest.raises(ValueError, match=r"http://host/\*\*\*/v1 is masked: give the whole address"):
        consultant("http://host/***/v1")
