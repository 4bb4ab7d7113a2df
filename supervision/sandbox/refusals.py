"""How refusals are told: every line that has one, causes before consequences, in a text of bounded length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MOST_OF_A_KIND, MOST_NAMES = 6, 10
MOST_CHARS, MOST_RANGES = 6_000, 100  # of reasons, and of line numbers in one place


class Refusal(NamedTuple):
    """One reason for which a source is refused."""

    consequence: bool  # of another refusal: it may be gone once that one is mended
    line: int
    kind: str
    reason: str


def summary(refusals: Sequence[Refusal]) -> str:
    """Return a line for each reason, which begins with the line of the source.

    One reason in several lines is told once, and of many reasons of one kind the first ones with names and lines of the
    rest. Where the text would be too long, of the last reasons the lines alone are told.
    """
    lines_of: dict[tuple[bool, str, str], list[int]] = {}
    for refusal in sorted(set(refusals)):
        lines_of.setdefault((refusal.consequence, refusal.kind, refusal.reason), []).append(refusal.line)
    told: dict[str, int] = {}
    rest: dict[str, list[tuple[list[int], str]]] = {}
    texts: list[tuple[str, list[int]]] = []  # each with its lines
    for (consequence, kind, reason), lines in sorted(lines_of.items(), key=lambda item: (item[0][0], item[1], item[0])):
        told[kind] = told.get(kind, 0) + 1
        if told[kind] > MOST_OF_A_KIND:
            rest.setdefault(kind, []).append((lines, reason))
            continue
        also = f" (also in {_named(lines[1:])})" if len(lines) > 1 else ""
        texts.append((f"line {lines[0]}: {reason}{also}{' (may follow from the above)' * consequence}", lines))
    for left_out in rest.values():
        named = [f"{_subject(reason)} in {_named(lines)}" for lines, reason in left_out[:MOST_NAMES]]
        if others := [line for lines, _ in left_out[MOST_NAMES:] for line in lines]:
            named.append(f"{len(left_out) - MOST_NAMES} in {_named(others)}")
        lines = [line for lines, _ in left_out for line in lines]
        texts.append((f"line {min(lines)}: {len(left_out)} more of the same kind: {', '.join(named)}", lines))
    text, whole = "", 0
    while whole < len(texts) and len(text) + len(texts[whole][0]) < MOST_CHARS:
        text += f"{texts[whole][0]}\n"
        whole += 1
    if others := [line for _, lines in texts[whole:] for line in lines]:
        text += f"line {min(others)}: {len(texts) - whole} more reasons, left out for their length, in {_named(others)}"
    return text.rstrip("\n")


def _subject(reason: str) -> str:
    """What a reason speaks of, the first name in it."""
    return found.group() if (found := re.search("`.+?`", reason)) else reason[:30]


def _named(lines: Sequence[int]) -> str:
    """Lines in words, neighbours as a range: "line 3", "lines 3–7, 9"; where that is too long, how many and where."""
    runs: list[list[int]] = []
    for line in sorted(set(lines)):
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    if len(runs) > MOST_RANGES:
        return f"{len(set(lines))} lines from {runs[0][0]} to {runs[-1][-1]}"
    return f"line{'s' * (len(set(lines)) > 1)} {', '.join('–'.join(map(str, run)) for run in runs)}"
