"""An environment's docstring as background of a prompt: without what no rule needs, and not too long."""

import re

DOC_CHARACTERS = 8_000  # that are kept, at most, unless rewards and endings alone are longer; Humanoid's has 30,000
# Sections that say nothing of the task: how it is constructed, who wrote it and when.
DROPPED = r"arguments|reset arguments|version (changes|history)|references?|credits?|citations?|vectori[sz]ed.*|usage"
KEPT = r".*(reward|termination|truncation|episode end|success|goal).*"  # whole, however long the rest is
FIGURE = r"""^\s*(?:!\[[^\]]*\]\([^)]*\)|<img\b.*|\.\.\s+(?:image|figure)::.*)\s*$"""
FENCED_FIGURE = r"^```\{(?:figure|image)\}.*?^```[ \t]*\n?"


def documentation(doc: str, most: int = DOC_CHARACTERS) -> str:
    """A docstring without tables of keywords, version history and figures; where it must be shortened, rewards and the
    end of an episode stay whole.

    Args:
        most: characters.
    """
    text = re.sub(FENCED_FIGURE, "", doc, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(FIGURE, "", text, flags=re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(
        r"^ *\|.*$", lambda row: re.sub(r"-{3,}", "---", re.sub(" {2,}", " ", row[0])), text, flags=re.MULTILINE
    )
    sections = [s for s in _sections(text) if not re.fullmatch(DROPPED, _title(s), flags=re.IGNORECASE)]
    if not sections:
        return doc[:most]
    whole = [bool(re.fullmatch(KEPT, _title(s), flags=re.IGNORECASE)) for s in sections]
    left = most - sum(len(s) for s, kept in zip(sections, whole, strict=True) if kept)
    others = sorted(len(s) for s, kept in zip(sections, whole, strict=True) if not kept)
    each = 0  # characters that a shortened section may have: the same for all, and short ones leave theirs to long ones
    for i, length in enumerate(others):
        each = max(left, 0) // (len(others) - i)
        if length > each:
            break
        left, each = left - length, length
    parts = [s if kept or len(s) <= each else _shortened(s, each) for s, kept in zip(sections, whole, strict=True)]
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(part for part in parts if part)).strip()


def _sections(text: str) -> list[str]:
    """The text cut before each heading, whose lines may be of Markdown or underlined; subsections stay in theirs."""
    text = re.sub(r"^(\S.*)\n([=\-~])\2{3,}[ \t]*$", r"## \1", text, flags=re.MULTILINE)
    parts, fenced = [[]], False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if re.match(r" {0,3}## +\S", line) or (not fenced and re.match(r" {0,3}# +\S", line)):
            parts.append([])
        parts[-1].append(line)
    return [section for part in parts if (section := "\n".join(part).strip())]


def _title(section: str) -> str:
    """The heading of a section, without marks; "" of what stands before the first."""
    match = re.match(r" {0,3}#+ +(.*?)[:\s]*(?:\n|$)", section)
    return match[1] if match else ""


def _shortened(section: str, most: int) -> str:
    """The first lines of a section, and that it was cut."""
    kept, length = [], 0
    for line in section.splitlines():
        length += len(line) + 1
        if length > most - 60:
            break
        kept.append(line)
    if not kept:
        return ""
    return "\n".join([*kept, f"[cut here: {len(section):,} characters]"])
