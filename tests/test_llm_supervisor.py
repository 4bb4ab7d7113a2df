"""llm_supervisor.py: replay, prompts, answers, audition, models behind a real HTTP server, and who supervises."""

import base64
import io
import json
import math
import re
import time
import tomllib
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import ROOT, Endpoint, events, run_process, scalars, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

import llm_supervisor as sup
from policy_sandbox import DiscreteAction, Observation, PolicyError, SandboxedPolicy, check_source

PUSH = "```python\nimport numpy as np\n\ndef policy(obs, t):\n    return np.array([1.0 if obs[1] >= 0 else -1.0])\n```"
BRAKE = PUSH.replace(">=", "<")
INTERVENE = json.dumps({"analysis": "it stands still", "intervene": True, "advice": "pump energy",
                        "keep_current_policy": False})  # fmt: skip
CONTENT = json.dumps({"analysis": "fine", "intervene": False, "advice": "", "keep_current_policy": False})
KEEP = INTERVENE.replace('policy": false', 'policy": true')
SECRET = "sk-test-never-to-be-seen-4711"

# -- replay -----------------------------------------------------------------------------------------------------------


class StillEnv(gym.Env):
    """Counts how often it is drawn."""

    drawn = 0

    def render(self):
        self.drawn += 1
        return np.zeros((2, 2, 3), np.uint8)


@given(length=st.integers(1, 3_000), wanted=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_key_frames_are_evenly_spaced_and_few(length, wanted):
    env = StillEnv()
    key_frames = sup.KeyFrames(env, wanted)
    for step in range(length):
        key_frames.offer(step)
    assert key_frames.steps == list(range(0, length, key_frames.stride))
    assert len(key_frames.frames()) == len(key_frames.steps) <= 2 * wanted
    assert len(key_frames.frames()) >= min(length, wanted)
    assert env.drawn <= 2 * wanted + wanted * max(0, math.ceil(math.log2(length / wanted)))


def test_key_frames_of_mujoco_show_the_states_of_their_steps():
    """Drawn afterwards from captured physics, the pictures equal those drawn on the way, and few are drawn."""
    env, reason = sup.open_rendered(lambda mode: gym.make("InvertedPendulum-v5", render_mode=mode))
    if env is None:
        pytest.skip(reason)
    env.reset(seed=0)
    env.action_space.seed(0)
    key_frames, on_the_way = sup.KeyFrames(env, 2), {}
    for step in range(100):
        key_frames.offer(step)
        mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)  # else poses are those of one physics step before
        on_the_way[step] = np.array(env.render())
        _, _, terminated, _, _ = env.step(0.1 * env.action_space.sample())
        if terminated:
            break
    frames = key_frames.frames()
    assert 2 <= len(frames) <= 4 and step > 4
    for step, frame in zip(key_frames.steps, frames, strict=True):
        assert (frame == on_the_way[step]).all()
    assert (frames[0] != frames[-1]).any()
    env.close()


def test_replay_is_the_greedy_rollout():
    """Against a plain loop over the same environment; both episodes, all steps."""
    env, plain = gym.make("MountainCarContinuous-v0"), gym.make("MountainCarContinuous-v0")

    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        assert deterministic and obs.shape == (1, 2)
        return np.sign(obs[:, 1:] + 1e-9).astype(np.float32)

    replay = sup.record_replay(env, act, episodes=2, max_steps=10_000, seed=5)
    for episode in range(2):
        obs, _ = plain.reset(seed=5 + episode)
        total, t, done = 0.0, 0, False
        rows = slice(sum(replay.lengths[:episode]), sum(replay.lengths[: episode + 1]))
        while not done:
            row = rows.start + t
            assert (replay.obs[row] == obs).all() and replay.steps[row] == t
            obs, reward, terminated, truncated, _ = plain.step(act(obs[None], True)[0])
            assert replay.rewards[row] == reward
            total, t, done = total + reward, t + 1, terminated or truncated
        assert (
            replay.returns[episode] == pytest.approx(total) and replay.lengths[episode] == t == rows.stop - rows.start
        )
    assert min(replay.returns) > 85  # the rule reaches the goal
    short = sup.record_replay(env, act, episodes=3, max_steps=50, seed=5)
    assert short.lengths == [50] and len(short.rewards) == 50


def test_video_and_gif_hold_the_frames(tmp_path):
    """Read back by decoders: number, size and colour of the frames; odd sizes are cropped to even ones."""
    frames = [np.full((31, 45, 3), (40 * i, 0, 200 - 40 * i), np.uint8) for i in range(5)]
    sup.write_mp4(frames, tmp_path / "v.mp4", fps=5)
    from moviepy import VideoFileClip

    with VideoFileClip(str(tmp_path / "v.mp4")) as clip:
        decoded = list(clip.iter_frames())
        assert clip.size == [44, 30] and len(decoded) == 5 and clip.fps == 5
    for ours, theirs in zip(frames, decoded, strict=True):
        assert np.abs(theirs.mean((0, 1)) - ours[0, 0]).max() < 12  # lossy
    gif = Image.open(io.BytesIO(sup.gif_bytes(frames, fps=5, largest=20)))
    assert gif.n_frames == 5 and max(gif.size) == 20 and gif.info["duration"] == 200
    jpeg = Image.open(io.BytesIO(sup.jpeg_bytes(np.zeros((600, 1200, 3), np.uint8))))
    assert jpeg.format == "JPEG" and jpeg.size == (512, 256)


def test_replay_of_a_run_is_a_watchable_video(run_here):
    run = run_here("--total-timesteps", "5", "--learning-starts", "5", "--supervisor", "bundled")
    if run.supervisor.frames == 0:
        pytest.skip("nothing can be rendered here")
    from moviepy import VideoFileClip

    with VideoFileClip(f"runs/{run.run_name}/replays/step_00000000.mp4") as clip:
        shown = list(clip.iter_frames())
    assert 16 <= len(shown) <= 32 and len({frame.tobytes() for frame in shown}) > 3  # the car moves
    images = events(run.run_name).Images("supervisor/replay")
    gif = Image.open(io.BytesIO(images[0].encoded_image_string))
    assert gif.format == "GIF" and 16 <= gif.n_frames <= len(shown)  # equal neighbours are stored as one


def test_no_opengl_means_states_only(tmp_path):
    """A GL that cannot start (GLFW without a display) is found out in a child; the run goes on and says so once."""
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 0.0\n")
    process = run_process(
        "--env-id", "InvertedPendulum-v5", "--guide-policy", "rule.py", "--advisor-always", "--capture-video",
        "--guide-window", "3", "--total-timesteps", "9", MUJOCO_GL="glfw", DISPLAY="", WAYLAND_DISPLAY="",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("supervisor: replays without pictures: no OpenGL for MuJoCo") == 1
    assert process.stdout.count("no videos: no OpenGL for MuJoCo") == 1
    assert not list(tmp_path.rglob("*.mp4"))


def test_two_mujoco_pictures_in_one_process():
    """Training's video and a replay take turns; each still shows its own scene, also after the other is closed."""
    make = lambda mode: gym.make("InvertedPendulum-v5", render_mode=mode)  # noqa: E731
    replay, reason = sup.open_rendered(make)
    if replay is None:
        pytest.skip(reason)
    training = make("rgb_array")
    sup.own_opengl_context(training)
    training.reset(seed=0)
    replay.reset(seed=1)
    first, other = np.array(training.render()), np.array(replay.render())
    assert first.std() > 5 and other.std() > 5 and first.shape == (480, 480, 3) and other.shape == (240, 240, 3)
    assert (training.render() == first).all() and (replay.render() == other).all()
    replay.close()
    assert (training.render() == first).all()
    training.close()


def test_capture_video_records_training_episodes(run_here, tmp_path):
    run = run_here("--supervisor", "none", "--capture-video", "--total-timesteps", "1000", "--learning-starts", "1000")
    if not run.args.capture_video:
        pytest.skip("nothing can be rendered here")
    from moviepy import VideoFileClip

    path = tmp_path / "videos" / run.run_name / "rl-video-episode-0.mp4"
    with VideoFileClip(str(path)) as clip:
        assert clip.n_frames >= 999  # a whole episode of a car that does not get there


# -- prompts and answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted(p.name for p in (ROOT / "prompts").iterdir()))
def test_shipped_prompts_are_complete(folder):
    env_id = {"default": "Pendulum-v1", "default-discrete": "CartPole-v1"}.get(folder, folder)
    env = gym.make(env_id)
    values = sup._describe_env(env, env_id)
    for name, headings in (("advisor.md", sup.ADVISOR_HEADINGS), ("coder.md", sup.CODER_HEADINGS)):
        text = sup.load_prompt(ROOT / "prompts" / folder / name, headings, values)
        assert "{{" not in text and len(text) > 1_000
    assert "keep_current_policy" in sup.load_prompt(ROOT / "prompts" / folder / "advisor.md", (), values)
    if not folder.startswith("default"):
        check_source((ROOT / "prompts" / folder / "bundled_policy.py").read_text())


DEFAULTS = {  # environment: what the coder must be told of obs and of the action
    "Pendulum-v1": ("a float64 NumPy array of shape (3,)", "a NumPy array of shape (1,)"),
    "Humanoid-v5": ("a float64 NumPy array of shape (348,)", "a NumPy array of shape (17,)"),
    "InvertedPendulum-v5": ("a float64 NumPy array of shape (4,)", "a NumPy array of shape (1,)"),
    "CartPole-v1": ("a float64 NumPy array of shape (4,)", "an int from 0 to 1"),
    "Taxi-v4": ("an int", "an int from 0 to 5"),
    "Blackjack-v1": ("a tuple of 3 ints", "an int from 0 to 1"),
}


@pytest.mark.parametrize("env_id", DEFAULTS)
def test_default_prompt_fits_any_environment(env_id):
    """Each kind of action space has its own: a residual for Box, a substitute for Discrete; its template runs."""
    given, returned = DEFAULTS[env_id]
    env = gym.make(env_id)
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    folder, values = ROOT / "prompts" / ("default-discrete" if discrete else "default"), sup._describe_env(env, env_id)
    advisor = sup.load_prompt(folder / "advisor.md", sup.ADVISOR_HEADINGS, values)
    coder = sup.load_prompt(folder / "coder.md", sup.CODER_HEADINGS, values)
    assert f"obs is {given}" in coder and f"It returns {returned}" in coder
    for text in (advisor, coder):
        assert env_id in text and " ".join(env.unwrapped.__doc__.split()[:4]) in " ".join(text.split())
        assert ("residual" in text) != discrete and ("replaces" in text) == discrete
    template = sup.parse_code(coder.partition("## Code template")[2])
    check_source(template)
    if discrete:
        observation, action = sup.rule_spaces(env)
        with SandboxedPolicy(template, observation=observation, action=action) as policy:
            assert policy(np.zeros((1, *observation.row_shape), int), np.array([0])).shape == (1,)


def vectors(env_id: str, **options) -> gym.Env:
    """A discrete environment as the scripts wrap it: observations are the integers of which they consist."""
    env = gym.make(env_id, **options)
    if isinstance(env.observation_space, gym.spaces.Box):
        return env
    n = [part.n for part in getattr(env.observation_space, "spaces", [env.observation_space])]
    return gym.wrappers.TransformObservation(env, lambda obs: np.array(obs, np.int64).reshape(-1),
                                             gym.spaces.MultiDiscrete(n))  # fmt: skip


class OddEnv(gym.Env):
    """A Discrete action space that begins at 3; what the space of its observations is, the test says."""

    action_space = gym.spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_the_spaces_of_a_rule():
    env = OddEnv()
    for space, observation in (
        (gym.spaces.Discrete(5, start=2), Observation("int")),
        (gym.spaces.MultiDiscrete([3, 4]), Observation("ints", (2,))),
        (gym.spaces.Tuple([gym.spaces.Discrete(3)] * 2), Observation("tuple", (2,))),
        (gym.spaces.Box(-1, 1, (2, 3)), Observation("floats", (2, 3))),
    ):
        env.observation_space = space
        assert sup.rule_spaces(env) == (observation, DiscreteAction(2, 3))
    assert "from 3 to 4" in sup._describe_env(env, "Odd")["rule_returns"]
    assert sup.rule_spaces(vectors("Taxi-v4")) == (Observation("int"), DiscreteAction(6))
    assert sup.rule_spaces(vectors("Blackjack-v1")) == (Observation("tuple", (3,)), DiscreteAction(2))
    assert sup._describe_env(vectors("Taxi-v4"), "Taxi-v4")["observation_space"] == "Discrete(500)"
    env.observation_space = gym.spaces.Tuple([gym.spaces.Box(-1, 1)])
    with pytest.raises(ValueError, match="a rule needs observations of a Box, a Discrete"):
        sup.rule_spaces(env)
    env.observation_space, env.action_space = gym.spaces.Discrete(2), gym.spaces.MultiDiscrete([2, 2])
    with pytest.raises(ValueError, match="a rule needs actions of a Box or a Discrete, not MultiDiscrete"):
        sup.rule_spaces(env)


def test_replay_of_a_discrete_environment_shows_its_own_numbers():
    """Cliff walking by hand: up, twice right, down into the cliff (36 again, -100), and the step limit."""
    plan = iter([0, 1, 1, 2, 0])
    replay = sup.record_replay(
        vectors("CliffWalking-v1", max_episode_steps=5), lambda obs, deterministic: np.array([next(plan)]),
        episodes=1, max_steps=50, seed=0,
    )  # fmt: skip
    assert replay.obs.tolist() == [[36], [24], [25], [26], [36]] and replay.obs.dtype == np.int64
    assert replay.actions.tolist() == [0, 1, 1, 2, 0] and replay.returns == [-104.0]
    assert sup._table(replay, Observation("int")).splitlines()[2:4] == [
        "t=2 obs=25 action=1 reward=-1", "t=3 obs=26 action=2 reward=-100"
    ]  # fmt: skip
    hand = sup.record_replay(vectors("Blackjack-v1"), lambda obs, deterministic: np.array([0]), episodes=3,
                             max_steps=50, seed=0)  # fmt: skip
    cards = [gym.make("Blackjack-v1").reset(seed=seed)[0] for seed in range(3)]
    lines = sup._table(hand, Observation("tuple", (3,))).splitlines()
    assert [line.split(" action")[0] for line in lines] == [f"t=0 obs={tuple(map(int, card))}" for card in cards]


def test_summary_of_many_episodes_is_short():
    replay = sup.Replay(*[np.zeros((90, 1))] * 4, returns=[1.0] * 45 + [-1.0] * 45, lengths=[1] * 90, frames=[],
                        frame_steps=[])  # fmt: skip
    text = sup._summary(replay)  # mean 0, standard deviation sqrt(90/89), standard error sqrt(1/89) = 0.106
    assert text.startswith("mean return 0 (standard error 0.11) over 90 episodes; the first 20: returns [1.0, ")
    assert text.count("1.0") == 20 and len(text) < 400
    replay.returns, replay.lengths = [0.5, -2.0], [3, 4]
    assert sup._summary(replay) == "returns [0.5, -2.0], lengths [3, 4]"


def test_a_display_that_does_not_answer_holds_nobody(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(sup, "GL_SECONDS", 0.5)
    monkeypatch.setattr(sup, "GL_PROBE", "import time\ntime.sleep(60)")
    started = time.time()
    assert sup._choose_mujoco_gl.__wrapped__() == "no OpenGL for MuJoCo (tried egl)"
    assert time.time() - started < 10


def test_malformed_prompt_files_are_refused(tmp_path):
    path = tmp_path / "advisor.md"
    for text, expected in (
        (None, "cannot be read"),
        ("## Task definition\n## Background\n## Domain hints\n", "lacks the heading ## Chain of thought"),
        ("".join(f"## {h}\n" for h in sup.ADVISOR_HEADINGS) + "{{nonsense}}", "unknown placeholder {{nonsense}}"),
        (b"\xff\xfe\x00", "cannot be read"),
    ):
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=expected.replace("{", r"\{")):
            sup.load_prompt(path, sup.ADVISOR_HEADINGS, {"env_id": "x"})


@pytest.mark.parametrize(
    "answer",
    [
        INTERVENE,
        f"Here is my decision:\n```json\n{INTERVENE}\n```\nGood luck.",
        f"<think>Perhaps {CONTENT}? No.</think>{INTERVENE}",
        f"The set {{1, 2}} is no object. {INTERVENE} trailing",
    ],
)
def test_advice_is_found_in_what_models_write(answer):
    advice = sup.parse_advice(answer, has_rule=True)
    assert (advice.intervene, advice.advice, advice.keep_current_policy) == (True, "pump energy", False)


def test_what_small_models_leave_out_of_their_advice():
    """Decided by what is there: no analysis, no rule to keep, no advice that nobody would read."""
    assert sup.parse_advice('{"intervene": false}', has_rule=True) == sup.Advice("", False)
    assert sup.parse_advice('{"intervene": true, "advice": "push"}', has_rule=True) == sup.Advice("", True, "push")
    assert sup.parse_advice('{"intervene": true, "keep_current_policy": true}', has_rule=True) == sup.Advice(
        "", True, "", True
    )
    with pytest.raises(sup.SupervisionError, match=r'"advice" is missing$'):
        sup.parse_advice('{"intervene": true}', has_rule=True)


def test_a_rule_is_not_written_from_nothing():
    """Where there is no rule to keep, the coder needs advice, whatever the advisor thinks is there."""
    assert sup.parse_advice('{"intervene": false, "keep_current_policy": true}', has_rule=False).intervene is False
    with pytest.raises(sup.SupervisionError, match=r'"advice" is missing$'):
        sup.parse_advice('{"intervene": true, "keep_current_policy": true}', has_rule=False)
    for keep, has_rule in ((True, False), (False, True), (False, False)):
        answer = json.dumps({"intervene": True, "advice": " \n", "keep_current_policy": keep})
        with pytest.raises(sup.SupervisionError, match='"advice" must not be empty'):
            sup.parse_advice(answer, has_rule)


@pytest.mark.parametrize("answer", ["", "I cannot help.", "{}", '{"intervene": "yes"}', INTERVENE[:-1],
                                    '{"intervene": true, "keep_current_policy": 1}'])  # fmt: skip
def test_unusable_advice_is_refused(answer):
    with pytest.raises(sup.SupervisionError):
        sup.parse_advice(answer, has_rule=True)


def test_code_is_found_in_what_models_write():
    code = "X = 1\n\ndef helper(o):\n    return o\n\ndef policy(obs, t):\n    return helper(obs)\n"
    assert sup.parse_code(f"Text.\n```python\n{code}```\nMore text.") == code
    assert sup.parse_code(f"<think>```python\ndef policy(obs, t): pass\n```</think>\n```\n{code}```") == code
    assert sup.parse_code(f"```python\nprint(1)\n```\n```py\n{code}```") == code
    assert sup.parse_code(code) == code
    with pytest.raises(PolicyError, match="more than one"):
        sup.parse_code(f"```python\n{code}```\nor\n```python\n{code}```")
    with pytest.raises(PolicyError, match="defines policy"):
        sup.parse_code("```python\ndef act(obs):\n    return 0\n```")


# -- audition ---------------------------------------------------------------------------------------------------------


class LineEnv(gym.Env):
    """Walks on a line; the reward is the action plus a start bonus that the seed sets; ends after 10 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.bonus = 0, float(seed)
        return np.array([self.bonus]), {}

    def step(self, action):
        self.t += 1
        return np.array([self.bonus]), float(action[0]) + self.bonus, self.t == 10, False, {}


def audition(residual, max_steps: int = 1_000, pairs: int = 2) -> sup.Audition:
    return sup.run_audition(
        [LineEnv() for _ in range(2 * pairs)], lambda obs, deterministic: np.zeros((len(obs), 1)),
        lambda a, g: np.clip(a + g, -1, 1), lambda obs, t: np.array([[residual(i)] for i in t]),
        max_steps=max_steps, seed=100,
    )  # fmt: skip


def test_audition_by_hand():
    """Unguided return of pair i: 10 · (100 + i); a residual of 0.5 adds 5; equal seeds and horizons in each pair."""
    result = audition(lambda t: 0.5)
    assert result.unguided == [1000.0, 1010.0] and result.guided == [1005.0, 1015.0]
    assert result.passed and result.steps == 40
    assert not audition(lambda t: -0.5).passed
    # a budget of 22 steps: five joint steps of four lanes, the same horizon for all
    short = audition(lambda t: 0.5, max_steps=22)
    assert short.steps == 20 and short.unguided == [500.0, 505.0] and short.guided == [502.5, 507.5]


def test_audition_goes_on_while_noise_decides():
    """Differences that scatter around zero call for more pairs, until the budget cannot pay for another round."""
    rng = np.random.default_rng(0)
    result = audition(lambda t: rng.normal(), max_steps=400)
    assert len(result.guided) > 2 and result.steps <= 400
    assert len(set(result.unguided)) == len(result.unguided)  # each pair has a seed of its own
    assert audition(lambda t: 0.0, max_steps=170).steps == 160  # never decided: four rounds of 40


def test_audition_acts_as_in_training_and_passes_the_episode_step():
    seen = []

    def act(obs, deterministic):
        seen.append(deterministic)
        return np.zeros((len(obs), 1))

    steps = []

    def policy(obs, t):
        steps.append(t.tolist())
        return np.zeros((len(obs), 1))

    sup.run_audition([LineEnv(), LineEnv()], act, np.add, policy, max_steps=20, seed=0)
    assert seen == [False] * 10 and steps == [[i] for i in range(10)]


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "Taxi-v4", "FrozenLake-v1", "Blackjack-v1", "CartPole-v1"])
def test_a_consultation_with_discrete_actions(env_id, tmp_path):
    """Replay, advisor, rule, dry run and audition on each kind of observation, by substitution."""

    def intervene(actions: np.ndarray, guidance: np.ndarray) -> np.ndarray:
        assert actions.dtype == guidance.dtype == np.int64 and actions.shape == guidance.shape
        return guidance

    rng = np.random.default_rng(0)
    args = sup.SupervisorArgs(supervisor="bundled", prompt_dir=str(tmp_path), replay_frames=0, replay_episodes=30)
    args.env_id, args.seed, args.guide_window, args.guide_start, args.guide_end = env_id, 0, 10, 0, 20
    (tmp_path / "bundled.toml").write_text('intervene_below = 1e9\nanalysis = "a"\nadvice = "b"\n')
    (tmp_path / "bundled_policy.py").write_text("def policy(obs, t):\n    return 0\n")
    n = gym.make(env_id).action_space.n
    supervisor = sup.Supervisor(
        args, env_fn=lambda mode: vectors(env_id, max_episode_steps=20), intervene=intervene, run_dir=tmp_path,
        act=lambda obs, deterministic: rng.integers(0, n, len(obs)),
    )  # fmt: skip
    supervisor.prepare()
    writer = SummaryWriter(str(tmp_path))
    guidance = supervisor.consult(0, [], writer)
    if guidance is None:  # a rule that never moves may lose the audition
        assert "audition failed" in supervisor.history[-1]
    else:
        assert guidance(np.stack([supervisor.replay_env.reset(seed=0)[0]]), np.array([0])).tolist() == [0]
    supervisor.end(0, writer)
    assert supervisor.failures == 0
    (tmp_path / "bundled_policy.py").write_text("def policy(obs, t):\n    return 0.0\n")
    with pytest.raises(ValueError, match=f"returned a float, expected an int or a NumPy integer from 0 to {n - 1}"):
        supervisor.prepare()


# -- models behind a real server ---------------------------------------------------------------------------------------


def two_models(advice: str = INTERVENE, code: str = PUSH):
    return lambda body, n: code if body["model"] == "a-coder" else advice


LLM = ["--env-id", "MountainCarContinuous-v0", "--advisor-model", "an-advisor", "--coder-model", "a-coder",
       "--guide-window", "100", "--guide-end", "200", "--total-timesteps", "210", "--learning-starts", "205",
       "--llm-timeout", "20"]  # fmt: skip


def user_text(request: dict) -> str:
    """The last turn of the user."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def test_a_run_under_models(run_here, monkeypatch, tmp_path, capsys):
    """Advisor and coder are asked as the design says; advice, code and exchanges are logged; the key nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with Endpoint(two_models()) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url)
    assert [r["model"] for r in endpoint.requests] == ["an-advisor", "a-coder"] * 2
    assert endpoint.keys == [f"Bearer {SECRET}"] * 5  # the first asks for the list of models
    advisor, coder = endpoint.requests[:2]
    assert "## Chain of thought" in advisor["messages"][0]["content"]
    assert "## Code template" in coder["messages"][0]["content"]
    assert "t=0 obs=" in user_text(advisor) and "pump energy" in user_text(coder)
    assert "def policy" in user_text(endpoint.requests[2])  # the second consultation knows the current rule
    assert "audition passed" in user_text(endpoint.requests[2])  # and how it did
    if run.supervisor.frames:
        pictures = [part["image_url"]["url"] for part in advisor["messages"][1]["content"][1:]]
        assert 4 <= len(pictures) <= 8
        for picture in pictures:
            kind, data = picture.split(",")
            assert kind == "data:image/jpeg;base64"
            assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 512
    assert scalars(run.run_name)["charts/guidance_active"] == [(0, 1.0), (100, 1.0), (200, 0.0)]
    assert "pump energy" in texts(run.run_name, "supervisor/advice")[0]
    assert "obs[1] >= 0" in texts(run.run_name, "supervisor/code")[0]
    logs = sorted(Path(f"runs/{run.run_name}/llm").glob("*.json"))
    assert [p.name for p in logs] == ["0000-advisor.json", "0001-coder.json", "0002-advisor.json", "0003-coder.json"]
    exchange = json.loads(logs[0].read_text())
    assert exchange["answer"] == INTERVENE and exchange["usage"]["total_tokens"] == 15
    assert all((logs[0].parent / name).is_file() for name in exchange["images"])
    assert scalars(run.run_name)["charts/supervision_steps"][-1][1] == run.supervisor.steps > 0
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert SECRET.encode() not in everything and SECRET not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env_id", "prompt", "row"),
    [
        (
            "Taxi-v4",
            "learns Taxi-v4 with Soft Actor-Critic (SAC) for discrete actions",
            r"t=0 obs=\d+ action=\d reward=-",
        ),
        ("Blackjack-v1", "One hand of Blackjack", r"t=0 obs=\(\d+, \d+, [01]\) action=[01] reward="),
        ("CartPole-v1", "the rule's action replaces the agent's own", r"t=0 obs=\[[-0-9. ]+\] action=[01] reward=1"),
    ],
)
def test_models_are_asked_about_discrete_actions(env_id, prompt, row, tmp_path):
    """With the environment's own prompts or the default ones for substitution, and in its own numbers."""
    rng, n = np.random.default_rng(0), gym.make(env_id).action_space.n
    codes = iter([f"```python\ndef policy(obs, t):\n    return {answer}\n```" for answer in ("True", n, "1")])
    args = sup.SupervisorArgs(supervisor="llm", replay_frames=0, audition_episodes=0, coder_model="a-coder")
    args.env_id, args.seed, args.guide_window, args.guide_start, args.guide_end = env_id, 0, 10, 0, 20
    with Endpoint(lambda body, _: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        args.llm_base_url = endpoint.url
        supervisor = sup.Supervisor(
            args, env_fn=lambda mode: vectors(env_id, max_episode_steps=20), intervene=lambda a, g: g, run_dir=tmp_path,
            act=lambda obs, deterministic: rng.integers(0, n, len(obs)),
        )  # fmt: skip
        supervisor.prepare()
        writer = SummaryWriter(str(tmp_path))
        guidance = supervisor.consult(0, [], writer)
        assert guidance(supervisor.replay_env.reset(seed=0)[0][None], np.array([0])).tolist() == [1]
        supervisor.end(20, writer)
    advisor, *coder = endpoint.requests
    assert prompt in advisor["messages"][0]["content"] and re.search(row, user_text(advisor))
    assert f"from 0 to {n - 1}" in coder[0]["messages"][0]["content"] and re.search(row, user_text(coder[0]))
    assert f"returned a bool, expected an int or a NumPy integer from 0 to {n - 1}" in user_text(coder[1])
    assert f"returned action = {n} at t=0; it must be an integer from 0 to {n - 1}" in user_text(coder[2])


def test_advisor_may_decline_or_keep_the_rule(run_here):
    answers = [CONTENT, INTERVENE, KEEP]
    asked = iter(answers)
    with Endpoint(lambda body, n: PUSH if body["model"] == "a-coder" else next(asked)) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url, "--guide-end", "300", "--total-timesteps", "310")
    assert [r["model"] for r in endpoint.requests] == ["an-advisor", "an-advisor", "a-coder", "an-advisor"]
    assert scalars(run.run_name)["charts/guidance_active"] == [(0, 0.0), (100, 1.0), (200, 1.0), (300, 0.0)]


def test_coder_is_told_what_was_wrong(run_here):
    """Syntax error, then an exception with its line, then a usable rule: all in one consultation."""
    broken = "```python\ndef policy(obs, t)\n    return 0\n```"
    raising = "```python\ndef policy(obs, t):\n    return obs[17]\n```"
    codes = iter([broken, raising, PUSH])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url, "--guide-end", "100")
    coder = [user_text(r) for r in endpoint.requests if r["model"] == "a-coder"]
    assert len(coder) == 3
    assert "refused" not in coder[0] and "line 1" in coder[1] and "IndexError" in coder[2]
    assert scalars(run.run_name)["charts/guidance_active"][0] == (0, 1.0)


def test_harmful_rule_is_refused_after_being_told_once(run_here):
    """A rule that brakes does worse than doing little: the audition sends it back once, then the window is unguided."""
    with Endpoint(two_models(code=BRAKE)) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url, "--guide-end", "100")
    coder = [user_text(r) for r in endpoint.requests if r["model"] == "a-coder"]
    assert len(coder) == 2 and "audition failed" in coder[1]
    assert scalars(run.run_name)["charts/guidance_active"] == [(0, 0.0), (100, 0.0)]
    assert scalars(run.run_name)["supervisor/failures"][0] == (0, 0.0)  # a refusal, not a failure
    assert run.supervisor.policy is None


def test_without_audition_the_same_rule_gets_through(run_here):
    with Endpoint(two_models(code=BRAKE)) as endpoint:
        run = run_here(*LLM, "--llm-base-url", endpoint.url, "--guide-end", "100", "--audition-episodes", "0")
    assert scalars(run.run_name)["charts/guidance_active"][0] == (0, 1.0)


# -- who supervises ---------------------------------------------------------------------------------------------------


def test_auto_chooses_and_says_so(run_here, monkeypatch, capsys):
    run = run_here("--total-timesteps", "2", "--replay-frames", "0")
    assert run.supervisor.mode == "bundled" and "no key" in capsys.readouterr().out
    monkeypatch.setenv("OPENAI_BASE_URL", "")  # set but empty is unset
    assert run_here("--total-timesteps", "2", "--replay-frames", "0").supervisor.mode == "bundled"
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    run = run_here("--total-timesteps", "2", "--guide-start", "5")
    assert run.supervisor.mode == "llm" and SECRET not in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--env-id", "FrozenLake-v1", "--env-kwargs", '{"is_slippery": false}'],
        ["--env-id", "FrozenLake-v1", "--env-kwargs", '{"map_name": "8x8"}', "--guide-policy", "rule.py"],
        ["--env-id", "Humanoid-v5", "--env-kwargs", "{}"],
    ],
    ids=["not slippery", "8 x 8", "348 variables"],
)
def test_another_task_s_rule_and_threshold_are_not_used_by_themselves(flags, run_here):
    """Its folder is for the default --env-kwargs: without a model nobody supervises, and the way to insist is named."""
    Path("rule.py").write_text("def policy(obs, t):\n    return 2\n")
    folder = ROOT / "prompts" / flags[1]
    actions = "continuous" if flags[1] == "Humanoid-v5" else "discrete"
    run = {"script": ROOT / f"guided_sac_{actions}.py"}
    short = ["--replay-frames", "0", "--total-timesteps", "2"]
    reason = f"{folder} describes the environment with its default --env-kwargs (--prompt-dir {folder} uses it anyway)"
    with pytest.raises(SystemExit) as nobody:
        run_here(*flags, *short, **run)
    assert f"nobody can supervise {flags[1]}: no key or base URL is set and {reason}. Three ways" in str(nobody.value)
    with pytest.raises(SystemExit) as bundled:
        run_here(*flags, *short, "--supervisor", "bundled", **run)
    assert f"neither a rule nor a threshold for these --env-kwargs: {reason}" in str(bundled.value)
    assert run_here(*flags, *short, "--supervisor", "none", **run).supervisor.mode == "none"


def test_ways_to_guide_with_other_env_kwargs(run_here):
    """A rule of one's own without judgement; the folder where it is named; and a default that is only spelled out."""
    Path("rule.py").write_text("def policy(obs, t):\n    return 2\n")
    flags = ["--env-id", "FrozenLake-v1", "--replay-frames", "0", "--total-timesteps", "2"]
    other = ["--env-kwargs", '{"is_slippery": false}']
    script, own = ROOT / "guided_sac_discrete.py", ROOT / "prompts" / "FrozenLake-v1"
    run = run_here(*flags, *other, "--guide-policy", "rule.py", "--advisor-always", script=script)
    assert scalars(run.run_name)["charts/guidance_active"][0] == (0, 1.0)
    run = run_here(*flags, *other, "--prompt-dir", str(own), script=script)
    assert run.supervisor.mode == "bundled" and "threshold 0.74" in texts(run.run_name, "supervisor/advice")[0]
    assert run_here(*flags, "--env-kwargs", "{}", script=script).supervisor.mode == "bundled"


def test_a_model_is_not_told_of_another_task(run_here, capsys):
    """With other --env-kwargs it gets the default prompts, and the header says which and why."""
    flags = ["--env-id", "FrozenLake-v1", "--supervisor", "llm", "--replay-frames", "0", "--total-timesteps", "2"]
    flags += ["--env-kwargs", '{"is_slippery": false}']
    headers, prompts, own = [], [], ROOT / "prompts" / "FrozenLake-v1"
    for more in ([], ["--prompt-dir", str(own)]):
        with Endpoint(lambda body, n: CONTENT) as endpoint:
            run_here(*flags, *more, "--llm-base-url", endpoint.url, script=ROOT / "guided_sac_discrete.py")
        prompts.append(endpoint.requests[0]["messages"][0]["content"])
        headers += re.findall(r"^ *supervisor: (llm .*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert "Environment: FrozenLake-v1\n" in prompts[0] and "The ice is slippery. With" not in prompts[0]
    assert "The ice is slippery. With" in prompts[1]
    default = own.with_name("default-discrete")
    assert headers[0].startswith(f"llm (--supervisor); prompts of {default}, since {own} describes the environment")
    assert headers[1] == f"llm (--supervisor); prompts of {own}"


@pytest.mark.parametrize("bundled", sorted(sup.PROMPTS.glob("*/bundled.toml")), ids=lambda path: path.parent.name)
def test_a_model_is_told_the_bundled_supervisor_s_threshold(bundled):
    """Its decision begins with it, so that both intervene below the same return."""
    threshold = tomllib.loads(bundled.read_text())["intervene_below"]
    (decision,) = re.findall(r"^\d\. (Decision\. .*)", bundled.with_name("advisor.md").read_text(), flags=re.MULTILINE)
    named = re.search(r"Intervene while .*?(?:below|less than) (-?\d+(?:\.\d+)?)", decision)
    assert float(named[1]) == threshold


def test_advisor_always_guides_without_judgement(run_here, tmp_path):
    """The ablation: no threshold and no audition; a rule that brakes guides to the end."""
    (tmp_path / "rule.py").write_text(sup.parse_code(BRAKE))
    run = run_here("--guide-policy", "rule.py", "--advisor-always", "--guide-window", "50", "--guide-end", "120",
                   "--total-timesteps", "130", "--learning-starts", "130", "--replay-frames", "0")  # fmt: skip
    assert scalars(run.run_name)["charts/guidance_active"] == [(0, 1.0), (50, 1.0), (100, 1.0), (120, 0.0)]
    assert "supervisor/audition_guided_return" not in scalars(run.run_name)


def test_bundled_advisor_steps_back_when_the_policy_is_good(run_here, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "bundled_policy.py").write_text(sup.parse_code(PUSH))
    (tmp_path / "p" / "bundled.toml").write_text('intervene_below = -50\nanalysis = "a"\nadvice = "b"\n')
    run = run_here("--prompt-dir", "p", "--total-timesteps", "5", "--replay-frames", "0")
    assert scalars(run.run_name)["charts/guidance_active"][0] == (0, 0.0)  # an idle car returns about −1
    assert "threshold -50" in texts(run.run_name, "supervisor/advice")[0]


def test_bundled_humanoid_rule_is_usable(run_here):
    """It passes the check and the sandbox on real states, and gets as far as the audition."""
    run = run_here(
        "--env-id", "Humanoid-v5", "--supervisor", "bundled", "--total-timesteps", "3", "--replay-frames", "0"
    )
    logged = scalars(run.run_name)
    assert logged["supervisor/failures"][0] == (0, 0.0)
    assert "supervisor/audition_guided_return" in logged
