"""What training did lately, episode by episode: what a trial compares, what models and videos are shown."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

SHOWN_STEPS = 1_000  # of a stretch that are kept whole, the first ones; of later steps the rewards alone
KEPT_STEPS = 2_000  # of all unguided stretches, whole: observations may be large, and a checkpoint holds them
SHOWN_EPISODES = 20  # unguided stretches that are kept, the latest ones; and episodes that a progress line averages
TOLD = 3  # unguided returns that a line tells
SHOWN_BYTES, KEPT_BYTES = 2**25, 2**26  # of observations that are kept of a stretch, and of all of a kind that are over


@dataclass
class Stretch:
    """Steps of one episode on which the same one acted: the learner alone, or the learner with the rule.

    Of its T steps the first `SHOWN_STEPS` are kept whole, fewer where observations are large.
    """

    env: int  # number of the environment
    global_step: int  # of the run, before its first step
    start: int  # step of the episode at which it begins; 0: at the reset
    guided: bool
    uniform: bool  # whether the learner's part was uniformly random where it began, before `learning_starts`
    obs: list[np.ndarray] = field(default_factory=list)  # (*obs) each, before the action
    actions: list[np.ndarray] = field(default_factory=list)  # (*action) each, as executed
    next_obs: list[np.ndarray] = field(default_factory=list)  # (*obs) each, after it
    rewards: list[float] = field(default_factory=list)  # (T,)
    end: str = ""  # "terminated", "truncated", "cut" (the episode goes on, acted otherwise), "" while it goes on
    frames: list[np.ndarray] = field(default_factory=list)  # (height, width, 3) uint8; environment 0 alone has some
    frame_steps: list[int] = field(default_factory=list)  # steps of the episode that they show
    chosen: bool = False  # of its kind the first of environment 0 since the last consultation: models see it, filmed
    sampled_from: int | None = None  # of T, where the learner's part was uniformly random first and sampled then

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def whole(self) -> bool:
        """Whether it is an episode from its reset to its end."""
        return self.start == 0 and self.end in ("terminated", "truncated")

    @property
    def uniform_steps(self) -> int:
        """Steps, the first ones, on which the learner's part was uniformly random."""
        if not self.uniform:
            return 0
        return len(self) if self.sampled_from is None else self.sampled_from

    @property
    def nbytes(self) -> int:
        """Bytes of the observations that are kept."""
        return 2 * len(self.obs) * self.obs[0].nbytes if self.obs else 0

    def return_until(self, horizon: int) -> float | None:
        """The return of the episode's first `horizon` steps; None where it was not followed so far."""
        if self.start or (self.end in ("", "cut") and len(self) < horizon):
            return None
        return float(sum(self.rewards[:horizon]))

    def bare(self) -> "Stretch":
        """Its rewards alone, without states and pictures."""
        return replace(self, obs=[], actions=[], next_obs=[], frames=[], frame_steps=[])

    def add(
        self, obs: np.ndarray, action: np.ndarray, reward: float, next_obs: np.ndarray, sampled: bool = False
    ) -> None:
        """One step more; `sampled`: its action is the policy's, or the rule's and the policy's."""
        if sampled and self.uniform and self.sampled_from is None:
            self.sampled_from = len(self)
        if len(self.obs) == len(self) < SHOWN_STEPS and self.nbytes + 2 * np.asarray(obs).nbytes <= SHOWN_BYTES:
            self.obs.append(np.array(obs))
            self.actions.append(np.array(action))
            self.next_obs.append(np.array(next_obs))
        self.rewards.append(float(reward))


class Finished(NamedTuple):
    """A training episode that is over."""

    behaviour: Literal["unguided", "guided", "partly guided"]
    episode_return: float
    length: int


class Episodes:
    """The present stretch of each environment, and the latest ones that are over.

    Args:
        num_envs: environments that are stepped side by side.
    """

    def __init__(self, num_envs: int):
        self.present: list[Stretch | None] = [None] * num_envs
        self.unguided: deque[Stretch] = deque()  # over, the latest last
        self.guided: deque[Stretch] = deque()
        self.choosing = False  # whether a stretch of each kind is chosen for models and kept until they are asked
        self.finished: deque[Finished] = deque(maxlen=max(SHOWN_EPISODES, num_envs))  # all may end in one step
        # of the present episodes before the present stretch: return, steps, guided steps
        self.totals = np.zeros((num_envs, 3))
        self.over = 0  # unguided stretches that are over
        # of unguided episodes from their reset to their end, or as far as a probe was followed: without those that were
        # cut only what is quickly over would count, in one task the successes, in another the failures
        self.unguided_returns: deque[float] = deque(maxlen=1_000)
        self.unguided_spans: deque[tuple[int, bool]] = deque(maxlen=TOLD)  # of the last ones: steps, and whether cut

    def begin(self, env: int, global_step: int, start: int, guided: bool, uniform: bool) -> Stretch:
        """A stretch begins here."""
        if not start:
            self.totals[env] = 0
        over = self.guided if guided else self.unguided
        chosen = self.choosing and env == 0 and not any(s.chosen for s in over)
        self.present[env] = Stretch(env, global_step, start, guided, uniform, chosen=chosen)
        return self.present[env]

    def consulted(self) -> Stretch | None:
        """A consultation is over: of what begins from here on the first of each kind is chosen.

        Returns:
            The stretch of environment 0 that begins here, without a step so far, if there is one.
        """
        present = self.present[0]
        for stretch in (*self.unguided, *self.guided, *filter(None, self.present)):
            stretch.chosen = False
        if present is None or len(present):
            return None
        present.chosen = self.choosing
        return present

    def end(self, env: int, how: str, followed: bool = False) -> Stretch | None:
        """The present stretch is over; it is returned unless it has no step.

        Args:
            followed: whether it was cut after so many steps that its return counts.
        """
        stretch, self.present[env] = self.present[env], None
        if stretch is None or not len(stretch):
            return None
        stretch.end = how
        self.over += not stretch.guided
        self.totals[env] += (sum(stretch.rewards), len(stretch), len(stretch) * stretch.guided)
        if how != "cut":
            total, length, guided = self.totals[env].tolist()
            behaviour = "guided" if guided == length else "partly guided" if guided else "unguided"
            self.finished.append(Finished(behaviour, total, int(length)))
        if not stretch.guided and not stretch.start and (how != "cut" or followed):
            self.unguided_returns.append(float(sum(stretch.rewards)))
            self.unguided_spans.append((len(stretch), how == "cut"))
        kept, most = (self.guided, 1) if stretch.guided else (self.unguided, SHOWN_EPISODES)
        kept.append(stretch)
        while len(others := [i for i, s in enumerate(kept) if not s.chosen or s is stretch]) > 1:
            latest = [kept[i] for i in others]
            steps, size = sum(len(s.obs) for s in latest), sum(s.nbytes for s in latest)
            if len(latest) <= most and steps <= KEPT_STEPS and size <= KEPT_BYTES:
                break
            del kept[others[0]]
        return stretch

    def in_short(self) -> str:
        """The last unguided returns, each with its steps, for a line."""
        if not self.unguided_spans:
            return "no unguided episode is over yet"
        returns = list(self.unguided_returns)[-len(self.unguided_spans) :]
        pairs = zip(returns, self.unguided_spans, strict=True)
        told = [f"{r:.4g} ({f'cut at {length:,}' if cut else f'{length:,} steps'})" for r, (length, cut) in pairs]
        return f"unguided returns {', '.join(told)}"

    def who_acted(self) -> str:
        """In the last training episodes, as many as a progress line averages; "" where it was the learner alone."""
        behaviours = [f.behaviour for f in self.finished][-SHOWN_EPISODES:]
        if behaviours.count("unguided") == len(behaviours):
            return ""
        words = {"guided": "guided", "partly guided": "guided in part", "unguided": "alone"}
        return ", ".join(f"{n} {word}" for name, word in words.items() if (n := behaviours.count(name)))

    def latest(self, guided: bool) -> list[Stretch]:
        """Stretches with at least one step, the latest last: those that are over, then those that go on."""
        over = self.guided if guided else self.unguided
        return [*over, *(s for s in self.present if s is not None and s.guided is guided and len(s))]

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint; pictures are left out."""
        return {
            "present": [None if s is None else packed(s) for s in self.present],
            "unguided": [packed(s) for s in self.unguided], "guided": [packed(s) for s in self.guided],
            "finished": [list(f) for f in self.finished], "totals": self.totals.copy(),
            "over": self.over, "unguided_returns": self.unguided_returns, "unguided_spans": self.unguided_spans,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.present = [None if s is None else unpacked(s) for s in state["present"]]
        self.unguided.extend(map(unpacked, state["unguided"]))
        self.guided.extend(map(unpacked, state["guided"]))
        self.finished.extend(Finished(*f) for f in state["finished"])
        self.totals, self.over = state["totals"], state["over"]
        self.unguided_returns.extend(state["unguided_returns"])
        self.unguided_spans.extend(state["unguided_spans"])


ARRAYS = ("obs", "actions", "next_obs", "rewards")


def packed(stretch: Stretch) -> dict[str, Any]:
    """A stretch as plain data, an array for each list."""
    fields = {name: value for name, value in vars(stretch).items() if name not in ("frames", "frame_steps")}
    return fields | {name: np.array(fields[name]) for name in ARRAYS}


def unpacked(state: dict[str, Any]) -> Stretch:
    """What `packed` was given, without its pictures."""
    return Stretch(**state | {name: list(state[name]) for name in ARRAYS} | {"rewards": state["rewards"].tolist()})
