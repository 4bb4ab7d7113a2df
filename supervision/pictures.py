"""Pictures of an environment, whatever its renderer makes of them, and the files they are kept in."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter

FPS = 30.0  # where an environment does not say
LARGEST = 384  # pixels that a kept picture is wide and high at most
SMALLEST_MP4 = 500  # bytes: its boxes alone take more


def as_picture(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """A copy of what a renderer returned as (height, width, 3) uint8.

    Understood are one frame or a list of which the last counts; numbers of any type, from 0 to 1 where they are
    fractions and none is larger, else from 0 to 255; one, three or four channels (what is transparent turns white),
    last or first.

    Args:
        size: height and width that it shall have.

    Raises:
        ValueError: it is no picture.
    """
    if isinstance(frame, (list, tuple)) and len(frame) and isinstance(frame[-1], np.ndarray):
        frame = frame[-1]
    given = np.asarray(frame)
    described = type(frame).__name__ if not isinstance(frame, np.ndarray) else f"{given.dtype} of shape {given.shape}"
    if given.ndim == 2:
        given = given[..., None]
    if given.ndim != 3 or 0 in given.shape or given.dtype.kind not in "buif":
        raise ValueError(f"render() returned {described}, not a picture")
    if given.shape[2] not in (1, 3, 4):
        if given.shape[0] not in (1, 3, 4):
            raise ValueError(f"render() returned {described}, not a picture of one, three or four channels")
        given = np.moveaxis(given, 0, 2)
    picture = np.array(given) if given.dtype == np.uint8 else _as_bytes(given)
    if picture.shape[2] == 4:
        opaque = picture[..., 3:].astype(np.uint16)
        picture = ((picture[..., :3] * opaque + 255 * (255 - opaque)) // 255).astype(np.uint8)
    elif picture.shape[2] == 1:
        picture = np.repeat(picture, 3, axis=2)
    return picture if size in (None, picture.shape[:2]) else _resized(picture, size)


def _as_bytes(given: np.ndarray) -> np.ndarray:
    """Numbers of any type as those of a picture; what is no number is black."""
    if given.dtype.kind == "b":
        return given.astype(np.uint8) * 255
    if given.dtype.kind == "f":
        given = np.nan_to_num(given.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        given = given * 255.0 if given.max() <= 1.0 else given
    return np.clip(given, 0, 255).astype(np.uint8)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    return np.array(Image.fromarray(picture).resize(size[::-1]))


def reduced(frame: Any, size: tuple[int, int] | None = None, largest: int = LARGEST) -> np.ndarray:
    """What `as_picture` makes of a frame, each side divided by the least whole number that makes it small enough."""
    from PIL import Image

    plain = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    # pygame's pictures are transposed in memory: reduced as they lie, which is five times as fast as copied first
    lying = plain and frame.transpose(1, 0, 2).flags.c_contiguous
    if not lying or size not in (None, frame.shape[:2]):
        frame = as_picture(frame, size)
    factor = -(-max(frame.shape[:2]) // largest)
    given = frame.transpose(1, 0, 2) if lying else frame
    small = np.array(Image.fromarray(np.ascontiguousarray(given)).reduce(factor) if factor > 1 else given)
    return np.ascontiguousarray(small.transpose(1, 0, 2)) if lying else small


def frame_rate(env: gym.Env) -> float:
    """Frames a second of an environment, where it says so."""
    fps = (env.metadata or {}).get("render_fps")
    return float(fps) if isinstance(fps, (int, float)) and 0 < fps < float("inf") else FPS


def write_mp4(frames: Sequence[np.ndarray], path: Path, fps: float) -> None:
    """Write frames (height, width, 3) uint8 as H.264 that every player takes (even sizes, yuv420p).

    Raises:
        ValueError: pictures of less than 2 × 2 pixels.
        OSError: no encoder, or a disk that does not take it.
    """
    from imageio_ffmpeg import write_frames  # what moviepy uses, without its second of import

    height, width = (n - n % 2 for n in frames[0].shape[:2])
    if min(height, width) < 2:
        raise ValueError(f"pictures of {frames[0].shape[:2]} pixels are too small for a video")
    options = ["-preset", "ultrafast", "-threads", "1"]
    encoder = write_frames(str(path), (width, height), fps=fps, macro_block_size=2, output_params=options)
    encoder.send(None)
    for frame in frames:
        encoder.send(np.ascontiguousarray(frame[:height, :width]))
    encoder.close()
    check_written(path)


def check_written(path: Path) -> None:
    """Raise OSError where the encoder, which may fail without a word, left no whole video."""
    if path.stat().st_size < SMALLEST_MP4:
        path.unlink()
        raise OSError(f"the encoder wrote nothing of use to {path}: is the disk full?")


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
