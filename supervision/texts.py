"""Texts of others (models, servers, rules, environments) made harmless where they are shown."""

import io
import re
import sys

OURS = re.compile(
    r"^(?=--- |step [\d,]+|supervisor\b|error\b|\w+\.py: )", re.MULTILINE
)  # how the run's own lines begin


def tolerate_any_terminal() -> None:
    """Let no character end a program whose terminal or file cannot show it: `≥` becomes `\\u2265` there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str) -> str:
    """A text whose control characters and half or invisible characters are written as escapes."""
    text = text.replace("\r\n", "\n")
    if text.replace("\n", "").replace("\t", "").isprintable():  # as nearly every text is: a hundred times as fast
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def for_console(text: str, lines: bool = False) -> str:
    """A text for the terminal: it moves no cursor, and no part of it can pass for a line of the run's own.

    Args:
        lines: whether it may have several lines; else it is put on one.
    """
    text = visible(text)
    return OURS.sub("> ", text) if lines else " ".join(text.split())


def say(line: str) -> None:
    """Print a line of the run's own, whatever foreign text it holds."""
    print(for_console(line), flush=True)


def in_one_line(error: Exception) -> str:
    """What went wrong, for the terminal."""
    return for_console((f"{type(error).__name__}: {error}".splitlines() or [""])[0])


def for_tensorboard(text: str) -> str:
    """A text for TensorBoard, which reads Markdown and HTML: no picture is fetched, no link hides where it leads."""
    text = re.sub(r"!(?=\[)|(?<=\])(?=[(\[])", lambda m: f"{m[0]}\\", visible(text))
    text = re.sub(
        r"^([ \t>*+\-.)\d]*)\[", r"\1\\[", text, flags=re.MULTILINE
    )  # a line that says what a link's name means
    return re.sub(r"<(?=\s*(im|a\b))", "&lt;", text, flags=re.I)


def code_block(source: str) -> str:
    """A rule as a block of code that nothing in it can close."""
    longest = max((len(run) for run in re.findall("`+", source)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{visible(source)}\n{fence}"
