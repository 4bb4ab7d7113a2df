"""Which stretches an advisor sees with pictures, through whole consultations of a supervisor with its camera."""

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import Endpoint
from consultations import DECLINE, INTERVENE, KEEP, RULE, both, finish, run_on, user_text
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

import llm_supervisor as sup
from guided_utils.environments import EpisodeTape


class BriefEnv(gym.Env):
    """Episodes of eight steps; the picture is as bright as the step, times 20."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
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
        return np.array([float(self.t)]), float(action[0]), self.t == 8, False, {}

    def render(self):
        return np.full((32, 32, 3), 20 * self.t, np.uint8)


gym.register("Brief-v0", entry_point=BriefEnv)


def brief(url: str, **flags) -> SimpleNamespace:
    """A supervisor of a still agent on BriefEnv, for `run_on`: windows of 30 episodes and a half."""
    args = sup.SupervisorArgs(supervisor="llm", llm_base_url=url, advisor_model="an-advisor", coder_model="a-coder",
                              guide_window=244, guide_end=100_000, llm_timeout=2.0, **flags)  # fmt: skip
    args.env_id, args.seed, args.learning_starts, args.total_timesteps = "Brief-v0", 0, 0, 100_000
    make = lambda mode=None: EpisodeTape(gym.make("Brief-v0", render_mode=mode))  # noqa: E731
    envs = gym.vector.SyncVectorEnv([make], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    supervisor = sup.Supervisor(args, envs, env_fn=make, run_dir="runs/run")
    supervisor.prepare()
    return SimpleNamespace(
        supervisor=supervisor, writer=SummaryWriter("runs/run"), envs=envs, run="run", step=0, guidance=None,
        action=0.0, obs=envs.reset(seed=0)[0], t=np.zeros(1, dtype=np.int64), guided=[], window=0,
    )  # fmt: skip


def pictures(request: dict) -> list[str]:
    """What the pictures of a question to the advisor show; their brightness is that of the steps."""
    content = request["messages"][-1]["content"]
    if isinstance(content, str):
        return []
    (told,) = re.findall(r"in the tables above, in order: (.*)\.", content[0]["text"])
    for what, part in zip(told.split(", "), content[1:], strict=True):
        jpeg = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        assert np.array(Image.open(io.BytesIO(jpeg))).mean() == pytest.approx(20 * int(what.split("t=")[1]), abs=4)
    return told.split(", ")


@pytest.mark.parametrize("replay_frames", [16, 0])
def test_at_each_consultation_the_advisor_sees_pictures_of_the_last_window(replay_frames):
    """Alone until step 756, then under a rule, which takes over an episode at its step 4; another one from 1,536 on.

    Of the 30 stretches of a window the first of each kind is filmed, though 20 and one are kept; the text is the same
    where nothing is filmed."""
    said = iter([DECLINE, DECLINE, DECLINE, INTERVENE, KEEP, KEEP, INTERVENE, KEEP])
    answer = lambda body, n: RULE if body["model"] == "a-coder" else next(said)  # noqa: E731
    with Endpoint(answer) as endpoint:
        it = brief(endpoint.url, trial_pairs=0, probe_share=0.85, replay_frames=replay_frames)
        run_on(it, 1_736)
        finish(it)
    asked = [body for body in endpoint.requests if body["model"] == "an-advisor"]
    first: dict[str, list[int]] = {"Unguided": [], "Guided": []}
    for body in asked:
        for kind in first:
            if found := re.search(rf"\n{kind}.*?: episode .*?, at training step ([\d,]+);", user_text(body)):
                first[kind].append(int(found[1].replace(",", "")))
    steps = range(24, 1_736, 244)
    assert first["Unguided"][:4] == [0, 24, 272, 512] and first["Guided"] == [756, 1_000, 1_264, 1_536]
    assert all(step <= shown < step + 244 for step, shown in zip(steps, first["Unguided"][1:], strict=False))
    counts = [
        tuple(sum(w.split()[0] == kind for w in pictures(body)) for kind in ("unguided", "guided")) for body in asked
    ]
    assert counts == ([(8, 0)] * 4 + [(5, 3)] * 4 if replay_frames else [(0, 0)] * 8)


def test_a_fork_begins_where_it_is():
    """At step 2,000 of a run without supervision, in the third step of an episode: its first video is of that."""
    with Endpoint(both(DECLINE)) as endpoint:
        it = brief(endpoint.url)
        it.supervisor.load_state_dict({"mode": "none"})
        for _ in range(3):
            it.obs = it.envs.step(np.zeros((1, 1), np.float32))[0]
        it.step, it.window, it.t[:] = 2_000, 9_999, 3
        run_on(it, 2_100)
        it.supervisor.args.total_timesteps = 2_100  # the end of the run
        finish(it)
    assert "step_00002000_unguided.mp4" in {path.name for path in Path("runs/run/replays").iterdir()}
    assert "Unguided, sampled actions: episode from its step 3 on, at training step 2,000; 5 steps" in user_text(
        endpoint.requests[0]
    )
