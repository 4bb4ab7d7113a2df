"""What training did lately, episode by episode: what a trial compares, what models and videos are shown."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

SHOWN_STEPS = 1_000  # of a stretch that are kept whole, the first ones; of later steps the rewards alone
KEPT_STEPS = 2_000  # of all unguided stretches, whole: observations may be large, and a checkpoint holds them
SHOWN_EPISODES = 20  # unguided stretches that are kept, the latest ones


@dataclass
class Stretch:
    """Steps of one episode on which the same one acted: the learner alone, or the learner with the rule.

    Of its T steps the first `SHOWN_STEPS` are kept whole.
    """

    env: int  # number of the environment
    global_step: int  # of the run, before its first step
    start: int  # step of the episode at which it begins; 0: at the reset
    guided: bool
    uniform: bool  # whether the learner's part was uniformly random, before `learning_starts`
    obs: list[np.ndarray] = field(default_factory=list)  # (*obs) each, before the action
    actions: list[np.ndarray] = field(default_factory=list)  # (*action) each, as executed
    next_obs: list[np.ndarray] = field(default_factory=list)  # (*obs) each, after it
    rewards: list[float] = field(default_factory=list)  # (T,)
    end: str = ""  # "terminated", "truncated", "cut" (the episode goes on, acted otherwise), "" while it goes on
    frames: list[np.ndarray] = field(default_factory=list)  # (height, width, 3) uint8; environment 0 alone has some
    frame_steps: list[int] = field(default_factory=list)  # steps of the episode that they show

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def whole(self) -> bool:
        """Whether it is an episode from its reset to its end."""
        return self.start == 0 and self.end in ("terminated", "truncated")

    def return_until(self, horizon: int) -> float | None:
        """The return of the episode's first `horizon` steps; None where it was not followed so far."""
        if self.start or (self.end in ("", "cut") and len(self) < horizon):
            return None
        return float(sum(self.rewards[:horizon]))

    def bare(self) -> "Stretch":
        """Its rewards alone, without states and pictures."""
        return replace(self, obs=[], actions=[], next_obs=[], frames=[], frame_steps=[])

    def add(self, obs: np.ndarray, action: np.ndarray, reward: float, next_obs: np.ndarray) -> None:
        """One step more."""
        if len(self.rewards) < SHOWN_STEPS:
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
        self.unguided: deque[Stretch] = deque(maxlen=SHOWN_EPISODES)  # over, the latest last
        self.guided: deque[Stretch] = deque(maxlen=1)
        self.finished: deque[Finished] = deque(maxlen=SHOWN_EPISODES)
        # of the present episodes before the present stretch: return, steps, guided steps
        self.totals = np.zeros((num_envs, 3))
        self.over = 0  # unguided stretches that are over
        # of unguided episodes from their reset to their end, or as far as a probe was followed: without those that were
        # cut only what is quickly over would count, in one task the successes, in another the failures
        self.unguided_returns: deque[float] = deque(maxlen=1_000)

    def begin(self, env: int, global_step: int, start: int, guided: bool, uniform: bool) -> Stretch:
        """A stretch begins here."""
        if not start:
            self.totals[env] = 0
        self.present[env] = Stretch(env, global_step, start, guided, uniform)
        return self.present[env]

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
        kept = self.guided if stretch.guided else self.unguided
        kept.append(stretch)
        while sum(len(s.obs) for s in kept) > KEPT_STEPS and len(kept) > 1:
            kept.popleft()
        return stretch

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
            "over": self.over, "unguided_returns": self.unguided_returns,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.present = [None if s is None else unpacked(s) for s in state["present"]]
        self.unguided.extend(map(unpacked, state["unguided"]))
        self.guided.extend(map(unpacked, state["guided"]))
        self.finished.extend(Finished(*f) for f in state["finished"])
        self.totals, self.over = state["totals"], state["over"]
        self.unguided_returns.extend(state["unguided_returns"])


ARRAYS = ("obs", "actions", "next_obs", "rewards")


def packed(stretch: Stretch) -> dict[str, Any]:
    """A stretch as plain data, an array for each list."""
    fields = {name: value for name, value in vars(stretch).items() if name not in ("frames", "frame_steps")}
    return fields | {name: np.array(fields[name]) for name in ARRAYS}


def unpacked(state: dict[str, Any]) -> Stretch:
    """What `packed` was given, without its pictures."""
    return Stretch(**state | {name: list(state[name]) for name in ARRAYS} | {"rewards": state["rewards"].tolist()})
