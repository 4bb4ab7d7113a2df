"""The replay of the unguided policy, the pictures of it, and what it takes to draw them without a screen."""

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter

from supervision.key import KEPT_FROM_CHILDREN
from supervision.pictures import add_gif, as_picture, check_written, frame_rate, gif_bytes, write_mp4
from supervision.texts import for_console, say

UNWRITTEN = logging.getLogger("guided_sac.unwritten")  # told of what a disk or an encoder did not take
VIDEOS = logging.getLogger("guided_sac.videos")  # told of each video of training


@dataclass
class Replay:
    """Greedy episodes of the unguided policy; T = steps of all episodes together."""

    obs: np.ndarray  # (T, *obs), before each action
    actions: np.ndarray  # (T, *action); (T,) int64 where they are discrete
    rewards: np.ndarray  # (T,)
    steps: np.ndarray  # (T,) int64, step within the episode
    returns: list[float]  # undiscounted, one an episode
    lengths: list[int]
    frames: list[np.ndarray]  # (height, width, 3) uint8, of the first episode; none where nothing can be rendered
    frame_steps: list[int]
    no_frames: str = ""  # why the renderer failed on the way, so that there are none


class KeyFrames:
    """Captures at a stride that doubles whenever 2 · wanted captures are there, so that an episode of any length leaves
    between wanted and 2 · wanted of them, evenly spaced, after about wanted · log₂(length / wanted) captures.

    Args:
        env: an environment that renders to arrays.
        wanted: number of key frames.
    """

    def __init__(self, env: gym.Env, wanted: int):
        self.env, self.wanted, self.stride = env, wanted, 1
        self.physics = hasattr(env.unwrapped, "mujoco_renderer")
        self.captures: list[np.ndarray] = []
        self.steps: list[int] = []
        self.failure = ""  # why there are no pictures: whatever a renderer does, the episode goes on

    def offer(self, step: int) -> None:
        """Capture the environment's present state if this step is on the stride."""
        if self.failure:
            return
        if len(self.captures) == 2 * self.wanted and step % self.stride == 0:
            self.captures, self.steps = self.captures[::2], self.steps[::2]
            self.stride *= 2
        if step % self.stride == 0:
            try:
                self.captures.append(self._capture())
                self.steps.append(step)
            except Exception as error:  # a third-party renderer may raise anything
                self._fail(error)

    def frames(self) -> list[np.ndarray]:
        """The pictures, (height, width, 3) uint8 each. A MuJoCo environment's state is another one afterwards."""
        try:
            return [self._draw(capture) for capture in self.captures]
        except Exception as error:  # as above
            self._fail(error)
            return []

    def _fail(self, error: Exception) -> None:
        self.failure, self.captures, self.steps = in_one_line(error), [], []

    # MuJoCo: drawing in software costs as much as fifteen steps of physics, copying the state next to nothing, so
    # states are captured and only those that are left at the end are drawn.

    def _capture(self) -> np.ndarray:
        if not self.physics:
            size = self.captures[0].shape[:2] if self.captures else None
            return as_picture(self.env.render(), size)  # a copy: the environment may draw in its own array again
        import mujoco

        env, what = self.env.unwrapped, mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(env.model, what))
        mujoco.mj_getState(env.model, env.data, state, what)
        return state

    def _draw(self, capture: np.ndarray) -> np.ndarray:
        if not self.physics:
            return capture
        import mujoco

        env = self.env.unwrapped
        mujoco.mj_setState(env.model, env.data, capture, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(env.model, env.data)
        return as_picture(self.env.render())


def in_one_line(error: Exception) -> str:
    """What went wrong, for the terminal."""
    return for_console((f"{type(error).__name__}: {error}".splitlines() or [""])[0])


def record_replay(
    env: gym.Env,
    act: Callable[[np.ndarray, bool], np.ndarray],
    *,
    episodes: int,
    max_steps: int,
    seed: int,
    frames: int = 0,
) -> Replay:
    """Roll the unguided policy out greedily in an environment of its own.

    Args:
        act: maps observations (1, *obs) and `deterministic` to actions (1, *action); discrete ones (1,) int64.
        frames: key frames of the first episode (see `KeyFrames`); 0: none.
    """
    obs_list, actions, rewards, steps, returns, lengths = [], [], [], [], [], []
    key_frames = KeyFrames(env, frames) if frames else None
    pictures: list[np.ndarray] = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        returns.append(0.0)
        done, t = False, 0
        while not done and len(rewards) < max_steps:
            if key_frames and episode == 0:
                key_frames.offer(t)
            action = act(obs[None], True)[0]
            obs_list.append(obs)
            obs, reward, terminated, truncated, _ = env.step(action)
            actions.append(action)
            rewards.append(float(reward))
            steps.append(t)
            returns[-1] += float(reward)
            done, t = terminated or truncated, t + 1
        lengths.append(t)
        if key_frames and episode == 0:
            pictures = key_frames.frames()
        if len(rewards) >= max_steps:
            break
    return Replay(
        np.array(obs_list), np.array(actions), np.array(rewards), np.array(steps), returns, lengths, pictures,
        key_frames.steps if key_frames else [], key_frames.failure if key_frames else "",
    )  # fmt: skip


class Recorder:
    """Records replays in an environment of their own; each is left as a video in the run's folder and on TensorBoard.

    Args:
        args: the flags of SupervisorArgs, and seed.
        env_fn: makes the environment with a render mode ("rgb_array" or None), at the first replay.
        act: as for `record_replay`.
        run_dir: the run's folder.
    """

    def __init__(
        self,
        args: Any,
        env_fn: Callable[[str | None], gym.Env],
        act: Callable[[np.ndarray, bool], np.ndarray],
        run_dir: Path,
    ):
        self.args, self.env_fn, self.act, self.run_dir = args, env_fn, act, run_dir
        self.env: gym.Env | None = None
        self.frames = 0  # key frames of a replay; 0 where nothing can be rendered
        self.steps = 0  # environment steps so far

    def record(self, global_step: int, writer: SummaryWriter) -> Replay:
        """Replay the unguided policy as it is at this step of the run."""
        args = self.args
        if self.env is None:
            self._open()
        replay = record_replay(
            self.env, self.act, episodes=args.replay_episodes, max_steps=args.replay_max_steps,
            seed=args.seed + global_step, frames=self.frames,
        )  # fmt: skip
        self.steps += len(replay.rewards)
        if replay.no_frames:
            self.frames = 0
            say(f"supervisor: replays without pictures from now on: {replay.no_frames}")
        save_video(replay, self.env, self.run_dir, "supervisor/replay", global_step, writer)
        return replay

    def _open(self) -> None:
        self.env = self.env_fn(None)
        if not self.args.replay_frames:
            return
        env, reason = open_rendered(self.env_fn)
        if env is None:
            say(f"supervisor: replays without pictures: {reason}")
        else:
            close_quietly(self.env)
            self.env, self.frames = env, self.args.replay_frames

    def close(self) -> None:
        """Close the environment, if one was needed."""
        if self.env is not None:
            close_quietly(self.env)


class GreedyVideos:
    """A baseline's videos: now and then one greedy episode, in an environment of its own.

    Where nothing can be rendered it says so, once, and records nothing.

    Args:
        env_fn: makes the environment with a render mode ("rgb_array" or None).
        run_dir: the run's folder.
    """

    FRAMES, STEPS = 16, 1_000  # key frames of a video, steps of its episode at most

    def __init__(self, env_fn: Callable[[str | None], gym.Env], run_dir: str | Path):
        self.run_dir = run_dir
        self.env, reason = open_rendered(env_fn)
        if self.env is None:
            say(f"no replays: {reason}")

    def record(
        self, act: Callable[[np.ndarray, bool], np.ndarray], seed: int, global_step: int, writer: SummaryWriter
    ) -> None:
        """Leave a video of the policy as it is at this step (`act` as for `record_replay`)."""
        if self.env is None:
            return
        replay = record_replay(self.env, act, episodes=1, max_steps=self.STEPS, seed=seed, frames=self.FRAMES)
        save_video(replay, self.env, self.run_dir, "eval/replay", global_step, writer)
        if replay.no_frames:
            say(f"no replays from now on: {replay.no_frames}")
            self.close()

    def close(self) -> None:
        """Close the environment, if there is one."""
        if self.env is not None:
            close_quietly(self.env)
            self.env = None


# Draws one picture; that a context opens does not yet mean that it can draw.
GL_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""
GL_SECONDS = 60.0  # a driver or a display that does not answer must not hold the run


@functools.cache
def _choose_mujoco_gl() -> str | None:
    """Set MUJOCO_GL to the first backend that works here, or return why none does.

    Tried in child processes: a failed OpenGL start can abort the whole process at the next one.
    """
    configured = os.environ.get("MUJOCO_GL")
    keyless = {name: value for name, value in os.environ.items() if name not in KEPT_FROM_CHILDREN}
    for backend in [configured] if configured else ["egl", "osmesa", "glfw"]:
        env = {**keyless, "MUJOCO_GL": backend}
        with suppress(subprocess.SubprocessError):  # it fails, or a driver or a display does not answer
            subprocess.run(
                [sys.executable, "-c", GL_PROBE], env=env, capture_output=True, timeout=GL_SECONDS, check=True
            )
            os.environ["MUJOCO_GL"] = backend  # read by the first render(), not at import
            return None
    return f"no OpenGL for MuJoCo (tried {configured or 'egl, osmesa, glfw'})"


def own_opengl_context(env: gym.Env) -> None:
    """Make a MuJoCo environment draw in its own OpenGL context, whichever other one was used last.

    Without this, of two environments that render in one process the first turns black. Others are left as they are.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    draw = renderer.render

    def render(render_mode: str | None) -> Any:
        renderer._get_viewer(render_mode).make_context_current()
        return draw(render_mode)

    renderer.render = render


def open_rendered(env_fn: Callable[[str | None], gym.Env], size: int = 240) -> tuple[gym.Env | None, str]:
    """Make an environment that renders to arrays; where that cannot be, None and the reason in words.

    Pictures of MuJoCo environments are made cheap (size × size pixels, no shadows) and follow the robot.
    """
    env = env_fn(None)
    modes = (env.metadata or {}).get("render_modes") or []
    close_quietly(env)
    if "rgb_array" not in modes:
        return None, "the environment has no render mode rgb_array"
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame (toy text, classic control) without a screen
    env = None
    try:
        env = env_fn("rgb_array")
        renderer = getattr(env.unwrapped, "mujoco_renderer", None)
        if renderer is not None:
            if reason := _choose_mujoco_gl():
                close_quietly(env)
                return None, reason
            import mujoco

            renderer.model.vis.quality.shadowsize = renderer.model.vis.quality.offsamples = 0
            renderer.width = renderer.height = size
            camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
            renderer.camera_id = camera if camera >= 0 else renderer.camera_id
            own_opengl_context(env)
        env.reset(seed=0)
        as_picture(env.render())
    except Exception as error:  # a third-party renderer may raise anything; training goes on without pictures
        if env is not None:
            close_quietly(env)
        return None, in_one_line(error)
    return env, ""


def close_quietly(env: gym.Env) -> None:
    """Close an environment; what its window or simulator has against that is no reason to end a run."""
    with suppress(Exception):
        env.close()


class Videos(gym.wrappers.RecordVideo):
    """Gymnasium's videos of episodes; where one cannot be drawn or written it says so, once, and records no further."""

    def __init__(self, env: gym.Env, folder: str):
        super().__init__(_Drawn(env, self._end), folder, fps=frame_rate(env))
        self.ended = False

    def _end(self, reason: str) -> None:
        if not self.ended:
            say(f"no videos from now on: {reason}")
        self.ended, self.recording, self.recorded_frames = True, False, []
        self.episode_trigger = lambda episode: False

    def stop_recording(self) -> None:
        """Write the video of an episode."""
        if self.ended:
            return
        path = Path(self.video_folder, f"{self._video_name}.mp4")
        try:
            super().stop_recording()
            check_written(path)
            VIDEOS.info(path)
        except Exception as error:  # a full disk, a missing encoder: moviepy raises many things, many lines long
            if isinstance(error, OSError):
                UNWRITTEN.error("videos", in_one_line(error))
            self._end(in_one_line(error))


class _Drawn(gym.Wrapper):
    """Pictures of one size and kind, whatever the environment draws; None where it cannot, and `fail` is told why."""

    def __init__(self, env: gym.Env, fail: Callable[[str], None]):
        super().__init__(env)
        self.fail, self.size = fail, None

    def render(self) -> np.ndarray | None:
        try:
            picture = as_picture(self.env.render(), self.size)
        except Exception as error:  # as in KeyFrames
            self.fail(in_one_line(error))
            return None
        self.size = picture.shape[:2]
        return picture


def record_video(make: Callable[[str | None], gym.Env], folder: str) -> gym.Env:
    """Make an environment that leaves videos of its episodes in a folder.

    Where nothing can be rendered it says so, once, and makes a plain one.

    Args:
        make: makes the environment with a render mode ("rgb_array" or None).
    """
    trial, reason = open_rendered(make)
    if trial is None:
        say(f"no videos: {reason}")
        return make(None)
    close_quietly(trial)
    env = make("rgb_array")  # another one: the trial's pictures are small and without shadows
    own_opengl_context(env)
    return Videos(env, folder)


def save_video(replay: Replay, env: gym.Env, run_dir: str | Path, tag: str, step: int, writer: SummaryWriter) -> None:
    """Leave a replay's pictures, where it has any, in `run_dir/replays/` as mp4 and on TensorBoard as a GIF.

    Args:
        env: the environment of the replay, for its frame rate.
    """
    if not replay.frames:
        return
    path = Path(run_dir) / "replays" / f"step_{step:08d}.mp4"
    stride = replay.frame_steps[1] - replay.frame_steps[0] if len(replay.frames) > 1 else 1
    fps = float(np.clip(frame_rate(env) / stride, 5, 30))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(replay.frames, path, fps)
    except Exception as error:  # a full disk, a broken or missing encoder: moviepy raises many things, many lines long
        say(f"replay: {path} could not be written: {in_one_line(error)}")
        if isinstance(error, OSError):
            UNWRITTEN.error("replay videos", in_one_line(error))
        with suppress(OSError):
            path.unlink(missing_ok=True)
    add_gif(writer, tag, gif_bytes(replay.frames, fps), step)
