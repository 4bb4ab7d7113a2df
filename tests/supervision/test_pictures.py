"""Renderers of all kinds: what can be converted is, and nothing that one does ends a run."""

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, Endpoint, events
from consultations import DECLINE

from supervision.pictures import as_picture, frame_rate, reduced
from supervision.replay import open_rendered, record_episode

RGB = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
GREY = RGB[..., :1].repeat(3, axis=2)
SAME = {  # ways to say RGB, or its first channel
    "uint8": (RGB, RGB),
    "int64": (RGB.astype(np.int64), RGB),
    "int16": (RGB.astype(np.int16), RGB),
    "float64 to 255": (RGB.astype(np.float64), RGB),
    "float32 to 1": ((RGB / 255).astype(np.float32) + 1e-4, RGB),
    "float16 to 1": (np.array([[[0.0, 0.5, 1.0]]], np.float16), np.array([[[0, 127, 255]]], np.uint8)),
    "bool": (np.array([[[True, False, True]]]), np.array([[[255, 0, 255]]], np.uint8)),
    "opaque RGBA": (np.dstack([RGB, np.full((8, 6), 255, np.uint8)]), RGB),
    "RGBA of ints": (np.dstack([RGB, np.full((8, 6), 255)]), RGB),
    "transparent RGBA": (np.dstack([RGB, np.zeros((8, 6), np.uint8)]), np.full_like(RGB, 255)),
    "one channel": (RGB[..., :1], GREY),
    "no channel": (RGB[..., 0], GREY),
    "channels first": (np.moveaxis(RGB, 2, 0), RGB),
    "one channel first": (RGB[..., 0][None], GREY),
    "RGBA first": (np.moveaxis(np.dstack([RGB, np.full((8, 6), 255, np.uint8)]), 2, 0), RGB),
    "upside down": (RGB[::-1], RGB[::-1]),
    "a list of frames": ([GREY, RGB], RGB),
    "nested lists": (RGB.tolist(), RGB),
    "no numbers": (np.full((4, 4, 3), np.nan), np.zeros((4, 4, 3), np.uint8)),
    "beyond bytes": (np.array([[[-7, 300, np.inf]]]), np.array([[[0, 255, 255]]], np.uint8)),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_can_be_converted_is(kind):
    given, expected = SAME[kind]
    picture = as_picture(given)
    assert picture.dtype == np.uint8 and (picture == expected).all()
    assert not isinstance(given, np.ndarray) or not np.shares_memory(picture, given)
    assert as_picture(given, (16, 12)).shape == (16, 12, 3)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (None, "NoneType"), ("frame", "str"), ([], "list"), (7, "int"), (np.zeros(3), r"float64 of shape \(3,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 of shape \(0, 4, 3\)"), (np.zeros((9, 9, 5)), "one, three or four"),
        (np.zeros((2, 2, 2, 3)), r"\(2, 2, 2, 3\)"), (np.array([[["a"]]]), "U1"), ({}, "dict"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_said_to_be_none(frame, said):
    with pytest.raises(ValueError, match=f"render.. returned .*{said}"):
        as_picture(frame)


class OddEnv(gym.Env):
    """A line of 30 steps whose renderer does what `kind` says."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,))

    def __init__(self, kind: str, render_mode: str | None = None):
        self.kind, self.render_mode, self.t = kind, render_mode, 0
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": None if kind == "no rate" else 30}
        if kind == "no modes":
            self.metadata = {}
        if kind == "constructor" and render_mode:
            raise OSError("no display\nat all")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t / 30, np.float32), 0.0, False, self.t == 30, {}

    def render(self):
        frame = np.full((16, 20 + (self.t if self.kind == "growing" else 0), 3), 8 * self.t, np.uint8)
        kind = KINDS[self.t % len(KINDS)] if self.kind == "changing" else self.kind
        match kind:
            case "later" if self.t == 3:
                raise RuntimeError("\x1b[2Jthe window\nis gone")
            case "nothing, later" if self.t == 3:
                return None
            case "float":
                return frame / 255
            case "float32":
                return frame.astype(np.float32)
            case "one channel":
                return frame[..., :1]
            case "int64":
                return frame.astype(np.int64)
            case "channels first":
                return np.moveaxis(frame, 2, 0)
            case "RGBA":
                return np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)])
            case "tiny":
                return frame[:1, :1]
        return frame

    def close(self):
        if self.kind == "close":
            raise RuntimeError("already closed")


gym.register("Odd-v0", entry_point=OddEnv, disable_env_checker=True, max_episode_steps=30)
KINDS = ["float", "float32", "one channel", "int64", "channels first", "RGBA"]
DRAWN = ["changing", "growing", "no rate", "tiny"]  # the first from step to step, and every picture is the plain one
NOT_DRAWN = {  # and what is said of it
    "later": r"RuntimeError: \x1b[2Jthe window",
    "nothing, later": "ValueError: render() returned NoneType, not a picture",
    "constructor": "OSError: no display", "no modes": "the environment has no render mode rgb_array",
}  # fmt: skip
FLAGS = ["--env-id", "Odd-v0", "--total-timesteps", "90", "--learning-starts", "60", "--batch-size", "8"]


def run_odd(kind: str, run_here, script: str, *flags: str):
    return run_here(*FLAGS, "--capture-video", "--env-kwargs", f'{{"kind": "{kind}"}}', *flags, script=ROOT / script)


@pytest.mark.parametrize("kind", [*DRAWN, *NOT_DRAWN])
def test_no_renderer_ends_a_guided_run(kind, run_here, capsys):
    """With a model that is shown pictures, and videos of training; without pictures it is said once for each."""
    with Endpoint(lambda body, n: DECLINE) as endpoint:
        flags = ["--supervisor", "llm", "--llm-base-url", endpoint.url, "--guide-window", "30", "--guide-end", "80"]
        run = run_odd(kind, run_here, "guided_sac_continuous.py", *flags)
        content = endpoint.requests[-1]["messages"][1]["content"]
    assert run.global_step == 90 and run.supervisor.consultations.failures == 0
    printed = capsys.readouterr().out
    if kind in NOT_DRAWN:
        assert isinstance(content, str) and not list(run.supervisor.run_dir.glob("replays/*.mp4"))
        assert printed.count(f": {NOT_DRAWN[kind]}\n") == 2  # of the replays and of the videos
        assert printed.count("supervisor: no pictures") == 1 and printed.count("no videos") == 1
        return
    assert "no pictures" not in printed and ("no videos" not in printed or kind == "tiny")
    assert len(content) == 1 + 3  # of the present episode, at its step 3
    assert content[0]["text"].endswith("in order: unguided t=0, unguided t=1, unguided t=2.")
    replays = [path.name for path in run.supervisor.run_dir.glob("replays/*.mp4")]
    assert "step_00000000_unguided.mp4" in replays  # more where there was time
    assert len(events(run.run_name).Images("supervisor/replay")) == len(replays)
    if kind != "tiny":  # too small for a video as it is
        assert len(list(run.supervisor.run_dir.parents[1].glob("videos/*/*.mp4"))) >= 2


@pytest.mark.parametrize("kind", ["later", "RGBA", "float"])
def test_no_renderer_ends_a_baseline(kind, run_here, capsys):
    run = run_odd(kind, run_here, "rnd_sac.py", "--replay-frequency", "30")
    assert run.global_step == 90
    printed = capsys.readouterr().out
    assert printed.count("no videos from now on: ") == printed.count("no replays from now on: ") == (kind == "later")


def test_the_states_of_an_episode_are_the_same_without_its_pictures():
    """The renderer fails at step 3; nothing else of the episode changes."""
    make = lambda kind: lambda mode: gym.make("Odd-v0", kind=kind, render_mode=mode)  # noqa: E731
    episodes = []
    for kind in ("changing", "later"):
        env, reason = open_rendered(make(kind))
        assert not reason
        episodes.append(record_episode(env, lambda obs: np.zeros((1, 1)), seed=0, max_steps=99, frames=8))
    (plain, nothing), (later, failure) = episodes
    for frame, step in zip(plain.frames, plain.frame_steps, strict=True):
        assert abs(np.array(frame).astype(int) - 8 * step).max() <= 1  # whatever its kind
    assert (np.array(plain.obs) == np.array(later.obs)).all() and len(plain) == len(later) == 30
    assert len(plain.frames) == len(plain.frame_steps) >= 4 and not nothing
    assert later.frames == [] == later.frame_steps and failure.startswith("RuntimeError: ")


@pytest.mark.parametrize("shape", [(40, 60, 3), (41, 60, 3), (500, 800, 3), (256, 256, 3), (400, 600, 3)])
def test_reduced_pictures_are_means_of_blocks(shape):
    """Whole blocks of the least size that makes a side at most 384; in any order of the memory."""
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    block = -(-max(shape[:2]) // 384)
    height, width = shape[0] // block, shape[1] // block
    blocks = picture[: height * block, : width * block].reshape(height, block, width, block, 3).mean((1, 3))
    transposed = np.ascontiguousarray(picture.transpose(1, 0, 2)).transpose(1, 0, 2)  # as pygame's
    for given in (picture, transposed, picture.astype(np.float32)):
        small = reduced(given)
        assert small.dtype == np.uint8 and small.flags.c_contiguous and not np.shares_memory(small, given)
        assert np.abs(small[:height, :width] - blocks).max() <= 1
    assert reduced(picture, (20, 30)).shape == (20, 30, 3) == reduced(transposed, (20, 30)).shape


@pytest.mark.parametrize(
    ("said", "rate"), [(None, 30), (50, 50), (12.5, 12.5), (0, 30), ("fast", 30), (float("nan"), 30)]
)
def test_the_rate_of_frames(said, rate):
    env = gym.Env()
    env.metadata = {"render_fps": said}
    assert frame_rate(env) == rate
    env.metadata = None
    assert frame_rate(env) == 30
