"""What the tests share: running a script in this process or in one of its own, and reading what it left behind."""

import functools
import json
import os
import runpy
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

# Before NumPy and torch load, and for every process that a test starts: several workers share the cores, and threads
# that wait for each other keep them busy. The compiler's helper processes each load torch anew.
os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
SECRETS = ("OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "OPENAI_BASE_URL")
needs_compiler = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")

sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)


class CounterEnv(gym.Env):
    """Observations that tell where they come from: [id, episode, step, last action]; the reward is the step.

    Episodes alternate between a termination after 5 steps and a truncation after 7 (by this class, not by a wrapper).
    """

    ids = 0

    def __init__(self, render_mode: str | None = None):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gym.spaces.Box(-0.5, 0.5, (1,), np.float32)
        self.id, self.episode = CounterEnv.ids, -1
        CounterEnv.ids += 1

    def _obs(self, action: float) -> np.ndarray:
        return np.array([self.id, self.episode, self.t, action], dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(0.0), {}

    def step(self, action):
        self.t += 1
        even = self.episode % 2 == 0
        return self._obs(float(action[0])), float(self.t), even and self.t == 5, not even and self.t == 7, {}


class DiscreteCounterEnv(CounterEnv):
    """CounterEnv with the integers 2, …, n + 1 as actions; any other is an error."""

    def __init__(self, n: int = 3, render_mode: str | None = None):
        super().__init__()
        self.action_space = gym.spaces.Discrete(n, start=2)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step([action])


OBSERVATIONS = {
    "discrete": gym.spaces.Discrete(7, start=-3),
    "tuple": gym.spaces.Tuple([gym.spaces.Discrete(5), gym.spaces.Discrete(2, start=4)]),
    "multi": gym.spaces.MultiDiscrete([3, 4], start=[2, -1]),
    "matrix": gym.spaces.MultiDiscrete([[2, 3, 4], [5, 6, 7]], start=[[0, 1, 0], [-2, 0, 9]]),
    "box": gym.spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "dict": gym.spaces.Dict(x=gym.spaces.Discrete(2)),
    "sequence": gym.spaces.Dict(x=gym.spaces.Sequence(gym.spaces.Discrete(2))),  # has no fixed length
}


class AnyObservationEnv(gym.Env):
    """Random observations of any kind, three actions from −1 on, episodes of six steps."""

    def __init__(self, kind: str, render_mode: str | None = None):
        self.observation_space, self.action_space = deepcopy(OBSERVATIONS[kind]), gym.spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t, self.last = 0, self.observation_space.sample()
        return self.last, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t, self.last = self.t + 1, self.observation_space.sample()
        return self.last, float(action), self.t == 6, False, {}


class TabularEnv(gym.Env):
    """A random process whose data have no sampling error: each pair (s, a) goes to its successors in turn.

    `successors` (S, A, 4) are equally likely; −1 ends the episode. `reward` is (S, A).
    """

    def __init__(self, seed: int, render_mode: str | None = None):
        rng = np.random.default_rng(seed)
        self.successors = rng.integers(5, size=(5, 3, 4))
        self.successors[rng.random((5, 3)) < 0.4, 0] = -1
        self.reward = rng.uniform(-1.0, 1.0, (5, 3))
        self.visits = np.zeros((5, 3), dtype=np.int64)
        self.observation_space, self.action_space = gym.spaces.Discrete(5), gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(5))
        return self.state, {}

    def step(self, action):
        pair = (self.state, action)
        following = int(self.successors[pair][self.visits[pair] % 4])
        self.visits[pair] += 1
        ended = following < 0
        self.state = self.state if ended else following
        return self.state, float(self.reward[pair]), ended, False, {}


gym.register("Counter-v0", entry_point=CounterEnv)
gym.register("DiscreteCounter-v0", entry_point=DiscreteCounterEnv)
gym.register("AnyObservation-v0", entry_point=AnyObservationEnv)
gym.register("Tabular-v0", entry_point=TabularEnv, max_episode_steps=20)


@pytest.hookimpl(trylast=True)  # what is not selected is gone by then
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker, which begins with a like part of the list, has its share of the longest tests first, so that none is
    left with one of them at the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = [item for item in items if not item.get_closest_marker("slow")]
    total, items[:] = len(items), []
    for worker in range(workers):
        mine = slow[worker::workers]
        ours = max(0, total * (worker + 1) // workers - len(items) - len(mine))
        items += mine + rest[:ours]
        del rest[:ours]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Each test has an empty folder of its own, no key and one thread, and numbers its environments anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CounterEnv, "ids", 0)  # an observation: what is learned must not depend on the tests before
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@functools.cache
def _start(strict: bool, *depends_on: object) -> None:
    """Really start a rule's process and end it, unless that succeeded under the same conditions before."""
    from supervision.sandbox.policy import check_start

    check_start(strict)


@pytest.fixture(autouse=True)
def _one_trivial_start(monkeypatch):
    """Supervisors in this process try whether rules can start once for all tests, not each of them anew.

    A test that changes what a start depends on is answered by a start of its own, and a failure is not remembered. The
    scripts that run as processes, and the tests of the sandbox itself, are not concerned.
    """
    import llm_supervisor
    from supervision.sandbox import confinement, policy

    def check_start(strict: bool = False) -> None:
        _start(
            strict, subprocess.Popen, sys.executable, policy.CHILD, policy._switched_off, tempfile.tempdir,
            tuple(confinement.missing_layers()),
        )  # fmt: skip

    monkeypatch.setattr(llm_supervisor, "check_start", check_start)


@pytest.fixture
def run_here(monkeypatch):
    """Run a script in this process as CleanRL's tuner does; returns its globals. SystemExit passes through."""

    def run(*flags: str, script: str | Path = ROOT / "guided_sac_continuous.py") -> SimpleNamespace:
        while list(Path("runs").glob(f"*__{int(time.time())}")):  # a run is named by the second in which it starts
            time.sleep(0.05)
        monkeypatch.setattr(sys, "argv", [str(script), *flags])
        return SimpleNamespace(**runpy.run_path(str(script), run_name="__main__"))

    return run


class NoSupervisor:
    """What is left where nobody supervises: it stands in for `llm_supervisor.Supervisor`."""

    mode, description, waiting, guiding = "none", "nobody", False, None

    def __init__(self, *args, **options):
        pass

    def prepare(self):
        pass

    def consult(self, *args):
        pass

    def who_acted(self):
        return ""

    def observe(self, *args):
        pass

    def end(self, *args):
        pass

    def state_dict(self) -> dict:
        return {}


@pytest.fixture
def no_supervisor(monkeypatch):
    """The scripts that run from here on have no supervisor behind them."""
    import llm_supervisor

    return lambda: monkeypatch.setattr(llm_supervisor, "Supervisor", NoSupervisor)


@pytest.fixture
def few_samples(monkeypatch):
    """Of two seeds even 200 bootstrap samples hold each extreme in a quarter, so the intervals stay what they are."""
    from benchmark.figures import analysis

    monkeypatch.setattr(analysis, "REPS", 200)


def run_process(*flags: str, script: str = "guided_sac_continuous.py", **env: str) -> subprocess.CompletedProcess:
    """Run a script as a process of its own in the present folder, on one thread."""
    clean = {k: v for k, v in os.environ.items() if k not in SECRETS}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *flags],
        env={**clean, "OMP_NUM_THREADS": "1", **env}, capture_output=True, text=True, timeout=840,
    )  # fmt: skip


def unsupervised(script: str) -> list[str]:
    """The flags with which a script learns without a supervisor; a baseline needs none."""
    return ["--supervisor", "none"] if script.startswith("guided") else []


def events_in(folder: str | Path) -> EventAccumulator:
    """All that TensorBoard would show of a folder."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def events(run_name: str) -> EventAccumulator:
    """All that TensorBoard would show of a run."""
    return events_in(f"runs/{run_name}")


def scalars(run_name: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar tag of a run."""
    accumulator = events(run_name)
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


CLOCK = ("charts/SPS", "supervisor/seconds", "llm/advisor_seconds", "llm/coder_seconds")


def comparable(run_name: str) -> dict[str, list[tuple[int, float]]]:
    """The scalars of a run but for the clock's, which no repetition has again."""
    return {tag: points for tag, points in scalars(run_name).items() if tag not in CLOCK}


def texts(run_name: str, tag: str) -> list[str]:
    """The texts of a tag in the order of their steps."""
    accumulator = events(run_name)
    key = f"{tag}/text_summary"
    if key not in accumulator.Tags()["tensors"]:
        return []
    return [e.tensor_proto.string_val[0].decode() for e in accumulator.Tensors(key)]


def completion(content, **changes) -> str:
    """The body of a chat completion; `changes` replace its parts, None takes one away."""
    body = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **changes,
    }  # fmt: skip
    return json.dumps({key: value for key, value in body.items() if value is not None})


class Endpoint:
    """An OpenAI-compatible server on loopback.

    Args:
        script: from a request's body and its number to what is answered: the text of a completion; (status, body) or
            (status, body, headers); or a function that does what it likes with the handler.
        models: (status, body) of the list of models.
        tls: certificate and key files; None: plain HTTP.
    """

    def __init__(self, script: Callable, models: tuple[int, str] = (404, "{}"), tls: tuple[str, str] | None = None):
        self.requests, self.keys = [], []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(body)
                endpoint.keys.append(self.headers["Authorization"])
                answer = script(body, len(endpoint.requests) - 1)
                if callable(answer):
                    answer(self)
                else:
                    self.answer(*((200, completion(answer)) if isinstance(answer, str) else answer))

            def do_GET(self):
                endpoint.keys.append(self.headers["Authorization"])
                self.answer(*models)

            def answer(self, status: int, body: str, headers: dict[str, str] | None = None):
                payload = body.encode()
                self.send_response(status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(payload)), **(headers or {})}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # a client that no longer waits

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()
