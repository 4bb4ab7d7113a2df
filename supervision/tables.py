"""Stretches of training in words: their returns, and tables of consecutive steps."""

from collections.abc import Sequence

import numpy as np

from supervision.episodes import Stretch
from supervision.film import even_stride
from supervision.sandbox.messages import Observation

FRAMES = 16  # of a film for models; pictures show steps of this grid
ROW_CHARS = 5_000  # of a table of steps, about; it has more rows where they are short
FEWEST_ROWS, MOST_ROWS = 8, 30
NUMBERS = 60  # of an observation that are shown, at most: the first ones that move


def picture_steps(stretch: Stretch, most: int) -> list[int]:
    """Steps of the episode that pictures may show, evenly spaced; they do not depend on whether there are pictures."""
    n = len(stretch.obs)
    grid = list(range(0, n, even_stride(n, FRAMES)))
    return [stretch.start + grid[i] for i in np.unique(np.linspace(0, len(grid) - 1, most).astype(int))] if grid else []


def shown_steps(stretch: Stretch, rows: int, pictures: int) -> list[int]:
    """Which rows of a stretch a table shows: runs of consecutive steps at its start, middle and end, and what pictures
    show; all where it has no more than `rows`."""
    n = len(stretch.obs)
    if n <= rows:
        return list(range(n))
    shown = {step - stretch.start for step in picture_steps(stretch, pictures)}
    each = max(2, (rows - len(shown)) // 3)
    stride = even_stride(n, FRAMES)
    middle = n // 2 // stride * stride
    for first in (0, middle, n - each):
        shown |= set(range(first, min(first + each, n)))
    return sorted(shown)


class Columns:
    """The numbers of an observation that move, and how they are written.

    Args:
        rows: (*obs) each, observations of all that is shown.
    """

    def __init__(self, rows: Sequence[np.ndarray], observation: Observation):
        self.observation, self.left_out = observation, ""
        if observation.kind != "floats":
            return
        first = np.asarray(rows[0], dtype=np.float64).ravel()
        low, high = first.copy(), first.copy()
        for row in rows:  # one by one: thousands of images would fill the memory as float64
            np.minimum(low, np.ravel(row), out=low)
            np.maximum(high, np.ravel(row), out=high)
        size, largest, spread = len(first), np.maximum(np.abs(low), np.abs(high)), high - low
        moving = np.flatnonzero(spread > 1e-6 * np.maximum(largest, 1.0))
        # four digits of the largest value of each number
        digits = 3 - np.floor(np.log10(np.where(largest > 0, largest, 1.0))).astype(int)
        self.digits = np.clip(digits, 0, 12)
        if 4 * len(moving) > 3 * size or size < 12:  # not worth a word
            moving = np.arange(size)
        shown = moving[:NUMBERS]
        self.parts = _ranges(shown)
        self.whole = len(shown) == size
        if len(moving) < size:
            still = np.setdiff1d(np.arange(size), moving)
            told = [f"obs[{i}]={_number(first[i], self.digits[i])}" for i in still[:NUMBERS]]
            more = f" and {len(still) - NUMBERS} more" if len(still) > NUMBERS else ""
            self.left_out = f"Left out of the rows, since they never change: {', '.join(told)}{more}. "
        if len(shown) < len(moving):
            others = ", ".join(f"obs[{part[0]}:{part[-1] + 1}]" for part in _ranges(moving[NUMBERS:])[:NUMBERS])
            self.left_out += f"Left out of the rows for their length, though they change: {others}. "

    def text(self, obs: np.ndarray) -> str:
        """An observation (*obs)."""
        if self.observation.kind != "floats":
            own = self.observation.own(np.asarray(obs))
            return f"obs={np.array2string(own) if isinstance(own, np.ndarray) else own}"
        values = np.asarray(obs, dtype=np.float64).ravel()
        if self.whole:
            return f"obs=[{self._numbers(values, range(len(values)))}]"
        return " ".join(f"obs[{part[0]}:{part[-1] + 1}]=[{self._numbers(values, part)}]" for part in self.parts)

    def _numbers(self, values: np.ndarray, indices: Sequence[int]) -> str:
        return " ".join(_number(values[i], self.digits[i]) for i in indices)


def _ranges(indices: np.ndarray) -> list[np.ndarray]:
    """Rising indices as runs of neighbours."""
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1) if len(indices) else []


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def action_text(action: np.ndarray) -> str:
    """An action (*action), or a discrete one."""
    if np.ndim(action) == 0:
        return str(int(action))
    return np.array2string(np.asarray(action), precision=3, suppress_small=True, max_line_width=10_000)


def outcome(stretch: Stretch) -> str:
    """How a stretch ended, in words."""
    return {"": "goes on", "cut": "the episode went on, acted otherwise"}.get(stretch.end, stretch.end)


def table(stretch: Stretch, columns: Columns, rows: int, pictures: int) -> str:
    """Steps of a stretch: a line each, with the observation before the action; then the last observation.

    Args:
        pictures: steps that pictures may show.
    """
    lines, last, same = [], -1, ""
    for i in shown_steps(stretch, rows, pictures):
        if i > last + 1:
            lines.append("…")
        body = (
            f"{columns.text(stretch.obs[i])} action={action_text(stretch.actions[i])} reward={stretch.rewards[i]:.4g}"
        )
        said = "the same" if body == same and i == last + 1 else body
        lines.append(f"t={stretch.start + i} {said}")
        last, same = i, body
    if len(stretch.obs) == len(stretch) and last == len(stretch) - 1:
        end = f" ({stretch.end})" if stretch.end in ("terminated", "truncated") else ""
        lines.append(f"t={stretch.start + len(stretch)} {columns.text(stretch.next_obs[-1])}{end}")
    return "\n".join(lines)


def heading(stretch: Stretch) -> str:
    """What a table shows."""
    behaviour = "Guided by the rule, the learner's part" if stretch.guided else "Unguided,"
    random, how = stretch.uniform_steps, " sampled actions"
    if random:
        then = "" if random == len(stretch) else f" until its step {stretch.start + random}, then{how}"
        how = f" uniformly random actions{then}"
    begun = f"from its step {stretch.start} on" if stretch.start else "from the reset"
    known = f"; of the first {len(stretch.obs):,} steps are here" if len(stretch.obs) < len(stretch) else ""
    return (
        f"{behaviour}{how}: episode {begun}, at training step {stretch.global_step:,}; {len(stretch):,} steps, return "
        f"{sum(stretch.rewards):.4g}, {outcome(stretch)}{known}"
    )


def row_length(stretch: Stretch, columns: Columns) -> int:
    """Characters of a row of its table, about."""
    return len(columns.text(stretch.obs[-1])) + len(action_text(stretch.actions[-1])) + 25


def mean_text(values: Sequence[float]) -> str:
    """Their mean, with its standard error where there are several."""
    if len(values) == 1:
        return f"{values[0]:.4g} (1 episode)"
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.4g} ± {error:.2g} (mean ± standard error of {len(values)} episodes)"


def comparison(unguided: Sequence[Stretch], guided: Sequence[Stretch]) -> str:
    """Returns over equal horizons from the reset, guided and not; "" where none can be compared."""
    longest = [max((len(s) for s in kind if s.start == 0), default=0) for kind in (unguided, guided)]
    horizon = min(longest)
    returns = [[r for s in kind if (r := s.return_until(horizon)) is not None] for kind in (unguided, guided)]
    if not horizon or not all(returns):
        return ""
    return (
        f"Return of an episode's first {horizon:,} steps: unguided {mean_text(returns[0])}, "
        f"guided {mean_text(returns[1])}."
    )
