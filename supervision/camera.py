"""The camera: films the first environment of training, without a step of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter

from supervision.episodes import SHOWN_STEPS, Stretch
from supervision.film import LONG, Film, draw, is_physics, save_video
from supervision.pictures import frame_rate
from supervision.replay import close_quietly, drawn_by, open_rendered
from supervision.texts import in_one_line, say

ALLOWANCE, SHARE = 0.25, 0.015  # seconds, and of the run's time so far, that long films may take
LAST_STEPS = 1_000  # of a run or its guided time, or the last window of it: an episode that begins in them is filmed


class NothingToDrawWith(Exception):
    """No renderer could be opened; its text says why."""


@dataclass
class Shot:
    """A film of a stretch."""

    stretch: Stretch
    film: Film
    long: bool  # for a person's video; else for models alone
    before: tuple[dict[bool, int], dict[bool, bool]]  # `wanted` and `last` of the camera, until it was taken
    saved: bool = False


class Camera:
    """Films stretches of environment 0: for a person (long films) and for models (a few frames).

    In each window one unguided and one guided stretch at most: long where the window's number is a power of two, a few
    frames where the report shows it; and those that are chosen for models. Once more at the end: an unguided one in the
    run's last steps, a guided one in those of the guided time. Long films take as many pictures as fit in `SHARE` of
    the run's time, but always as many as a model is shown; after window 1 they wait until there is time for any (not so
    MuJoCo's, which cost nothing while the training goes on).

    Most environments are drawn while they are stepped; where they can be, environment 0 of training is replaced by one
    that renders to arrays. Of MuJoCo's the states are copied, and drawn when somebody needs the pictures, in an
    environment that is never stepped. Where nothing can be drawn it says so, once; training goes on whatever happens.

    Args:
        args: the flags of SupervisorArgs, and total_timesteps.
        envs: of training, before the first reset.
        env_fn: makes an environment like its first one with a render mode ("rgb_array" or None).
        run_dir: the run's folder; `replays/` is made in it.
    """

    def __init__(
        self, args: Any, envs: gym.vector.SyncVectorEnv, env_fn: Callable[[str | None], gym.Env], run_dir: str | Path
    ):
        self.args, self.envs, self.env_fn, self.run_dir = args, envs, env_fn, Path(run_dir)
        self.few = args.replay_frames
        self.began, self.seconds = time.monotonic(), 0.0  # wall time that filming took, without opening a renderer
        self.cost = 0.02  # seconds that a picture takes; measured once there is one
        self.stage: gym.Env | None = None  # where MuJoCo's states are drawn
        self.shots: list[Shot] = []
        self.shot: Shot | None = None  # the one that goes on
        self.present: Stretch | None = None
        self.before: dict[bool, Stretch] = {}  # the last stretch of each kind, for its length
        self.number, self.asked, self.wanted = 1, False, {False: LONG, True: LONG}
        self.last = {False: False, True: False}  # whether the one at the end was filmed, by who acts
        self.off = not self.few
        if not self.off:
            self._set_up()

    def _set_up(self) -> None:
        env = self.envs.envs[0]
        self.physics, self.rate = is_physics(env), frame_rate(env)
        if "rgb_array" not in ((env.metadata or {}).get("render_modes") or []):
            return self._end("the environment has no render mode rgb_array")
        if not self.physics and env.render_mode != "rgb_array":
            trial, reason = open_rendered(self.env_fn)
            if trial is None:
                return self._end(reason)
            started = time.monotonic()
            with suppress(Exception):
                trial.render()
            self.cost = time.monotonic() - started
            close_quietly(trial)
            try:
                self.envs.envs[0] = self.env_fn("rgb_array")  # another one than the trial, which was reset
            except Exception as error:  # a third-party renderer may raise anything
                return self._end(in_one_line(error))
            close_quietly(env)
        self.envs.envs[0].on_step = self._on_step

    def _end(self, reason: str, later: bool = False) -> None:
        """No pictures any more."""
        if not self.off:
            say(f"supervisor: no pictures{' from now on' if later else ''}: {reason}")
        self.off, self.shot, self.shots = True, None, []
        self._close()

    def _close(self) -> None:
        with suppress(AttributeError):
            self.envs.envs[0].on_step = None
        if self.stage is not None:
            close_quietly(self.stage)
            self.stage = None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except NothingToDrawWith as error:
            self._end(str(error))
        except Exception as error:  # a third-party renderer may raise anything; training goes on without pictures
            self._end(in_one_line(error), later=True)
        finally:
            self.seconds += time.monotonic() - started

    def window(self, number: int, asked: bool, begun: Stretch | None = None) -> None:
        """Consultation `number` (1, 2, 3, …) begins a window. What was filmed before the first one counts as its.

        Args:
            asked: whether somebody will want pictures of the window: a model, or the report.
            begun: the stretch of environment 0 that begins with the window, before its first step.
        """
        self.asked = asked
        self._take_back()
        if number != self.number:
            self.number = number
            size = LONG if number & (number - 1) == 0 else self.few if asked else 0
            self.wanted = {False: size, True: size}
            self.shots = [shot for shot in self.shots if shot is self.shot or (shot.long and not shot.saved)]
        if begun is not None:
            self.follow(begun)

    def state_dict(self) -> dict[str, Any]:
        """Which films the present window still wants, those among them that are not saved; pictures are left out."""
        lost = next((shot for shot in self.shots if shot.long and not shot.saved), None)
        wanted, last = (self.wanted, self.last) if lost is None else lost.before
        return {"number": self.number, "asked": self.asked, "wanted": dict(wanted), "last": dict(last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; what had been filmed is lost, and is filmed again where it still can be."""
        self.number, self.asked = state["number"], state["asked"]
        self.wanted, self.last = dict(state["wanted"]), dict(state["last"])

    def _take_back(self) -> None:
        """A film of a stretch that no step was taken of is none."""
        if self.shot is not None and not len(self.shot.stretch):
            self.wanted, self.last = self.shot.before
            self.shots, self.shot = [shot for shot in self.shots if shot is not self.shot], None

    def follow(self, stretch: Stretch) -> None:
        """A stretch of environment 0 begins: it is filmed if one of its kind is still wanted, or it is for models."""
        if self.off:
            return
        self._take_back()
        self.shot = None
        if self.present is not None and len(self.present):
            self.before[self.present.guided] = self.present
        self.present = stretch
        before = self.before.get(stretch.guided) or self.before.get(not stretch.guided)
        length, taken = len(before) if before else 0, (self.wanted.copy(), self.last.copy())
        size = self.wanted[stretch.guided] or self.few * stretch.chosen
        if self._at_the_end(stretch) and not self.last[stretch.guided]:
            size, self.last[stretch.guided] = LONG, True
        elif size == LONG and not self.physics and self.number > 1 and self._left() < 0:
            # a later one, perhaps, when more of the run's time has passed
            size = self.few if self.asked or stretch.chosen else 0
        if not size:
            return
        self.wanted[stretch.guided] = 0
        most, stride, long = size, 1, size == LONG
        if not self.physics:
            most = self._affordable(2.5 if length else 4.0) if long else size
            while 8 * most * stride <= length:  # as long as the last one it would cost several times as much
                stride *= 2
        film = Film(drawn_by(self.envs.envs[0]), most, stretch.start, stride)
        film.step += len(stretch)
        self.shot = Shot(stretch, film, long, taken)
        self.shots.append(self.shot)
        with self._timed():
            film.offer()

    def _at_the_end(self, stretch: Stretch) -> bool:
        """Whether a stretch begins in the run's last steps; a guided one in those of the guided time, and then where
        its window has no film of its own and there is time."""
        end = self.args.total_timesteps
        if stretch.guided:
            end = min(end, self.args.guide_end)
            if not self.number & (self.number - 1) or not (self.physics or self._left() > 0):
                return False
        return stretch.global_step >= end - max(self.args.guide_window, LAST_STEPS)

    def _left(self) -> float:
        """Seconds that long films may still take by now."""
        return ALLOWANCE + SHARE * (time.monotonic() - self.began) - self.seconds

    def _affordable(self, taken: float = 1.0) -> int:
        """Pictures for a long film: as many as the run's time allows, and no fewer than a model is shown.

        Args:
            taken: pictures that are drawn for each that is kept, since the stride doubles on the way.
        """
        return int(np.clip(self._left() / (taken * max(self.cost, 1e-4)), self.few, LONG))

    def _on_step(self, over: bool) -> None:
        shot = self.shot
        if shot is None:
            return
        if shot.stretch.end or (not shot.long and shot.film.step > shot.stretch.start + SHOWN_STEPS):
            self.shot = None
            return
        taken, before = shot.film.taken, self.seconds
        with self._timed():
            shot.film.offer(over)
        if shot.film.taken > taken and not self.physics:
            self.cost += (self.seconds - before - self.cost) / min(shot.film.taken, 20)
        if over:
            self.shot = None

    def develop(self, stretch: Stretch) -> None:
        """Put the pictures of a stretch, as many as a model may be shown, into it; it may still go on."""
        shot = next((shot for shot in self.shots if shot.stretch is stretch), None)
        if shot is None or self.off:
            return
        with self._timed():
            steps = shot.film.grid(self.few)
            stretch.frames, stretch.frame_steps = self._draw(shot.film, steps), steps

    def _draw(self, film: Film, steps: list[int]) -> list[np.ndarray]:
        """The pictures of some captures; whatever the renderer raises passes through."""
        if not self.physics:
            return [film.captures[step] for step in steps]
        if self.stage is None:
            started = time.monotonic()
            self.stage, reason = open_rendered(self.env_fn)
            self.seconds -= time.monotonic() - started
            if self.stage is None:
                raise NothingToDrawWith(reason)
        started = time.monotonic()
        pictures = [draw(self.stage, film.captures[step]) for step in steps]
        self.cost = (time.monotonic() - started) / max(len(steps), 1)
        return pictures

    def stills(self, since: int, most: int) -> list[tuple[Stretch, list[int], list[np.ndarray]]]:
        """A few pictures of each stretch that was filmed lately and began at this step of the run or later, with the
        steps of the episode that they show."""
        found = []
        for shot in [shot for shot in self.shots if shot.stretch.global_step >= since and len(shot.stretch)]:
            captured = sorted(shot.film.captures)
            steps = [captured[i] for i in np.unique(np.linspace(0, len(captured) - 1, most).astype(int))]
            with self._timed():
                found.append((shot.stretch, steps, self._draw(shot.film, steps)))
        return found

    def save(self, global_step: int, writer: SummaryWriter) -> None:
        """Leave the videos of the long films that are over: an mp4 each, named by the step at which the stretch began,
        and a GIF on TensorBoard."""
        for shot in [shot for shot in self.shots if shot.long and not shot.saved and shot is not self.shot]:
            self._save(shot, global_step, writer)

    def _save(self, shot: Shot, global_step: int, writer: SummaryWriter) -> None:
        film, stretch, filmed = shot.film, shot.stretch, replace(shot.stretch)
        shot.saved = True
        with self._timed():
            filmed.frame_steps = film.grid(self._affordable() if self.physics else LONG)
            filmed.frames = self._draw(film, filmed.frame_steps)
        if self.off:
            return
        kind, tag = ("guided", "_guided") if stretch.guided else ("unguided", "")
        path = self.run_dir / "replays" / f"step_{stretch.global_step:08d}_{kind}.mp4"
        title = f"{kind}, from training step {stretch.global_step:,}"
        started = time.monotonic()
        save_video(filmed, title, self.rate, path, f"supervisor/replay{tag}", global_step, writer)
        self.seconds += time.monotonic() - started

    def finish(self, global_step: int, writer: SummaryWriter) -> None:
        """Training is over: leave the videos that are still to be made."""
        self.shot = None
        self.save(global_step, writer)
        self.off = True
        self._close()
