"""Pictures without a screen: what it takes to draw an environment, videos of training and of greedy episodes."""

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import getattr_static
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter

from supervision.episodes import Stretch
from supervision.film import LONG, Film, draw, save_video
from supervision.key import KEPT_FROM_CHILDREN
from supervision.pictures import as_picture, check_written, frame_rate
from supervision.texts import in_one_line, say

UNWRITTEN = logging.getLogger("guided_sac.unwritten")  # told of what a disk or an encoder did not take
VIDEOS = logging.getLogger("guided_sac.videos")  # told of each video of training


def record_episode(
    env: gym.Env, act: Callable[[np.ndarray], np.ndarray], *, seed: int, max_steps: int, frames: int = 0
) -> tuple[Stretch, str]:
    """An episode in an environment of its own, outside training.

    Args:
        act: maps observations (1, *obs) to actions (1, *action); discrete ones (1,) int64.
        max_steps: after which it is left off.
        frames: pictures that are kept, at most (one more where the episode ends between them); 0: none.

    Returns:
        The episode with its pictures, and "" or why the renderer failed on the way, so that there are none.
    """
    stretch, over, failure = Stretch(0, 0, 0, guided=False, uniform=False), False, ""
    obs, _ = env.reset(seed=seed)
    film = Film(env, frames) if frames else None
    while True:
        try:
            if film and not failure:
                film.offer(over)
        except Exception as error:  # a third-party renderer may raise anything; the episode goes on
            failure = in_one_line(error)
        if over or len(stretch) == max_steps:
            break
        action = act(obs[None])[0]
        next_obs, reward, terminated, truncated, _ = env.step(action)
        stretch.add(obs, action, reward, next_obs)
        obs, over = next_obs, terminated or truncated
        stretch.end = "terminated" if terminated else "truncated" if truncated else ""
    if film and not failure:
        try:
            stretch.frames = [draw(env, captured) for captured in film.captures.values()]
            stretch.frame_steps = list(film.captures)
        except Exception as error:  # as above
            failure = in_one_line(error)
    return stretch, failure


class GreedyVideos:
    """A baseline's videos: now and then one greedy episode, in an environment of its own.

    Where nothing can be rendered it says so, once, and records nothing.

    Args:
        env_fn: makes the environment with a render mode ("rgb_array" or None).
        run_dir: the run's folder.
    """

    STEPS = 1_000  # of its episode at most

    def __init__(self, env_fn: Callable[[str | None], gym.Env], run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self.env, reason = open_rendered(env_fn)
        if self.env is None:
            say(f"no replays: {reason}")

    def record(
        self, act: Callable[[np.ndarray, bool], np.ndarray], seed: int, global_step: int, writer: SummaryWriter
    ) -> None:
        """Leave a video of the policy as it is at this step.

        Args:
            act: maps observations (1, *obs) and `deterministic` to actions (1, *action); discrete ones (1,) int64.
        """
        if self.env is None:
            return
        greedy = partial(act, deterministic=True)
        stretch, failure = record_episode(self.env, greedy, seed=seed, max_steps=self.STEPS, frames=LONG)
        if failure:
            say(f"no replays from now on: {failure}")
            return self.close()
        path, title = self.run_dir / "replays" / f"step_{global_step:08d}.mp4", f"greedy, training step {global_step:,}"
        save_video(stretch, title, frame_rate(self.env), path, "eval/replay", global_step, writer)

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


def _draws_with_mujoco(env: gym.Env) -> bool:
    """Whether an environment is one of MuJoCo's, or holds one, as PointMaze does, or dm_control's."""
    held = (x.unwrapped if isinstance(x, gym.Env) else x for x in vars(env.unwrapped).values())
    return any(
        getattr_static(part, "mujoco_renderer", None) is not None or type(part).__module__.startswith("dm_control.")
        for part in (env.unwrapped, *held)
    )


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
        if _draws_with_mujoco(env) and (reason := _choose_mujoco_gl()):
            close_quietly(env)
            return None, reason
        if renderer is not None:
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
        except Exception as error:  # a third-party renderer may raise anything
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


def drawn_by(env: gym.Env) -> gym.Env:
    """The environment as it draws itself: below what `record_video` makes of its pictures."""
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, _Drawn):
            return layer.env
        layer = layer.env
    return env
