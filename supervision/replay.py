"""The replay of the unguided policy, the pictures of it, and what it takes to draw them without a screen."""

import functools
import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter


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

    def offer(self, step: int) -> None:
        """Capture the environment's present state if this step is on the stride."""
        if len(self.captures) == 2 * self.wanted and step % self.stride == 0:
            self.captures, self.steps = self.captures[::2], self.steps[::2]
            self.stride *= 2
        if step % self.stride == 0:
            self.captures.append(self._capture())
            self.steps.append(step)

    def frames(self) -> list[np.ndarray]:
        """The pictures, (height, width, 3) uint8 each. A MuJoCo environment's state is another one afterwards."""
        return [self._draw(capture) for capture in self.captures]

    # MuJoCo: drawing in software costs as much as fifteen steps of physics, copying the state next to nothing, so
    # states are captured and only those that are left at the end are drawn.

    def _capture(self) -> np.ndarray:
        if not self.physics:
            return np.array(self.env.render())  # a copy: the environment may draw in its own array again
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
        return np.array(self.env.render())


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
        key_frames.steps if key_frames else [],
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
        save_video(replay, self.env, self.run_dir, "supervisor/replay", global_step, writer)
        return replay

    def _open(self) -> None:
        self.env = self.env_fn(None)
        if not self.args.replay_frames:
            return
        env, reason = open_rendered(self.env_fn)
        if env is None:
            print(f"supervisor: replays without pictures: {reason}", flush=True)
        else:
            self.env.close()
            self.env, self.frames = env, self.args.replay_frames

    def close(self) -> None:
        """Close the environment, if one was needed."""
        if self.env is not None:
            self.env.close()


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
            print(f"no replays: {reason}", flush=True)

    def record(
        self, act: Callable[[np.ndarray, bool], np.ndarray], seed: int, global_step: int, writer: SummaryWriter
    ) -> None:
        """Leave a video of the policy as it is at this step (`act` as for `record_replay`)."""
        if self.env is not None:
            replay = record_replay(self.env, act, episodes=1, max_steps=self.STEPS, seed=seed, frames=self.FRAMES)
            save_video(replay, self.env, self.run_dir, "eval/replay", global_step, writer)

    def close(self) -> None:
        """Close the environment, if there is one."""
        if self.env is not None:
            self.env.close()


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
    keyless = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
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
    modes = env.metadata.get("render_modes", [])
    env.close()
    if "rgb_array" not in modes:
        return None, "the environment has no render mode rgb_array"
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame (toy text, classic control) without a screen
    env = env_fn("rgb_array")
    try:
        renderer = getattr(env.unwrapped, "mujoco_renderer", None)
        if renderer is not None:
            if reason := _choose_mujoco_gl():
                env.close()
                return None, reason
            import mujoco

            renderer.model.vis.quality.shadowsize = renderer.model.vis.quality.offsamples = 0
            renderer.width = renderer.height = size
            camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
            renderer.camera_id = camera if camera >= 0 else renderer.camera_id
            own_opengl_context(env)
        env.reset(seed=0)
        frame = env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise ValueError(f"render() returned {type(frame).__name__}, not a picture")
    except Exception as error:  # a third-party renderer may raise anything; training goes on without pictures
        env.close()
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return env, ""


def record_video(make: Callable[[str | None], gym.Env], folder: str) -> gym.Env:
    """Make an environment that leaves videos of its episodes in a folder.

    Where nothing can be rendered it says so, once, and makes a plain one.

    Args:
        make: makes the environment with a render mode ("rgb_array" or None).
    """
    trial, reason = open_rendered(make)
    if trial is None:
        print(f"no videos: {reason}", flush=True)
        return make(None)
    trial.close()
    env = make("rgb_array")  # another one: the trial's pictures are small and without shadows
    own_opengl_context(env)
    return gym.wrappers.RecordVideo(env, folder)


def write_mp4(frames: Sequence[np.ndarray], path: Path, fps: float) -> None:
    """Write frames (height, width, 3) uint8 as H.264 that every player takes (even sizes, yuv420p)."""
    from moviepy import ImageSequenceClip  # 1.5 s of import, only where there is a video

    height, width = (n - n % 2 for n in frames[0].shape[:2])
    clip = ImageSequenceClip([np.ascontiguousarray(frame[:height, :width]) for frame in frames], fps=fps)
    clip.write_videofile(str(path), codec="libx264", audio=False, logger=None, preset="ultrafast", threads=1)


def _pictures(frames: Sequence[np.ndarray], largest: int):
    from PIL import Image

    for frame in frames:
        picture = Image.fromarray(frame)
        picture.thumbnail((largest, largest))
        yield picture


def thumbnail(frame: np.ndarray, largest: int) -> np.ndarray:
    """A frame (height, width, 3) uint8, at most `largest` pixels wide and high."""
    return np.array(next(_pictures([frame], largest)))


def gif_bytes(frames: Sequence[np.ndarray], fps: float, largest: int = 240) -> bytes:
    """An endless GIF of frames (height, width, 3) uint8, at most `largest` pixels wide and high."""
    from PIL import Image

    first, *others = (p.quantize(64, Image.Quantize.FASTOCTREE) for p in _pictures(frames, largest))
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0)
    return buffer.getvalue()


def jpeg_bytes(frame: np.ndarray, largest: int = 512) -> bytes:
    """A JPEG of frame (height, width, 3) uint8, at most `largest` pixels wide and high."""
    buffer = io.BytesIO()
    next(_pictures([frame], largest)).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def add_gif(writer: SummaryWriter, tag: str, gif: bytes, step: int) -> None:
    """Put a GIF on TensorBoard's Images page (SummaryWriter.add_video writes nothing with moviepy 2)."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = int.from_bytes(gif[6:8], "little"), int.from_bytes(gif[8:10], "little")  # GIF header
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def save_video(replay: Replay, env: gym.Env, run_dir: str | Path, tag: str, step: int, writer: SummaryWriter) -> None:
    """Leave a replay's pictures, where it has any, in `run_dir/replays/` as mp4 and on TensorBoard as a GIF.

    Args:
        env: the environment of the replay, for its frame rate.
    """
    if not replay.frames:
        return
    path = Path(run_dir) / "replays" / f"step_{step:08d}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    stride = replay.frame_steps[1] - replay.frame_steps[0] if len(replay.frames) > 1 else 1
    fps = float(np.clip(env.metadata.get("render_fps", 30) / stride, 5, 30))
    try:
        write_mp4(replay.frames, path, fps)
    except OSError as error:  # a full disk or a broken encoder; moviepy's message is many lines long
        print(f"replay: {path} could not be written: {str(error).splitlines()[0]}", flush=True)
    add_gif(writer, tag, gif_bytes(replay.frames, fps), step)
