"""What the tests of films share."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np


def decoded(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames of a video, (height, width, 3) each, and how many are shown a second."""
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader], about["fps"]
