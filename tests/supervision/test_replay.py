"""Pictures without a screen: episodes outside training, videos, and where nothing can be rendered."""

import io
import os
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, events_in, run_process
from films import decoded
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from supervision import replay
from supervision.pictures import LARGEST, gif_bytes, jpeg_bytes, reduced, write_mp4
from supervision.replay import (
    GreedyVideos,
    _choose_mujoco_gl,
    open_rendered,
    own_opengl_context,
    record_episode,
    record_video,
)


def test_an_episode_is_the_rollout():
    """Against a plain loop over the same environment; and how it ended."""
    env, plain = gym.make("MountainCarContinuous-v0"), gym.make("MountainCarContinuous-v0")

    def act(obs: np.ndarray) -> np.ndarray:
        assert obs.shape == (1, 2)
        return np.sign(obs[:, 1:] + 1e-9).astype(np.float32)

    episode, failure = record_episode(env, act, seed=5, max_steps=10_000)
    obs, _ = plain.reset(seed=5)
    for t in range(len(episode)):
        assert (episode.obs[t] == obs).all()
        obs, reward, terminated, _, _ = plain.step(act(obs[None])[0])
        assert episode.rewards[t] == reward and (episode.next_obs[t] == obs).all()
    assert terminated and episode.end == "terminated" and sum(episode.rewards) > 85 and not failure
    short, _ = record_episode(env, act, seed=5, max_steps=50)
    assert len(short) == 50 and short.end == "" and short.rewards == episode.rewards[:50]


def test_a_picture_of_each_step_and_of_the_end():
    env, reason = open_rendered(lambda mode: gym.make("CartPole-v1", render_mode=mode))
    assert not reason
    episode, failure = record_episode(env, lambda obs: np.array([0]), seed=0, max_steps=99, frames=300)
    assert not failure and episode.frame_steps == list(range(len(episode) + 1)) and episode.end == "terminated"
    twin = gym.make("CartPole-v1", render_mode="rgb_array")
    twin.reset(seed=0)
    for frame in episode.frames:
        assert (frame == reduced(twin.render())).all() and max(frame.shape) <= LARGEST
        twin.step(0)


def test_video_and_gif_hold_the_frames(tmp_path):
    """Read back by decoders: number, size and colour of the frames; odd sizes are cropped to even ones."""
    frames = [np.full((31, 45, 3), (40 * i, 0, 200 - 40 * i), np.uint8) for i in range(5)]
    write_mp4(frames, tmp_path / "v.mp4", fps=5)
    shown, fps = decoded(tmp_path / "v.mp4")
    assert shown[0].shape == (30, 44, 3) and len(shown) == 5 and fps == 5
    for ours, theirs in zip(frames, shown, strict=True):
        assert np.abs(theirs.mean((0, 1)) - ours[0, 0]).max() < 12  # lossy
    gif = Image.open(io.BytesIO(gif_bytes(frames, fps=5, largest=20)))
    assert gif.n_frames == 5 and max(gif.size) == 20 and gif.info["duration"] == 200
    jpeg = Image.open(io.BytesIO(jpeg_bytes(np.zeros((600, 1200, 3), np.uint8))))
    assert jpeg.format == "JPEG" and jpeg.size == (512, 256)


def test_greedy_videos_are_watchable(tmp_path):
    """A still car for 999 steps: 33 s of 30 frames become 8.3 s, four times as fast."""
    acted = []

    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        acted.append(deterministic)
        return np.zeros((1, 1), np.float32)

    videos = GreedyVideos(lambda mode: gym.make("MountainCarContinuous-v0", render_mode=mode), tmp_path)
    with SummaryWriter(str(tmp_path)) as writer:
        videos.record(act, 3, 500, writer)
    videos.close()
    frames, fps = decoded(tmp_path / "replays" / "step_00000500.mp4")
    assert len(acted) == 999 and all(acted) and 20 <= fps <= 30 and 8 < len(frames) / fps < 10
    assert len({frame.tobytes() for frame in frames}) > 100
    gif = Image.open(io.BytesIO(events_in(tmp_path).Images("eval/replay")[0].encoded_image_string))
    assert gif.format == "GIF" and 10 < gif.n_frames <= 30


def test_no_opengl_means_states_only(tmp_path):
    """A GL that cannot start (GLFW without a display) is found out in a child; the run goes on and says so once."""
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 0.0\n")
    process = run_process(
        "--env-id", "InvertedPendulum-v5", "--guide-policy", "rule.py", "--advisor-always", "--capture-video",
        "--guide-window", "3", "--total-timesteps", "9", MUJOCO_GL="glfw", DISPLAY="", WAYLAND_DISPLAY="",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("supervisor: no pictures: no OpenGL for MuJoCo") == 1
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


HOLDER = """
import gymnasium as gym
from supervision.replay import open_rendered

class Maze(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        self.inner, self.render_mode = gym.make("InvertedPendulum-v5", render_mode=render_mode), render_mode
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space

    def reset(self, *, seed=None, options=None):
        return self.inner.reset(seed=seed)

    def render(self):
        return self.inner.render()

print(open_rendered(lambda mode: Maze(mode))[1])
"""


def test_an_environment_that_holds_one_of_mujocos_is_drawn_by_what_works_here():
    """As PointMaze does: in a process in which nobody has chosen an OpenGL yet."""
    bare = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    command = [sys.executable, "-c", HOLDER]
    done = subprocess.run(command, env=bare, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("", "no OpenGL for MuJoCo (tried egl, osmesa, glfw)")


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
