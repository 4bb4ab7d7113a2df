"""Whether a rule may go on: a dry run on states that training has seen, and the trial while it acts."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import numpy as np

from supervision.episodes import Stretch, packed, unpacked
from supervision.sandbox.messages import TRIAL_LANES, PolicyError
from supervision.sandbox.policy import SandboxedPolicy

LOOKS = (3, 5, 8, 12, 20)  # pairs of episodes at which a trial is looked at; after these at every tenth
ERRORS = 2.5  # Welch's standard errors by which a rule must be worse to be ended
UNGUIDED = "unguided"  # against what a rule is judged
LISTS = ("predecessor", "guided", "probes")  # of a trial
WINDOWS = 10  # whose episodes a trial compares, the last ones: learner and rule were others before
FEWEST = LOOKS[-1]  # episodes of each kind that are kept, however old: of three or four a verdict is chance


def dry_run(policy: SandboxedPolicy, obs: Sequence[np.ndarray], t: Sequence[int]) -> SandboxedPolicy:
    """Call a rule on states (*obs) at steps t of an episode, one by one, as in training, which tests its deadline too.

    Returns:
        The rule.

    Raises:
        PolicyError: it failed, and is closed.
    """
    try:
        for row, step in zip(obs, t, strict=True):
            policy(row[None], np.array([step]), np.array([TRIAL_LANES]))  # a lane that training does not use
    except PolicyError:
        policy.close()
        raise
    return policy


def worse(these: Sequence[float], those: Sequence[float]) -> bool:
    """Whether the mean of these returns is below that of those by more than `ERRORS` of Welch's standard errors.

    Without any variance: whether it is below at all.
    """
    difference = np.mean(these) - np.mean(those)
    rounding = 1e-9 * max(np.abs(these).max(), np.abs(those).max())
    return bool(difference < -max(ERRORS * standard_error(these, those), rounding))


def standard_error(these: Sequence[float], those: Sequence[float]) -> float:
    """Welch's, of the difference of the means of two samples."""
    return float(np.sqrt(np.var(these, ddof=1) / len(these) + np.var(those, ddof=1) / len(those)))


@dataclass
class Verdict:
    """What a look at a trial saw: mean returns of the episodes' first `horizon` steps, and of how many."""

    against: str  # UNGUIDED, or "under the rule before"
    guided: float
    other: float
    counts: tuple[int, int]
    horizon: int
    passed: bool
    error: float = 0.0  # standard error of the means' difference; the first checkpoints lack it

    @property
    def evidence(self) -> str:
        """The returns, and how far they are apart for their spread."""
        difference = abs(self.guided - self.other)
        if self.error <= 1e-6 * difference:
            return f"{self}, without any spread"
        return f"{self}, {difference / self.error:.1f} standard errors apart"

    @property
    def ending(self) -> str:
        """Why the rule was ended, in words that claim no more than was seen."""
        return f"the rule was ended, for it earned less: {self.evidence}"

    def __str__(self) -> str:
        return (
            f"return {self.guided:.4g} guided ({self.counts[0]} episodes), {self.other:.4g} {self.against} "
            f"({self.counts[1]}), over their first {self.horizon:,} steps"
        )


@dataclass
class Trial:
    """Episodes that a rule guided from their reset to their end, against probes, which the learner acted alone.

    Returns are compared over the first H steps. H is at least the longest guided episode: shorter horizons would refuse
    good rules of sparse tasks, whose reward comes at the end. It is as long as the probes were followed, for a rule
    that fells a robot early is found out by what the learner earns afterwards.
    """

    pairs: int  # before the first look
    predecessor: deque[Stretch] = field(default_factory=deque)  # guided by the last good rule
    guided: deque[Stretch] = field(default_factory=deque)
    probes: deque[Stretch] = field(default_factory=deque)
    forgotten: tuple[int, int] = (0, 0)  # how many guided ones and probes are no longer kept
    looked: int = 0  # pairs ever at the last look
    good: bool = False  # whether the last look saw the rule do at least as well as no guidance

    @property
    def horizon(self) -> int:
        """H, in steps: that of the shortest probe that was cut, of those that were followed long enough."""
        cut = [len(s) for s in self.probes if s.end == "cut" and len(s) >= self.longest]
        return min(cut) if cut else max(map(len, [*self.guided, *self.probes]), default=0)

    @property
    def longest(self) -> int:
        """Steps of the longest guided episode; 0 before one is over."""
        return max(map(len, self.guided), default=0)

    def comparable(self) -> list[float]:
        """Returns of the probes that were followed for H steps or to their end."""
        horizon = self.horizon
        returns = (probe.return_until(horizon) for probe in self.probes)
        return [r for r in returns if r is not None]

    def add(self, stretch: Stretch, since: int) -> None:
        """An episode is over, or a probe was cut; what began before step `since` of the run is forgotten."""
        kept = self.guided if stretch.guided else self.probes
        kept.append(stretch.bare())
        guided, probes = self.forgotten
        while kept[0].global_step < since and len(kept) > FEWEST:
            kept.popleft()
            guided, probes = guided + stretch.guided, probes + (not stretch.guided)
        self.forgotten = guided, probes
        while self.predecessor and self.predecessor[0].global_step < since:
            self.predecessor.popleft()

    def look(self) -> Verdict | None:
        """The verdict on what is kept, when it is time for one: at 3, 5, 8, 12, 20 pairs ever, then at every tenth."""
        due = next(n for n in chain(LOOKS, count(30, 10)) if n > self.looked and n >= self.pairs)
        guided, probes = self.forgotten
        if min(guided + len(self.guided), probes + len(self.probes)) < due:
            return None
        others = self.comparable()
        if probes + len(others) < due or len(others) < min(due, FEWEST // 2):
            return None
        self.looked = due
        horizon = self.horizon
        returns = [s.return_until(horizon) for s in self.guided]
        verdict = self._compare(returns, others, UNGUIDED)
        if verdict.passed and self.predecessor:  # a new rule must not be worse than the last good one either
            before = [r for s in self.predecessor if (r := s.return_until(horizon)) is not None]
            if len(before) > 1:
                against = self._compare(returns, before, "under the rule before")
                verdict = verdict if against.passed else against
        self.good = verdict.passed and verdict.guided >= verdict.other
        return verdict

    def _compare(self, returns: list[float], others: list[float], against: str) -> Verdict:
        counts = (len(returns), len(others))
        means = float(np.mean(returns)), float(np.mean(others))
        passed, error = not worse(returns, others), standard_error(returns, others)
        return Verdict(against, *means, counts, self.horizon, passed, error)

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        lists = {name: [packed(s) for s in getattr(self, name)] for name in LISTS}
        rest = {"pairs": self.pairs, "forgotten": self.forgotten, "looked": self.looked, "good": self.good}
        return lists | rest

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Trial":
        """The trial that gave this state."""
        lists = {name: deque(unpacked(s) for s in state[name]) for name in LISTS}
        return cls(**state | lists)
