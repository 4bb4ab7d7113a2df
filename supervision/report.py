"""The report of a guided run: what its page `report.html` is made of, and when it is made (page.py draws it).

It is told of episodes, consultations and what became of rules, and takes part in the checkpoint. Nothing that happens
here ends or changes training.
"""

import base64
import functools
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from supervision.chart import BEHAVIOURS
from supervision.chat import Cost
from supervision.consultation import Decision
from supervision.episodes import Finished
from supervision.page import Contents, render
from supervision.pictures import jpeg_bytes
from supervision.texts import in_one_line, say
from supervision.trial import Verdict

UNWRITTEN = logging.getLogger("guided_sac.unwritten")  # told of what a disk did not take
SHOWN, LISTED = 30, 2_000  # windows with pictures, and windows in all, at most
SECONDS, SHARE = 60.0, 0.01  # between two pages at least; of that time, what making one may take
BINS = 400  # of the curve, at most
TEXT, CODE, QUESTION = 4_000, 12_000, 20_000  # characters that are kept of a text, a rule, a question
STILLS, WIDTH = 4, 240  # pictures of a filmed stretch, and their pixels
LARGE = 25_000  # bytes of a picture above which it is made smaller


class Curve:
    """Returns of training episodes by who acted, averaged in bins of equal width, which doubles when they are full."""

    def __init__(self) -> None:
        self.width = 1  # steps
        self.sums = np.zeros((len(BEHAVIOURS), BINS, 3))  # of each kind and bin: episodes, their steps, their returns

    def add(self, step: int, behaviour: str, episode_return: float) -> None:
        """An episode ended at this step of the run."""
        while step >= self.width * BINS:
            merged = self.sums[:, ::2] + self.sums[:, 1::2]
            self.sums, self.width = np.concatenate([merged, np.zeros_like(merged)], axis=1), 2 * self.width
        self.sums[BEHAVIOURS.index(behaviour), step // self.width] += (1, step, episode_return)

    def points(self, behaviour: str) -> list[tuple[float, float, int]]:
        """Mean step, mean return and number of the episodes of each bin that has any."""
        counts, steps, returns = self.sums[BEHAVIOURS.index(behaviour)].T
        return [(s / n, r / n, int(n)) for n, s, r in zip(counts, steps, returns, strict=True) if n]


@dataclass
class Window:
    """A consultation, and the window that followed."""

    number: int
    step: int  # of the run
    seen: str  # the learner's returns, in words
    verdict: str  # what it ended with
    rule: int = 0  # number of the rule that guides, 0: none
    intervene: bool | None = None  # the advisor's word; None: it was not asked, or gave none
    analysis: str = ""
    advice: str = ""
    code: str = ""  # of a rule that was not there before
    question: str = ""  # to the advisor, where a model was asked
    cost: tuple[int, int, int, float] = (0, 0, 0, 0.0)  # calls, tokens of questions and of answers, seconds
    trial: str = ""  # what the last look at the trial saw
    events: list[tuple[int, str]] = field(default_factory=list)  # what became of the rule, and at which step
    pictures: list[tuple[str, str]] = field(default_factory=list)  # what they show, and a JPEG in base 64
    changed: bool = False  # whether another one decides than before: the rule, or nobody
    shown: bool = True  # at length, with pictures

    def shorten(self) -> None:
        """From here on it is a row."""
        self.shown, self.pictures, self.question = False, [], ""


def harmless(method: Callable[..., None]) -> Callable[..., None]:
    """Whatever a method of a report raises is said once; unless it is the disk's, there is no report from then on."""

    @functools.wraps(method)
    def guarded(self: "Report", *args: Any, **options: Any) -> None:
        if self.off:
            return
        started = time.monotonic()
        try:
            method(self, *args, **options)
        except OSError as error:
            UNWRITTEN.error("report.html", in_one_line(error))
        except Exception as error:  # training goes on, whatever it is
            self.off = True
            say(f"supervisor: no report.html from now on: {in_one_line(error)}")
        self.seconds += time.monotonic() - started

    return guarded


class Report:
    """Gathers what the page shows, and writes it: at a consultation, once a minute at most, and at the run's end.

    Args:
        args: a script's settings.
        run_dir: the run's folder, where `report.html` is made.
        evaluations: step and greedy return of each evaluation; grows while the run goes on.
    """

    def __init__(self, args: Any, run_dir: Path, evaluations: Sequence[tuple[int, float]] = ()):
        self.args, self.run_dir, self.evaluations = args, run_dir, evaluations
        self.curve = Curve()
        self.windows: list[Window] = []
        self.left_out = 0  # windows that were there and are not listed
        self.active: list[tuple[int, bool]] = []  # where a rule began to guide, and where it ended
        self.rules: list[str] = []  # hashes of their sources, by number
        self.paid: tuple[int, int, int, float] = (0, 0, 0, 0.0)  # for all windows so far, as in `Window.cost`
        self.closing: list[tuple[str, str]] = []  # pictures of the run's end
        self.over: int | None = None  # where the guided time ended
        self.off, self.seconds, self.due = False, 0.0, 0.0

    @property
    def changed(self) -> bool:
        """Whether the last consultation decided otherwise than the one before."""
        return bool(self.windows) and self.windows[-1].changed

    @harmless
    def episodes(self, step: int, finished: Sequence[Finished]) -> None:
        """These training episodes are over at this step of the run."""
        for episode in finished:
            self.curve.add(step, episode.behaviour, episode.episode_return)

    @harmless
    def guided(self, step: int, active: bool) -> None:
        """Whether a rule guides from this step on."""
        if active != (bool(self.active) and self.active[-1][1]):
            self.active.append((step, active))

    @harmless
    def judged(self, verdict: Verdict) -> None:
        """A look at the trial of the rule that guides."""
        if self.windows:
            self.windows[-1].trial = f"{'passed so far' if verdict.passed else 'failed'}: {verdict.evidence}"

    @harmless
    def happened(self, step: int, text: str) -> None:
        """What became of the rule within its window."""
        if self.windows:
            self.windows[-1].events.append((step, text[:TEXT]))
            self.windows[-1].changed = True

    @harmless
    def consulted(self, supervisor: Any, decision: Decision, step: int) -> None:
        """A consultation is over; its window begins."""
        self.over = None  # a fork may go on with guidance
        if self.windows and (self.changed or len(self.windows) == 1):
            self._film(supervisor.camera)
        window = Window(supervisor.consultations.count, step, decision.seen, decision.verdict[:TEXT])
        if decision.judged is not None:
            window.intervene = decision.judged.intervene
            window.analysis, window.advice = decision.judged.analysis[:TEXT], decision.judged.advice[:TEXT]
        if decision.policy is not None:
            source = decision.policy.source
            digest = hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()
            if digest not in self.rules:
                self.rules.append(digest)
                window.code = source[:CODE]
            window.rule = self.rules.index(digest) + 1
        window.changed = not self.windows or window.rule != self.windows[-1].rule
        if supervisor.chat is not None:
            self._ask(window, supervisor.chat)
        if self.windows and not (self.changed or len(self.windows) == 1):
            self.windows[-1].shorten()
        self.windows.append(window)
        self._thin()

    def _ask(self, window: Window, chat: Any) -> None:
        """What the models were asked for a window, and what it cost."""
        question = chat.latest.get("advisor")
        if question is not None and (not self.windows or question.step > self.windows[-1].step):
            window.question = question.messages[1]["content"][:QUESTION]
            window.pictures = [(what, _embedded(jpeg)) for what, jpeg in question.pictures]
        paid = _sum(chat.costs.values())
        window.cost = tuple(now - before for now, before in zip(paid, self.paid, strict=True))
        self.paid = paid

    def _thin(self) -> None:
        """Too many windows: of those with pictures every other one becomes a row, the first of the rows goes."""
        shown = [window for window in self.windows if window.shown]
        if len(shown) > SHOWN:
            for window in shown[1:-1:2]:
                window.shorten()
        if len(self.windows) > LISTED:
            self.windows.remove(next(window for window in self.windows if not window.shown))
            self.left_out += 1

    def _film(self, camera: Any) -> None:
        """Pictures of what was filmed in the last window, unless a model was shown some, or since guidance is over."""
        pictures, closing = self.windows[-1].pictures, self.over is not None
        if pictures and not closing:
            return
        since = self.over if closing else self.windows[-1].step
        found = [
            (f"{'guided' if stretch.guided else 'alone'}, step {step:,}", _embedded(frame))
            for stretch, steps, frames in camera.stills(since, STILLS)[:2]
            for step, frame in zip(steps, frames, strict=True)
        ]
        if closing:
            self.closing = found
        else:
            pictures += found

    @harmless
    def end(self, supervisor: Any, step: int) -> None:
        """The guided time is over, or the run is."""
        if self.windows:
            self._film(supervisor.camera)
        if self.over is None:
            self.over = step

    @harmless
    def write(self, supervisor: Any, step: int, last: bool = False) -> None:
        """Make the page if it is time for it, at the `last` step in any case; whole or not at all."""
        started = time.monotonic()
        if not last and started < self.due:
            return
        path = self.run_dir / "report.html"
        part = path.with_name(path.name + ".part")
        page = render(self.contents(supervisor, step)).encode("utf-8", "replace")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(page)
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        UNWRITTEN.info("report.html")
        self.due = time.monotonic() + max(SECONDS, (time.monotonic() - started) / SHARE)

    def contents(self, supervisor: Any, step: int) -> Contents:
        """All that the page shows."""
        settings: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            settings = json.loads((self.run_dir / "settings.json").read_text(encoding="utf-8"))
        guidance, held = supervisor.guidance, supervisor.consultations
        costs = {} if supervisor.chat is None else {role: str(cost) for role, cost in supervisor.chat.costs.items()}
        return Contents(
            run=self.run_dir.name, args=vars(self.args), settings=settings, step=step,
            supervisor=supervisor.description,
            curve={behaviour: self.curve.points(behaviour) for behaviour in BEHAVIOURS},
            evaluations=list(self.evaluations), active=self.active, windows=self.windows, left_out=self.left_out,
            closing=self.closing, guided_steps=guidance.guided_steps,
            consultations=held.count, rules=len(self.rules), failures=held.failures, costs=costs,
            seconds=supervisor.seconds, own_seconds=self.seconds,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "width": self.curve.width, "sums": self.curve.sums.copy(), "windows": [asdict(w) for w in self.windows],
            "left_out": self.left_out, "active": list(self.active), "rules": list(self.rules), "paid": self.paid,
            "closing": list(self.closing), "over": self.over,
        }  # fmt: skip

    @harmless
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.curve.width, self.curve.sums = state["width"], state["sums"]
        known = {f.name for f in fields(Window)}
        self.windows = [Window(**{k: v for k, v in w.items() if k in known}) for w in state["windows"]]
        self.left_out, self.active, self.rules = state["left_out"], list(state["active"]), list(state["rules"])
        self.paid, self.closing, self.over = state["paid"], state["closing"], state["over"]


def _sum(costs: Sequence[Cost]) -> tuple[int, int, int, float]:
    """Calls, tokens of questions and of answers, and seconds, of all roles together."""
    names = ("calls", "prompt_tokens", "completion_tokens", "seconds")
    return tuple(sum(getattr(cost, name) for cost in costs) for name in names)


def _embedded(picture: np.ndarray | bytes) -> str:
    """A frame (height, width, 3) uint8, or a JPEG, as a small JPEG in base 64."""
    if isinstance(picture, bytes) and len(picture) > LARGE:
        from PIL import Image

        picture = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
    return base64.b64encode(picture if isinstance(picture, bytes) else jpeg_bytes(picture, WIDTH)).decode()
