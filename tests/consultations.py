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
HARMFUL = RULE.replace("LIMIT = 0.5", "LIMIT = -1.0")
ADVICE = {"analysis": "it stands still", "intervene": True, "advice": "push to the right", "keep_current_policy": False}
INTERVENE, KEEP = json.dumps(ADVICE), json.dumps(ADVICE | {"keep_current_policy": True})
DECLINE = json.dumps(ADVICE | {"intervene": False, "advice": ""})
SECRET = "sk-test-never-to-be-seen-4711"
SOON = {"Retry-After-Ms": "10"}  # so that the tests need not wait for the client's own 0.5, 1, 2, … s
RUN = ["--env-id", "Line-v0", "--supervisor", "llm", "--advisor-model", "an-advisor", "--coder-model", "a-coder",
       "--guide-window", "100", "--guide-end", "350", "--total-timesteps", "400", "--learning-starts", "250",
       "--batch-size", "8", "--replay-frames", "0", "--llm-timeout", "2"]  # fmt: skip
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


def error(text: str) -> str:
    """The body of a server's refusal."""
    return json.dumps({"error": {"message": text, "type": "invalid_request_error"}})


def both(advice: str = INTERVENE, code: str = RULE):
    """Advisor and coder that always say the same."""
    return lambda body, n: code if body["model"] == "a-coder" else advice


@pytest.fixture
def consultant():
    """Makes supervisors of a still agent on LineEnv, ready to see training and to be consulted, with their writers."""
    made = []

    def make(url: str | None, run: str = "run", num_envs: int = 1, **flags) -> SimpleNamespace:
        settings = dict(supervisor="replay" if flags.get("llm_log") else "llm", llm_base_url=url, llm_timeout=2.0,
                        replay_frames=0, advisor_model="an-advisor", coder_model="a-coder", guide_window=10,
                        guide_end=100_000) | flags  # fmt: skip
        args = sup.SupervisorArgs(**settings)
        args.env_id, args.seed, args.learning_starts, args.total_timesteps = "Line-v0", 0, 0, 100_000
        envs = gym.vector.SyncVectorEnv(
            [lambda: gym.make("Line-v0")] * num_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
        )
        supervisor = sup.Supervisor(
            args, envs, env_fn=lambda mode: gym.make("Line-v0", render_mode=mode), run_dir=f"runs/{run}"
        )
        supervisor.prepare()
        made.append(SimpleNamespace(
            supervisor=supervisor, writer=SummaryWriter(f"runs/{run}"), envs=envs, run=run, step=0, guidance=None,
            action=0.0, obs=envs.reset(seed=0)[0], t=np.zeros(num_envs, dtype=np.int64), guided=[], window=0,
        ))  # fmt: skip
        return made[-1]

    yield make
    for it in made:
        finish(it)


def train(it, step: int) -> None:
    """Training's loop up to this step, without a consultation; `it.guided` keeps the steps at which a rule acted."""
    n = it.envs.num_envs
    while it.step < step:
        actions = np.full((n, 1), it.action, dtype=np.float32)
        if it.guidance is not None:
            given, mask = it.guidance(it.obs, it.t)
            actions[mask] = np.clip(actions + given, -1, 1)[mask]
            it.guided += [it.step] * int(mask.sum())
        next_obs, rewards, terminations, truncations, infos = it.envs.step(actions)
        dones = terminations | truncations
        last_obs = np.stack(infos["final_obs"]) if dones.all() else next_obs  # all end at once
        it.step += n
        it.supervisor.observe(it.step, it.obs, it.t, actions, rewards, last_obs, terminations, truncations, it.writer)
        it.obs, it.t = next_obs, np.where(dones, 0, it.t + 1)


def consult(it, step: int = 10):
    """Train up to this step, by default the end of the first episode, and consult there."""
    train(it, step)
    it.guidance = it.supervisor.consult(it.step, it.writer)
    return it.guidance


def run_on(it, step: int) -> None:
    """Training's loop with its consultations: where a window begins, and where the supervisor waits for one."""
    while it.step < step:
        if it.step >= it.window or it.supervisor.waiting:
            consult(it, it.step)
            it.window = it.step + it.supervisor.args.guide_window
        train(it, it.step + 1)


def acts(guidance) -> list:
    """What the rule adds at the origin, in the first step of an episode that it guides."""
    actions, mask = guidance(np.zeros((1, 1)), np.array([0]))
    assert mask.tolist() == [True]
    return actions.tolist()


def finish(it) -> None:
    it.supervisor.end(it.step + 1, it.writer)
    it.writer.close()
    it.envs.close()


def failures(it) -> int:
    """Windows that went unguided because of a failure."""
    return it.supervisor.consultations.failures


def exchanges(run: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(Path(f"runs/{run}/llm").glob("*.json"))]


def assert_unguided(it, guidance, expected: str, printed: str) -> None:
    """No guidance, one failure, and the reason on the terminal, on TensorBoard and in the record."""
    assert guidance is None and failures(it) == 1
    finish(it)
    assert scalars(it.run)["charts/guidance_active"][:2] == [(0, 0.0), (10, 0.0)]
    assert scalars(it.run)["supervisor/failures"] == [(10, 1.0)]
    (verdict,) = texts(it.run, "supervisor/verdict")
    assert verdict.startswith("unguided: ") and re.search(expected, verdict), verdict
    assert f"step 10: supervisor: unguided returns 0 (10 steps); {verdict}\n" in printed
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
