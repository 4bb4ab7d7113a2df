"""Consultations of a real endpoint about a still agent on a line: what the tests of their parts share."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import scalars, texts
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
SOON = {"Retry-After-Ms": "10"}  # so that the tests need not wait for the client's own 0.5, 1, 2, … s
RUN = ["--env-id", "Line-v0", "--supervisor", "llm", "--advisor-model", "an-advisor", "--coder-model", "a-coder",
       "--guide-window", "100", "--guide-end", "350", "--total-timesteps", "400", "--learning-starts", "250",
       "--batch-size", "8", "--replay-frames", "0", "--audition-max-steps", "100", "--llm-timeout", "2"]  # fmt: skip
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


def user_text(request: dict) -> str:
    """The last turn of the user."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


TIMES = ("charts/SPS", "supervisor/seconds")  # of the clock


def same_run(first: str, second: str) -> None:
    """All that both runs logged is equal, but for the clock's."""
    same_numbers(first, second)
    for tag in ("supervisor/advice", "supervisor/code", "supervisor/verdict", "llm/summary"):
        assert texts(first, tag) == texts(second, tag)


def same_numbers(first: str, second: str) -> None:
    """The scalars and the exchanges of both runs are equal, but for the clock's."""
    ours, theirs = ({tag: v for tag, v in scalars(run).items() if tag not in TIMES} for run in (first, second))
    assert ours == theirs
    ours, theirs = ([e | {"time": ""} for e in exchanges(run)] for run in (first, second))
    assert ours == theirs
