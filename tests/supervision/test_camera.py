"""The camera: it steps nothing, changes nothing, and nothing that a renderer does ends training."""

import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import events_in
from films import decoded
from torch.utils.tensorboard import SummaryWriter

from guided_utils.environments import EpisodeTape
from supervision import camera as cameras
from supervision.camera import Camera
from supervision.episodes import Episodes, Stretch
from supervision.film import LONG
from supervision.replay import open_rendered, record_video


class DotEnv(gym.Env):
    """Episodes of `length` steps, each of a random number of 0 to 99 drawn at the reset; its picture is as bright as
    the step, times two. What else the renderer does, `kind` says."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    made, drawn = [], 0

    def __init__(self, length: int = 40, kind: str = "", render_mode: str | None = None):
        self.length, self.kind, self.render_mode, self.t, self.closed = length, kind, render_mode, 0, False
        DotEnv.made.append(self)
        if kind == "constructor" and render_mode:
            raise OSError("no display\nat all")
        if kind == "no modes":
            self.metadata = {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.number = 0, self.np_random.integers(100)
        return np.array([self.number, 0.0]), {}

    def step(self, action):
        self.t += 1
        return np.array([self.number, self.t]), 0.5, self.t == self.length, False, {}

    def render(self):
        DotEnv.drawn += 1
        if self.kind == "later" and self.t == 3:
            raise RuntimeError("\x1b[2Jthe window\nis gone")
        if self.kind == "slow":
            time.sleep(0.01)
        return np.full((20, 30 + (self.t if self.kind == "growing" else 0), 3), 2 * self.t % 256, np.uint8)

    def close(self):
        self.closed = True


gym.register("Dot-v0", entry_point=DotEnv, disable_env_checker=True)


@pytest.fixture(autouse=True)
def _no_dots_from_before(monkeypatch):
    monkeypatch.setattr(DotEnv, "made", [])
    monkeypatch.setattr(DotEnv, "drawn", 0)


class Training:
    """A training loop without a learner: environment 0 is guided in every other episode.

    Args:
        frames: pictures of an episode that a model is shown; None: no camera.
        total, guide_end: steps of the run and of its guided time.
        options: of the environment's constructor.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        frames: int | None = 16,
        total: int = 10**6,
        guide_end: int = 10**6,
        **options,
    ):
        make = lambda mode: EpisodeTape(  # noqa: E731
            gym.wrappers.RecordEpisodeStatistics(gym.make(env_id, render_mode=mode, **options))
        )
        same_step = gym.vector.AutoresetMode.SAME_STEP
        self.envs = gym.vector.SyncVectorEnv([partial(make, None)] * num_envs, autoreset_mode=same_step)
        self.camera = None
        if frames is not None:
            args = SimpleNamespace(replay_frames=frames, total_timesteps=total, guide_window=100, guide_end=guide_end)
            self.camera = Camera(args, self.envs, make, "run")
        self.obs, _ = self.envs.reset(seed=[7 + i for i in range(num_envs)])
        self.envs.action_space.seed(7)
        self.episodes, self.t, self.guided, self.step, self.seen = Episodes(num_envs), 0, False, 0, [self.obs.copy()]
        self.stretches: list[Stretch] = []
        self.writer = SummaryWriter(str(Path("run").resolve()))

    def run(self, steps: int) -> "Training":
        for _ in range(steps):
            stretch = self.episodes.present[0]
            if stretch is None:
                stretch = self.episodes.begin(0, self.step, self.t, self.guided, False)
                self.stretches.append(stretch)
                if self.camera:
                    self.camera.follow(stretch)
            action = self.envs.action_space.sample()
            next_obs, rewards, ended, truncated, infos = self.envs.step(action)
            over = bool(ended[0] or truncated[0])
            after = infos["final_obs"][0] if over else next_obs[0]
            stretch.add(self.obs[0], action[0], rewards[0], after)
            self.obs, self.step, self.t = next_obs, self.step + 1, self.t + 1
            self.seen.append(next_obs.copy())
            if over:
                self.episodes.end(0, "terminated" if ended[0] else "truncated")
                self.t, self.guided = 0, not self.guided
        return self

    def cut(self) -> None:
        """The rule takes the episode over."""
        self.episodes.end(0, "cut")
        self.guided = True


def brightness(stretch: Stretch) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in stretch.frames]


def videos() -> list[str]:
    return sorted(path.name for path in Path("run/replays").glob("*"))


def test_environment_0_is_replaced_by_one_that_draws_and_the_old_one_is_closed():
    training = Training("Dot-v0", num_envs=2)
    first, second = training.envs.envs
    assert first.render_mode == "rgb_array" and second.render_mode is None
    old = DotEnv.made[0]
    assert old.closed and not first.unwrapped.closed and not second.unwrapped.closed
    assert DotEnv.drawn <= 2  # by the trial, which is another one
    assert all(env.closed for env in DotEnv.made[1:] if env not in (first.unwrapped, second.unwrapped))


def test_an_environment_that_draws_already_stays():
    """With --capture-video; both take its pictures."""
    make = lambda mode=None: EpisodeTape(  # noqa: E731
        gym.wrappers.RecordEpisodeStatistics(record_video(lambda m: gym.make("Dot-v0", render_mode=m), "videos"))
    )
    envs = gym.vector.SyncVectorEnv([make], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    env = envs.envs[0]
    camera = Camera(
        SimpleNamespace(replay_frames=16, total_timesteps=999, guide_window=9, guide_end=9), envs, make, "run"
    )
    assert envs.envs[0] is env
    envs.reset(seed=1)
    stretch = Stretch(0, 0, 0, guided=False, uniform=False)
    camera.follow(stretch)
    for _ in range(5):
        envs.step(np.zeros((1, 1), np.float32))
    camera.develop(stretch)
    assert brightness(stretch) == [0, 2, 4, 6, 8, 10]
    envs.close()
    frames, _ = decoded(Path("videos/rl-video-episode-0.mp4"))
    assert len(frames) == 6


@pytest.mark.parametrize("env_id", ["Dot-v0", "MountainCarContinuous-v0", "InvertedPendulum-v5", "CartPole-v1"])
def test_training_is_the_same_to_the_bit_with_and_without_a_camera(env_id):
    filmed, plain = Training(env_id).run(300), Training(env_id, frames=None).run(300)
    assert (np.array(filmed.seen) == np.array(plain.seen)).all()
    assert filmed.camera.off or filmed.camera.shots
    states = [t.envs.envs[0].unwrapped.np_random.bit_generator.state for t in (filmed, plain)]
    assert states[0] == states[1]


def test_frames_show_the_steps_that_they_name():
    """40 steps: a stride of 4 leaves ten of the 41 states for a model, and the last, taken before the reset."""
    training = Training("Dot-v0").run(100)
    unguided, guided, third = training.stretches
    for stretch in training.stretches:
        training.camera.develop(stretch)
    assert unguided.frame_steps == [*range(0, 40, 4), 40] and unguided.end == "terminated"
    assert brightness(unguided) == brightness(guided) == [2 * step for step in unguided.frame_steps]
    assert third.frames == []  # one of each kind
    assert unguided.frames[0].shape == (20, 30, 3)


def test_a_stretch_that_goes_on_can_be_developed_and_again_later():
    training = Training("Dot-v0").run(10)
    (stretch,) = training.stretches
    training.camera.develop(stretch)
    assert stretch.frame_steps == list(range(11))
    training.run(30)
    training.camera.develop(stretch)
    assert stretch.frame_steps == [*range(0, 40, 4), 40]


def test_what_the_rule_takes_over_is_no_longer_filmed_as_unguided():
    training = Training("Dot-v0").run(6)
    training.cut()
    training.run(10)
    unguided, guided = training.stretches
    training.camera.develop(unguided)
    training.camera.develop(guided)
    assert unguided.end == "cut" and unguided.frame_steps == list(range(7))
    assert guided.start == 6 and guided.frame_steps == list(range(6, 17)) and brightness(guided)[0] == 12


def test_which_windows_have_long_films():
    """1, 2, 4, 8, …; where a model is asked the others have short ones, else none."""
    training = Training("Dot-v0")
    training.camera._left = lambda: 100.0
    for number in range(1, 10):
        training.camera.window(number, asked=number == 6)
        training.run(80)
        sizes = [shot.film.most for shot in training.camera.shots if shot.stretch.global_step == training.step - 80]
        expected = {1: LONG, 2: LONG, 4: LONG, 8: LONG, 6: 16}.get(number)
        assert sizes == ([expected] if expected else []), number
        training.camera.save(training.step, training.writer)
    assert len(videos()) == 8


def test_a_window_that_was_not_over_does_not_lose_its_film():
    """The film of window 2 is saved at the consultation after the one in the middle of its episode."""
    training = Training("Dot-v0")
    training.camera._left = lambda: 100.0
    training.run(80)
    training.camera.window(2, asked=False)
    training.run(20)
    training.camera.save(100, training.writer)
    assert videos() == ["step_00000000_unguided.mp4", "step_00000040_guided.mp4"]
    training.camera.window(3, asked=False)
    training.run(60)
    training.camera.save(160, training.writer)
    assert videos()[2:] == ["step_00000080_unguided.mp4"]


def test_a_run_that_goes_on_films_what_its_window_still_wants():
    """Window 4, its unguided film saved, the guided one under way: that one is filmed again. Window 3 wants none."""
    training = Training("Dot-v0")
    training.camera._left = lambda: 100.0
    training.camera.window(4, asked=False)
    training.run(40)
    training.camera.save(40, training.writer)
    training.run(10)
    states = [training.camera.state_dict()]
    training.run(30)
    training.camera.save(80, training.writer)
    training.camera.window(3, asked=False)
    states.append(training.camera.state_dict())
    for state, filmed in zip(states, ([True], []), strict=True):
        again = Training("Dot-v0")
        again.camera._left = lambda: 100.0
        again.camera.load_state_dict(state)
        again.run(80)
        kinds = [shot.stretch.guided for shot in again.camera.shots if shot.long]
        assert kinds == filmed, state
        assert again.camera.number == state["number"]


def test_a_film_of_a_stretch_without_a_step_is_none():
    """The rule takes over before the learner's first step: one of the learner's is still wanted. A stretch that begins
    with a window is filmed as that window wants it."""
    training = Training("Dot-v0")
    empty = Stretch(0, 0, 0, guided=False, uniform=False)
    training.camera.follow(empty)
    training.guided = True
    training.run(80)
    assert [(shot.stretch.guided, shot.long) for shot in training.camera.shots] == [(True, True), (False, True)]
    assert not any(shot.stretch is empty for shot in training.camera.shots)
    begun = training.episodes.begin(0, 80, 0, True, False)
    training.camera.follow(begun)
    training.camera.save(80, training.writer)
    training.camera.window(3, asked=True, begun=begun)
    training.run(40)
    training.camera.develop(begun)
    assert [shot.long for shot in training.camera.shots] == [False] and brightness(begun) == [*range(0, 80, 8), 80]


def test_what_begins_behind_its_first_step_is_filmed_from_there():
    training = Training("Dot-v0")
    stretch = training.episodes.begin(0, 0, 0, False, False)
    training.run(1)
    training.camera.follow(stretch)
    training.run(39)
    training.camera.develop(stretch)
    assert brightness(stretch) == [2 * step for step in stretch.frame_steps]
    assert stretch.frame_steps == [*range(4, 40, 4), 40]  # of the grid of a film from the reset


def test_the_videos_and_gifs_of_a_window():
    """40 steps at 25 a second: 1.6 s, so half speed; the brightness of the frames is that of the steps."""
    training = Training("Dot-v0").run(80)
    training.camera.save(80, training.writer)
    training.writer.close()
    assert videos() == ["step_00000000_unguided.mp4", "step_00000040_guided.mp4"]
    for name in videos():
        frames, fps = decoded(Path("run/replays", name))
        assert 20 <= fps <= 30 and 2 <= len(frames) / fps <= 4
        levels = [frame[:100].mean() for frame in frames]
        assert abs(levels[0]) < 6 and abs(levels[-1] - 80) < 6 and np.diff(levels).min() > -3
    shown = events_in("run")
    assert {tag: [image.step for image in shown.Images(tag)] for tag in shown.Tags()["images"]} == {
        "supervisor/replay": [80], "supervisor/replay_guided": [80]
    }  # fmt: skip


def test_the_end_is_filmed():
    """Of 2,000 steps the first unguided episode that begins in the last 1,000, and the first guided one of the last
    1,000 of 1,500 guided ones; also where nothing is filmed any more."""
    training = Training("Dot-v0", total=2_000, guide_end=1_500)
    training.camera._left = lambda: 100.0
    training.run(80)
    training.camera.save(80, training.writer)
    training.camera.window(3, asked=False)
    training.run(1_920)
    training.camera.finish(2_000, training.writer)
    assert videos()[2:] == ["step_00000520_guided.mp4", "step_00001040_unguided.mp4"]
    assert training.envs.envs[0].on_step is None
    training.run(40)  # and training may go on


@pytest.mark.parametrize(("number", "left"), [(4, 100.0), (3, -1.0)])
def test_a_guided_end_has_no_second_film_and_waits_for_time(number, left):
    """Window 4 has a guided film anyway, its first; of window 3's there is none where no time is left."""
    training = Training("Dot-v0", total=2_000, guide_end=1_500)
    training.camera._left = lambda: 100.0
    training.run(80)
    training.camera.save(80, training.writer)
    training.camera.window(number, asked=False)
    training.camera._left = lambda: left
    training.run(1_920)
    training.camera.finish(2_000, training.writer)
    guided = [name for name in videos()[2:] if name.endswith("_guided.mp4")]
    assert guided == (["step_00000120_guided.mp4"] if number == 4 else [])


def test_an_episode_that_the_end_of_the_run_cuts_is_left_as_it_is():
    training = Training("Dot-v0", total=30).run(30)
    training.camera.finish(30, training.writer)
    frames, _ = decoded(Path("run/replays/step_00000000_unguided.mp4"))
    assert abs(frames[-1][:100].mean() - 60) < 6


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("later", "no pictures from now on: RuntimeError: \\x1b[2Jthe window"),
        ("constructor", "no pictures: OSError: no display"),
        ("no modes", "no pictures: the environment has no render mode rgb_array"),
    ],
)  # fmt: skip
def test_nothing_that_a_renderer_does_ends_training(kind, said, capsys):
    training = Training("Dot-v0", kind=kind).run(100)
    plain = Training("Dot-v0", frames=None).run(100)
    for stretch in training.stretches:
        training.camera.develop(stretch)
    training.camera.save(100, training.writer)
    training.camera.window(2, asked=True)
    training.run(50)
    training.camera.finish(150, training.writer)
    assert capsys.readouterr().out == f"supervisor: {said}\n"
    assert not any(stretch.frames for stretch in training.stretches) and not Path("run/replays").exists()
    assert (np.array(training.seen[:101]) == np.array(plain.seen)).all()


def test_without_opengl_mujoco_has_no_pictures(monkeypatch, capsys):
    monkeypatch.setattr(cameras, "open_rendered", lambda env_fn: (None, "no OpenGL for MuJoCo (tried egl)"))
    training = Training("InvertedPendulum-v5").run(60)
    for _ in range(2):
        training.camera.develop(training.stretches[0])
    training.camera.finish(60, training.writer)
    assert capsys.readouterr().out == "supervisor: no pictures: no OpenGL for MuJoCo (tried egl)\n"
    assert training.stretches[0].frames == []


def test_mujoco_is_drawn_in_an_environment_that_is_never_stepped(capsys):
    training = Training("InvertedPendulum-v5").run(60)
    stretch = training.stretches[0]
    training.camera.develop(stretch)
    if training.camera.off:
        pytest.skip(capsys.readouterr().out)
    assert training.envs.envs[0].render_mode is None
    assert len(stretch.frames) == len(stretch.frame_steps) <= 17 and stretch.frame_steps[-1] == len(stretch)
    env, _ = open_rendered(lambda mode: gym.make("InvertedPendulum-v5", render_mode=mode))
    data = env.unwrapped.data
    for frame, obs in ((stretch.frames[0], stretch.obs[0]), (stretch.frames[-1], stretch.next_obs[-1])):
        env.unwrapped.set_state(obs[:2], obs[2:])  # the observation is the state
        assert data.qpos[1] == pytest.approx(obs[1]) and np.abs(env.render().astype(int) - frame).mean() < 0.5
    training.camera.finish(60, training.writer)
    assert videos() and len(decoded(Path("run/replays", videos()[0]))[0]) > 40


def test_without_frames_nothing_is_drawn_and_nothing_said(capsys):
    training = Training("Dot-v0", frames=0).run(100)
    training.camera.develop(training.stretches[0])
    training.camera.finish(100, training.writer)
    assert DotEnv.drawn == 0 and training.envs.envs[0].render_mode is None and not Path("run/replays").exists()
    assert capsys.readouterr().out == ""


def test_a_slow_renderer_gets_few_pictures(monkeypatch):
    """10 ms a picture, 0.25 s at the start: 10 pictures' worth, so no more than a model is shown; 1,000 steps."""
    training = Training("Dot-v0", length=1_000, kind="slow").run(1_000)
    film = training.camera.shots[0].film
    assert film.most == 16 and 8 <= len(film.captures) <= 17 and film.taken <= 16 + 8 * 6 + 1
    monkeypatch.setattr(cameras, "ALLOWANCE", -1e9)
    training.camera.window(2, asked=False)
    training.run(1_000)
    assert len(training.camera.shots) == 1  # no time for another now
    training.camera.window(4, asked=True)
    training.run(2_000)
    films = training.camera.shots[1:]
    assert [shot.long for shot in films] == [False, False]  # a model needs some all the same
    assert max(shot.film.taken for shot in films) <= 41  # as long as the last one: a wider stride from the start


def test_pictures_that_change_their_size_become_one_video():
    training = Training("Dot-v0", kind="growing").run(40)
    training.camera.finish(40, training.writer)
    assert {frame.shape for frame in decoded(Path("run/replays", videos()[0]))[0]} == {(160 + 34, 240, 3)}
