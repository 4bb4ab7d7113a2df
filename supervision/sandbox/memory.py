"""What the parent remembers of the environments that a rule guides, to bring another process to the same state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from supervision.sandbox.messages import MOST_LANES, TRIAL_LANES

MEMORY = ("lanes", "episodes", "steps", "obs")  # the keys of what is kept, a list each


class Episode:
    """A lane's current episode.

    Args:
        number: of the episode, -1 where none began yet.
    """

    __slots__ = ("due", "number", "obs", "steps")

    def __init__(self, number: int = -1):
        self.number = number
        self.due = True  # whether the next row begins an episode, whatever its step
        self.steps: list[int] = []  # of the rows since it began
        self.obs: list[np.ndarray] = []


class Episodes:
    """Which episode of each lane a row belongs to, and the rows of the current episodes."""

    def __init__(self) -> None:
        self.lanes: dict[int, Episode] = {}  # the least recently used first

    def advance(self, lanes: Sequence[int], steps: Sequence[int], obs: np.ndarray) -> tuple[list[int], int]:
        """Take in rows that are about to be sent; return the number of each one's episode, and how many begin here."""
        numbers, begun = [], 0
        for row, (lane, step) in enumerate(zip(lanes, steps, strict=True)):
            episode = self.lanes.pop(lane, None) or Episode()
            self.lanes[lane] = episode
            if episode.due or step == 0:
                episode.number, episode.due = episode.number + 1, False
                episode.steps, episode.obs = [], []
                begun += 1
                if len(self.lanes) > MOST_LANES:
                    del self.lanes[next(iter(self.lanes))]
            if lane < TRIAL_LANES:
                episode.steps.append(step)
                episode.obs.append(obs[row].copy())
            numbers.append(episode.number)
        return numbers, begun

    def forget(self, lanes: Iterable[int] | None) -> None:
        """End the current episodes of these lanes, or of all: the next row of each begins one."""
        for lane in self.lanes if lanes is None else lanes:
            if lane in self.lanes:
                episode = self.lanes[lane]
                episode.due, episode.steps, episode.obs = True, [], []

    def memory(self) -> dict[str, list[Any]]:
        """Return plain data of the lanes that are not of a trial, the least recently used first."""
        kept = {lane: episode for lane, episode in self.lanes.items() if lane < TRIAL_LANES}
        return {
            "lanes": list(kept),
            "episodes": [episode.number for episode in kept.values()],
            "steps": [np.array(episode.steps, dtype=np.int64) for episode in kept.values()],
            "obs": [np.array(episode.obs) for episode in kept.values()],  # (rows, *row shape) each
        }
