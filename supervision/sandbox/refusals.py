"""How refusals are told: all of them, causes before consequences, in a text of bounded length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MOST_OF_A_KIND, MOST_LINES, MOST_CHARS = 6, 10, 6_000


class Refusal(NamedTuple):
    """One reason for which a source is refused."""

    consequence: bool  # of another refusal: it may be gone once that one is mended
    line: int
    kind: str
    reason: str


def summary(refusals: Sequence[Refusal]) -> str:
    """Return a line for each reason, which begins with the line of the source.

    One reason in several lines is told once, and of many reasons of one kind the first ones with the names of the rest.
    """
    lines_of: dict[tuple[bool, str, str], list[int]] = {}
    for refusal in sorted(set(refusals)):
        lines_of.setdefault((refusal.consequence, refusal.kind, refusal.reason), []).append(refusal.line)
    told: dict[str, int] = {}
    rest: dict[str, list[tuple[int, str]]] = {}
    texts = []
    for (consequence, kind, reason), lines in sorted(lines_of.items(), key=lambda item: (item[0][0], item[1], item[0])):
        told[kind] = told.get(kind, 0) + 1
        if told[kind] > MOST_OF_A_KIND:
            rest.setdefault(kind, []).append((lines[0], reason))
            continue
        texts.append(f"line {lines[0]}: {reason}{_also(lines[1:])}{' (may follow from the above)' * consequence}")
    for left_out in rest.values():
        names = [found.group() if (found := re.search("`.+?`", reason)) else reason[:30] for _, reason in left_out]
        names = [f"{name} in line {line}" for name, (line, _) in zip(names, left_out, strict=True)]
        shown = ", ".join(names[:MOST_LINES]) + (f" and {len(names) - MOST_LINES} more" * (len(names) > MOST_LINES))
        texts.append(f"line {left_out[0][0]}: {len(left_out)} more of the same kind as above: {shown}")
    text = "\n".join(texts)
    if len(text) <= MOST_CHARS:
        return text
    kept = text[: MOST_CHARS - 60].rpartition("\n")[0]
    return f"{kept}\n({len(texts) - kept.count(chr(10)) - 1} more reasons, which are left out here for their length)"


def _also(lines: Sequence[int]) -> str:
    if not lines:
        return ""
    shown = ", ".join(map(str, lines[:MOST_LINES])) + (
        f" and {len(lines) - MOST_LINES} more" * (len(lines) > MOST_LINES)
    )
    return f" (also in line{'s' * (len(lines) > 1)} {shown})"
