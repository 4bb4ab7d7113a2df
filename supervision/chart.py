"""A run's curve as inline SVG: returns by who acted, greedy returns, guided stretches, consultations."""

import math
from collections.abc import Sequence
from html import escape

Points = list[tuple[float, float, int]]  # mean step, mean return, number of episodes

BEHAVIOURS = ("unguided", "partly guided", "guided")  # of an episode, as episodes.Finished has it
COLOURS = {"unguided": "#3b6fb6", "partly guided": "#b59a6a", "guided": "#e07b00"}
WORDS = {"unguided": "the agent alone", "partly guided": "partly guided", "guided": "guided by the rule"}
GREEDY, SHADE, ENDED = "#16202e", "#fdefd8", "#b3261e"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1120, 370, 70, 18, 28, 46  # pixels, and the margins around the axes
LABEL = 22  # pixels that the number of a consultation needs


def number(value: float) -> str:
    """A return as it is read."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`, `most` and one at most."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def spans(active: Sequence[tuple[int, bool]], end: int) -> list[tuple[int, int]]:
    """First and last step of each guided stretch, given the steps at which a rule began and ended to guide."""
    found, since = [], None
    for step, guided in [*active, (end, False)]:
        if guided and since is None:
            since = step
        elif not guided and since is not None:
            found.append((since, step))
            since = None
    return found


class Axes:
    """Steps 0 … `end` across, returns from `low` to `high` upwards, in pixels."""

    def __init__(self, end: int, low: float, high: float):
        room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
        self.end, self.low, self.high = max(end, 1), low - room, high + room

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.end

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low)

    def grid(self) -> list[str]:
        """Lines, numbers and names."""
        left, right, bottom = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for value in ticks(self.low, self.high, 6):
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
            parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
        for step in ticks(0, self.end, 8):
            parts.append(f'<text x="{self.x(step):.1f}" y="{bottom + 18}" text-anchor="middle">{step:,.0f}</text>')
        x, y = (left + right) / 2, (TOP + bottom) / 2
        parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="middle">environment steps</text>')
        parts.append(f'<text transform="rotate(-90 14 {y})" x="14" y="{y}" text-anchor="middle">return</text>')
        return parts


def chart(
    curve: dict[str, Points], evaluations: Sequence[tuple[int, float]], active: Sequence[tuple[int, bool]],
    marks: Sequence[tuple[int, int]], events: Sequence[tuple[int, str]], end: int,
) -> str:  # fmt: skip
    """The chart.

    Args:
        curve: training returns by who acted.
        evaluations: step and greedy return.
        active: steps at which a rule began (True) and ended to guide.
        marks: number and step of the consultations that the page has a box for.
        events: step at which a rule was ended or failed, and how, in words.
        end: the last step.
    """
    values = [y for points in curve.values() for _, y, _ in points] + [y for _, y in evaluations]
    if not (values := [y for y in values if math.isfinite(y)]):
        return "<p>No episode is over yet.</p>"
    axes, bottom = Axes(end, min(values), max(values)), HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="returns over environment steps">']
    for first, last in spans(active, end):
        x, width = axes.x(first), max(axes.x(last) - axes.x(first), 0.5)
        title = f"<title>a rule guides, steps {first:,} to {last:,}</title>"
        box = f'x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{bottom - TOP}"'
        parts.append(f'<rect class="span" {box} fill="{SHADE}">{title}</rect>')
    parts += axes.grid()
    free = 0.0
    for count, step in marks:
        x = axes.x(step)
        parts.append(f'<path class="axis" d="M{x:.1f} {TOP - 4}v9"/>')
        if x >= free:
            parts.append(f'<a href="#w{count}"><text x="{x:.1f}" y="{TOP - 9}" text-anchor="middle">{count}</text></a>')
            free = x + LABEL
    for behaviour in BEHAVIOURS:
        for step, value, many in curve[behaviour]:
            if math.isfinite(value):
                about = f"mean of {many} episodes about step" if many > 1 else "step"
                title = f"<title>{about} {step:,.0f}: {number(value)}, {behaviour}</title>"
                dot = f'cx="{axes.x(step):.1f}" cy="{axes.y(value):.1f}" r="2.8" fill="{COLOURS[behaviour]}"'
                parts.append(f'<circle class="episode" {dot}>{title}</circle>')
    greedy = [(axes.x(step), axes.y(value), step, value) for step, value in evaluations if math.isfinite(value)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in greedy)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{GREEDY}" stroke-width="2"/>')
    for x, y, step, value in greedy:
        title = f"<title>step {step:,}: greedy return {number(value)}</title>"
        parts.append(f'<circle class="greedy" cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{GREEDY}">{title}</circle>')
    for step, text in events:
        cross = f"M{axes.x(step) - 5:.1f} {bottom - 11}l10 10m0 -10l-10 10"
        title = f"<title>step {step:,}: {escape(text)}</title>"
        parts.append(f'<path class="ended" d="{cross}" stroke="{ENDED}" stroke-width="2.2">{title}</path>')
    return "\n".join([*parts, "</svg>"])


def legend(evaluated: bool, ended: bool) -> str:
    """What the colours mean."""
    items = [f'<span><i style="background:{COLOURS[kind]}"></i>training, {WORDS[kind]}</span>' for kind in BEHAVIOURS]
    if evaluated:
        items.append(f'<span><i class="line" style="background:{GREEDY}"></i>greedy, without guidance</span>')
    items.append(f'<span><i class="area" style="background:{SHADE}"></i>a rule guides</span>')
    items.append("<span>numbers above: consultations</span>")
    if ended:
        items.append(f'<span style="color:{ENDED}">× a rule was ended or failed</span>')
    return f'<div class="legend">{"".join(items)}</div>'
