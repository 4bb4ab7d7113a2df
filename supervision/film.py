"""Films of episodes: which steps are captured, and the videos that a person watches."""

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter

from supervision.episodes import Stretch
from supervision.pictures import add_gif, as_picture, gif_bytes, reduced, write_mp4
from supervision.texts import in_one_line, say

UNWRITTEN = logging.getLogger("guided_sac.unwritten")  # told of what a disk or an encoder did not take
LONG = 300  # captures of a film for a person, at most: 10 s at 30 frames a second
SHORTEST, LONGEST = 2.0, 9.5  # seconds of a video, without its last picture, which stands for half a second
DISTINCT = 10  # different pictures a second, at least, before a video becomes shorter than real time asks for
SLOWEST_FPS, FASTEST_FPS = 20, 30  # frames a second of a video
GIF_FPS, GIF_FRAMES = 10, 30  # of its small copy on TensorBoard, at most
WIDTH, FONT = 240, 13  # pixels of a video's width, at least, and of the text below it


def is_physics(env: gym.Env) -> bool:
    """Whether it is one of Gymnasium's MuJoCo environments, whose states can be copied and drawn later."""
    return hasattr(env.unwrapped, "mujoco_renderer")


def capture(env: gym.Env, size: tuple[int, int] | None = None) -> np.ndarray:
    """The environment's present state: as a picture, or as numbers from which `draw` makes one later.

    MuJoCo: drawing in software costs as much as fifteen steps of physics, copying the state next to nothing.

    Args:
        size: height and width of the first picture, as it was rendered.
    """
    if not is_physics(env):
        return reduced(env.render(), size)
    import mujoco

    model, data, what = env.unwrapped.model, env.unwrapped.data, mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, what))
    mujoco.mj_getState(model, data, state, what)
    return state


def draw(env: gym.Env, captured: np.ndarray) -> np.ndarray:
    """What `capture` took as a picture (height, width, 3) uint8. A MuJoCo environment's state is another one after."""
    if not is_physics(env):
        return captured
    import mujoco

    model, data = env.unwrapped.model, env.unwrapped.data
    mujoco.mj_setState(model, data, captured, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    return as_picture(env.render())


class Film:
    """Captures of an episode, evenly spaced, and its last state.

    The stride doubles whenever `most` captures are there, so that an episode of any length leaves between a half of
    `most` and `most` of them (and one more).

    Args:
        env: what is filmed, and stepped by someone else.
        most: captures that are kept, ≥ 2.
        start: the episode's step at which the film begins.
        stride: the first one, a power of two.
    """

    def __init__(self, env: gym.Env, most: int, start: int = 0, stride: int = 1):
        self.env, self.most, self.start, self.stride = env, most, start, stride
        self.captures: dict[int, np.ndarray] = {}  # by steps of the episode
        self.step = start  # of the state that is offered next
        self.last: int | None = None  # the episode's, once it is over
        self.taken = 0
        self.size: tuple[int, int] | None = None  # of the renderer's pictures

    def offer(self, over: bool = False) -> None:
        """Capture the environment's present state, one step after the last one, if it is its turn or the last state.

        Whatever the renderer raises passes through.
        """
        since = self.step - self.start
        if since % self.stride == 0 and len(self.captures) >= self.most:
            self.stride *= 2
            self.captures = {s: c for s, c in self.captures.items() if (s - self.start) % self.stride == 0}
        if since % self.stride == 0 or over:
            self.captures[self.step] = self._capture()
            self.taken += 1
        self.last = self.step if over else None
        self.step += 1

    def _capture(self) -> np.ndarray:
        if self.size is None and not is_physics(self.env):
            frame = self.env.render()
            self.size = as_picture(frame).shape[:2]
            return reduced(frame)
        return capture(self.env, self.size)

    def grid(self, most: int) -> list[int]:
        """Steps of at most so many captures, evenly spaced by a power of two, and that of the last state."""
        stride = self.stride
        while math.ceil((self.step - self.start) / stride) > most:
            stride *= 2
        return [s for s in self.captures if (s - self.start) % stride == 0 or s == self.last]


def even_stride(steps: int, most: int) -> int:
    """The smallest power of two of which at most `most` multiples lie in `range(steps)`."""
    stride = 1
    while math.ceil(steps / stride) > most:
        stride *= 2
    return stride


def playback(steps: Sequence[int], rate: float) -> tuple[list[int], float, float]:
    """How pictures of an episode are shown in a video.

    Real time where that is 2 to 9.5 seconds, else faster or slower; faster too where pictures are few.

    Args:
        steps: of the episode, rising.
        rate: steps a second in real time.

    Returns:
        For each of the video's frames the number of its picture, frames a second (20 to 30), and how many times as
        fast as in real time it is.
    """
    span = (steps[-1] - steps[0]) / rate
    longest = float(np.clip(len(steps) / DISTINCT, SHORTEST, LONGEST))
    factor = 1.0
    if span > longest:
        factor = float(math.ceil(span / longest))
    elif 0 < span < SHORTEST:
        factor = 1 / math.ceil(SHORTEST / span)
    pictures = (len(steps) - 1) / (span / factor) if span else 1.0  # a second
    # each picture equally often, or every k-th one, if that makes a rate in between
    many = pictures > FASTEST_FPS
    fps = pictures / math.ceil(pictures / FASTEST_FPS) if many else pictures * math.ceil(SLOWEST_FPS / pictures)
    if not SLOWEST_FPS <= fps <= FASTEST_FPS:
        fps = FASTEST_FPS
    frames = round(span / factor * fps) + round(fps / 2)
    at = steps[0] + np.arange(frames) * rate * factor / fps
    shown = np.searchsorted(steps, at + 1e-6, side="right") - 1
    shown[round(span / factor * fps) :] = len(steps) - 1
    return shown.tolist(), float(fps), factor


def captioned(pictures: Sequence[np.ndarray], title: str, texts: Sequence[str]) -> list[np.ndarray]:
    """Pictures with a title and a text of their own below, at least `WIDTH` pixels wide (enlarged by whole numbers)."""
    from PIL import Image, ImageDraw, ImageFont

    scale = max(1, math.ceil(WIDTH / pictures[0].shape[1]))
    font, line = ImageFont.load_default(FONT), FONT + 4
    strip = Image.new("RGB", (pictures[0].shape[1] * scale, 2 * line), "white")
    pen, frames = ImageDraw.Draw(strip), []
    pen.text((4, 0), title, fill="black", font=font)
    for picture, text in zip(pictures, texts, strict=True):
        pen.rectangle((0, line, strip.width, 2 * line), fill="white")
        pen.text((4, line), text, fill="black", font=font)
        frames.append(np.vstack([picture.repeat(scale, axis=0).repeat(scale, axis=1), np.asarray(strip)]))
    return frames


def factor_text(factor: float) -> str:
    """ " x4", " x1/3", or nothing in real time; the font has no ×."""
    if factor == 1:
        return ""
    return f" x{factor:g}" if factor > 1 else f" x1/{round(1 / factor)}"


def save_video(
    stretch: Stretch, title: str, rate: float, path: Path, tag: str, global_step: int, writer: SummaryWriter
) -> None:
    """Leave the pictures of a stretch, if it has any, as an mp4, and small as a GIF on TensorBoard.

    Where the disk or the encoder fails it says so.

    Args:
        title: what is seen.
        rate: steps a second in real time.
        tag, global_step: of the GIF.
    """
    if not stretch.frames:
        return
    shown, fps, factor = playback(stretch.frame_steps, rate)
    so_far = np.concatenate([[0.0], np.cumsum(stretch.rewards)])
    returns = [so_far[min(step - stretch.start, len(stretch))] for step in stretch.frame_steps]
    texts = [f"step {step:,}   return {value:,.6g}" for step, value in zip(stretch.frame_steps, returns, strict=True)]
    frames = captioned(stretch.frames, title + factor_text(factor), texts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4([frames[i] for i in shown], path, fps)
    except Exception as error:  # a full disk, a broken or missing encoder: many things, many lines long
        say(f"replay: {path} could not be written: {in_one_line(error)}")
        if isinstance(error, OSError):
            UNWRITTEN.error("replay videos", in_one_line(error))
        with suppress(OSError):
            path.unlink(missing_ok=True)
    every = max(1, math.ceil(fps / GIF_FPS), math.ceil(len(shown) / GIF_FRAMES))
    add_gif(writer, tag, gif_bytes([frames[i] for i in shown[::every]], fps / every), global_step)
