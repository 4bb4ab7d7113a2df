"""Films of episodes, and the videos that are made of them."""

import io
import itertools
import math

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import events_in
from films import decoded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from supervision import film
from supervision.episodes import Stretch
from supervision.film import WIDTH, Film, captioned, draw, even_stride, factor_text, playback, save_video
from supervision.replay import open_rendered


class StillEnv(gym.Env):
    """Counts how often it is drawn."""

    drawn = 0

    def render(self):
        self.drawn += 1
        return np.full((2, 2, 3), self.drawn % 256, np.uint8)


@given(length=st.integers(1, 3_000), most=st.integers(2, 40), start=st.integers(0, 99), first=st.sampled_from([1, 4]))
@settings(max_examples=200, deadline=None)
def test_a_film_s_captures_are_evenly_spaced_and_few(length, most, start, first):
    """An episode of `length` steps has one state more; the last one is there too."""
    env = StillEnv()
    captured = Film(env, most, start, first)
    for step in range(length + 1):
        captured.offer(over=step == length)
    steps = list(captured.captures)
    assert steps == sorted({*range(start, start + length + 1, captured.stride), start + length})
    assert len(steps) <= most + 1 and len(steps) >= min(length // first, most // 2)
    assert captured.taken <= most + 2 + most * max(0, math.ceil(math.log2((length + 1) / most)))
    for few in (2, 5, 16):
        grid = captured.grid(few)
        assert set(grid) <= set(steps) and len(grid) <= few + 1 and grid[0] == start and grid[-1] == start + length
        assert len({b - a for a, b in itertools.pairwise(grid[:-1])}) <= 1


@given(steps=st.integers(1, 5_000), most=st.integers(1, 50))
def test_the_even_stride_is_the_smallest_power_of_two(steps, most):
    stride = even_stride(steps, most)
    assert stride & (stride - 1) == 0 and len(range(0, steps, stride)) <= most
    assert stride == 1 or len(range(0, steps, stride // 2)) > most


def test_captures_of_mujoco_show_the_states_of_their_steps():
    """Drawn afterwards from copied physics, in another environment, the pictures equal those drawn on the way."""
    make = lambda mode: gym.make("InvertedPendulum-v5", render_mode=mode)  # noqa: E731
    env, reason = open_rendered(make)
    if env is None:
        pytest.skip(reason)
    stage, _ = open_rendered(make)
    env.reset(seed=0)
    env.action_space.seed(0)
    shot, on_the_way, over = Film(env, 4), {}, False
    for step in range(100):
        shot.offer(over)
        mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)  # else poses are those of one physics step before
        on_the_way[step] = np.array(env.render())
        if over:
            break
        over = env.step(0.1 * env.action_space.sample())[2]
    assert over and 3 <= len(shot.captures) <= 5 and list(shot.captures)[-1] == step
    before = env.unwrapped.data.qpos.copy()
    pictures = {step: draw(stage, captured) for step, captured in shot.captures.items()}
    assert all((picture == on_the_way[step]).all() for step, picture in pictures.items())
    assert (pictures[0] != pictures[step]).any() and (env.unwrapped.data.qpos == before).all()
    env.close()
    stage.close()


@pytest.mark.parametrize(
    ("steps", "rate", "fps", "factor", "seconds"),
    [
        (range(0, 151), 30, 30, 1, 5.0),  # real time
        (range(0, 151, 2), 30, 30, 1, 5.0),  # each picture twice
        (range(0, 101), 50, 25, 1, 2.0),  # every other picture, just long enough
        (range(0, 1_000, 4), 30, 30, 4, 8.3),  # 33 s in 8: four times as fast
        (range(0, 21), 50, 20, 1 / 5, 2.0),  # 0.4 s, slowly
        (range(0, 100), 4, 24, 3, 8.25),  # FrozenLake: four steps a second
        (range(0, 999, 64), 30, 22.5, 16, 2.0),  # few pictures: not a slide show of half a minute
        ([0, 1], 4, 20, 1 / 8, 2.0),  # Blackjack
    ],
)
def test_playback_by_hand(steps, rate, fps, factor, seconds):
    shown, at, fast = playback(steps, rate)
    assert fast == pytest.approx(factor) and at == pytest.approx(fps, abs=0.5) and 20 <= at <= 30
    assert len(shown) / at == pytest.approx(seconds + 0.5, abs=0.2)


@given(
    length=st.integers(1, 20_000),
    stride=st.sampled_from([1, 2, 8, 64]),
    rate=st.floats(1, 500),
    extra=st.integers(0, 7),
)
@settings(max_examples=300, deadline=None)
def test_any_playback_can_be_watched(length, stride, rate, extra):
    """At most 10 s at 20 to 30 frames, in order from the first picture to the last, at the speed that is stated."""
    steps = sorted({*range(0, length, stride), length - 1 + extra})[:301]
    shown, fps, factor = playback(steps, rate)
    assert 20 - 1e-9 <= fps <= 30 + 1e-9 and len(shown) <= 10.1 * fps
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == len(steps) - 1
    assert factor == 1 or (factor > 1 and factor == int(factor)) or round(1 / factor) == pytest.approx(1 / factor)
    for frame in range(0, len(shown) - round(fps / 2) - 1, 7):  # what is shown is the last state before that time
        at = frame / fps * rate * factor
        assert steps[shown[frame]] <= at + 1e-6
        assert shown[frame] == len(steps) - 1 or steps[shown[frame] + 1] > at - 1e-6


def test_the_speed_is_written_so_that_it_can_be_read():
    assert [factor_text(f) for f in (1.0, 4.0, 1 / 3)] == ["", " x4", " x1/3"]
    font_knows = captioned([np.zeros((4, 300, 3), np.uint8)], "unguided x1/3", ["step 1,000   return -1.5e-05"])[0]
    assert font_knows.shape == (4 + 34, 300, 3)


def test_captions_tell_each_picture_s_own_step():
    pictures = [np.full((10, 60, 3), 9 * i, np.uint8) for i in range(3)]
    frames = captioned(pictures, "a title", ["step 1", "step 2", "step 2"])
    assert {frame.shape for frame in frames} == {(40 + 34, WIDTH, 3)}  # four times as large, and two lines
    for picture, frame in zip(pictures, frames, strict=True):
        assert (frame[:40] == picture[0, 0, 0]).all()
        assert (frame[40:57] == frames[0][40:57]).all() and frame[40:57].min() < 50  # the title, black on white
    assert (frames[1][57:] == frames[2][57:]).all() and (frames[0][57:] != frames[1][57:]).any()


def a_stretch(length: int, stride: int = 1) -> Stretch:
    """A picture is as bright as its step, counted from 0, is late."""
    stretch = Stretch(0, 0, 0, guided=False, uniform=False, rewards=[0.5] * length, end="terminated")
    stretch.frame_steps = [*range(0, length, stride), length]
    stretch.frames = [np.full((30, 240, 3), round(255 * s / length), np.uint8) for s in stretch.frame_steps]
    return stretch


def test_a_video_holds_its_pictures(tmp_path):
    """Decoded again: 100 steps at 25 a second are 4 s; each frame shows the state of its time."""
    path = tmp_path / "replays" / "v.mp4"
    with SummaryWriter(str(tmp_path)) as writer:
        save_video(a_stretch(100), "unguided", 25.0, path, "a/tag", 7, writer)
    frames, fps = decoded(path)
    assert fps == 25 and len(frames) == 100 + 12 and frames[0].shape == (64, 240, 3)
    brightness = [frame[:28].mean() for frame in frames[:101]]
    assert np.abs(np.array(brightness) - 2.55 * np.arange(101)).max() < 8  # lossy
    (image,) = events_in(tmp_path).Images("a/tag")
    gif = Image.open(io.BytesIO(image.encoded_image_string))
    assert image.step == 7 and gif.format == "GIF" and 10 < gif.n_frames <= 30


def test_what_the_disk_does_not_take_is_said(tmp_path, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(film.UNWRITTEN, "error", lambda what, why: told.append((what, why.partition(":")[0])))
    (tmp_path / "replays").write_text("no folder")
    with SummaryWriter(str(tmp_path)) as writer:
        save_video(a_stretch(10), "unguided", 25.0, tmp_path / "replays" / "v.mp4", "a/tag", 7, writer)
        save_video(Stretch(0, 0, 0, False, False), "nothing", 25.0, tmp_path / "x" / "v.mp4", "a/tag", 7, writer)
    assert "v.mp4 could not be written: FileExistsError" in capsys.readouterr().out
    assert told == [("replay videos", "FileExistsError")] and not (tmp_path / "x").exists()
