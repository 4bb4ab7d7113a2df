"""The replay: rollout, key frames, pictures and videos, and where nothing can be rendered."""

import io
import math
import time

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import events, run_process
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from supervision import replay
from supervision.pictures import gif_bytes, jpeg_bytes, write_mp4
from supervision.replay import (
    KeyFrames,
    _choose_mujoco_gl,
    open_rendered,
    own_opengl_context,
    record_replay,
    record_video,
)


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
    key_frames = KeyFrames(env, wanted)
    for step in range(length):
        key_frames.offer(step)
    assert key_frames.steps == list(range(0, length, key_frames.stride))
    assert len(key_frames.frames()) == len(key_frames.steps) <= 2 * wanted
    assert len(key_frames.frames()) >= min(length, wanted)
    assert env.drawn <= 2 * wanted + wanted * max(0, math.ceil(math.log2(length / wanted)))


def test_key_frames_of_mujoco_show_the_states_of_their_steps():
    """Drawn afterwards from captured physics, the pictures equal those drawn on the way, and few are drawn."""
    env, reason = open_rendered(lambda mode: gym.make("InvertedPendulum-v5", render_mode=mode))
    if env is None:
        pytest.skip(reason)
    env.reset(seed=0)
    env.action_space.seed(0)
    key_frames, on_the_way = KeyFrames(env, 2), {}
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

    replay = record_replay(env, act, episodes=2, max_steps=10_000, seed=5)
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
    short = record_replay(env, act, episodes=3, max_steps=50, seed=5)
    assert short.lengths == [50] and len(short.rewards) == 50


def test_video_and_gif_hold_the_frames(tmp_path):
    """Read back by decoders: number, size and colour of the frames; odd sizes are cropped to even ones."""
    frames = [np.full((31, 45, 3), (40 * i, 0, 200 - 40 * i), np.uint8) for i in range(5)]
    write_mp4(frames, tmp_path / "v.mp4", fps=5)
    from moviepy import VideoFileClip

    with VideoFileClip(str(tmp_path / "v.mp4")) as clip:
        decoded = list(clip.iter_frames())
        assert clip.size == [44, 30] and len(decoded) == 5 and clip.fps == 5
    for ours, theirs in zip(frames, decoded, strict=True):
        assert np.abs(theirs.mean((0, 1)) - ours[0, 0]).max() < 12  # lossy
    gif = Image.open(io.BytesIO(gif_bytes(frames, fps=5, largest=20)))
    assert gif.n_frames == 5 and max(gif.size) == 20 and gif.info["duration"] == 200
    jpeg = Image.open(io.BytesIO(jpeg_bytes(np.zeros((600, 1200, 3), np.uint8))))
    assert jpeg.format == "JPEG" and jpeg.size == (512, 256)


def test_replay_of_a_run_is_a_watchable_video(run_here):
    run = run_here("--total-timesteps", "5", "--learning-starts", "5", "--supervisor", "bundled")
    if run.supervisor.recorder.frames == 0:
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
    replay, reason = open_rendered(make)
    if replay is None:
        pytest.skip(reason)
    training = make("rgb_array")
    own_opengl_context(training)
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


def test_a_display_that_does_not_answer_holds_nobody(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(replay, "GL_SECONDS", 0.5)
    monkeypatch.setattr(replay, "GL_PROBE", "import time\ntime.sleep(60)")
    started = time.time()
    assert _choose_mujoco_gl.__wrapped__() == "no OpenGL for MuJoCo (tried egl)"
    assert time.time() - started < 10


# -- videos of training -----------------------------------------------------------------------------------------------


def episode(env: gym.Env, steps: int = 5) -> None:
    env.reset(seed=0)
    for _ in range(steps):
        env.step(env.action_space.sample())
    env.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "InvertedPendulum-v5"])
def test_videos_of_an_environment_are_recorded_as_it_draws_itself(env_id, tmp_path):
    """The trial, whose pictures are small and without shadows, is another environment than the recorded one."""
    made = []

    def make(mode: str | None) -> gym.Env:
        made.append(gym.make(env_id, render_mode=mode))
        return made[-1]

    env = record_video(make, str(tmp_path / "videos"))
    if not isinstance(env, gym.wrappers.RecordVideo):
        pytest.skip("nothing can be rendered here")
    assert env.unwrapped is made[-1].unwrapped and made[-1].render_mode == "rgb_array"
    assert not any(other.unwrapped is env.unwrapped for other in made[:-1])
    env.reset(seed=0)
    plain = gym.make(env_id, render_mode="rgb_array")
    plain.reset(seed=0)
    ours, theirs = env.unwrapped.render(), plain.render()
    assert ours.shape == theirs.shape and (env_id[0] == "C" or ours.shape == (480, 480, 3))
    if env_id[0] == "I":
        quality = [e.unwrapped.model.vis.quality for e in (env, plain)]
        assert quality[0].shadowsize == quality[1].shadowsize > 0
    plain.close()
    episode(env)
    names = sorted(path.name for path in (tmp_path / "videos").glob("*.mp4"))
    assert names == ["rl-video-episode-0.mp4", "rl-video-episode-1.mp4"]  # one for each reset


def test_without_pictures_an_environment_is_not_recorded_and_it_is_said_once(tmp_path, capsys):
    modes = []

    def make(mode: str | None) -> gym.Env:
        modes.append(mode)
        return gym.make("Counter-v0")

    env = record_video(make, str(tmp_path / "videos"))
    episode(env, steps=2)
    assert capsys.readouterr().out == "no videos: the environment has no render mode rgb_array\n"
    assert modes == [None, None] and not (tmp_path / "videos").exists()
    assert not isinstance(env, gym.wrappers.RecordVideo)
