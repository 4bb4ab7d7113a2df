"""What models answer: the advisor's JSON object, the coder's block of Python."""

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from supervision.sandbox.messages import PolicyError


class SupervisionError(RuntimeError):
    """A model or its server gave no usable answer; the window goes unguided."""


@dataclass
class Advice:
    """The advisor's decision for one window."""

    analysis: str
    intervene: bool
    advice: str = ""
    keep_current_policy: bool = False


ADVICE_TYPES = {"analysis": "string", "intervene": "boolean", "advice": "string", "keep_current_policy": "boolean"}
ADVICE_SCHEMA = {
    "type": "object", "properties": {key: {"type": kind} for key, kind in ADVICE_TYPES.items()},
    "required": list(ADVICE_TYPES), "additionalProperties": False,
}  # fmt: skip
MAX_ANSWER_CHARS = 400_000  # of an answer, thoughts included; a longer one is refused
MAX_OBJECTS = 200  # of an answer that are tried as the advisor's and fail: each trial may read the answer to its end
MAX_REPAIRED_CHARS, MAX_REPAIRED_DEPTH = 20_000, 20  # of an object that is nearly JSON; json_repair is slow with more
MAX_SEARCHED_CHARS = 60_000  # of an answer, for the ends of such objects
CUT = "; the server cut the answer at its limit of tokens, so be shorter"
PLACEHOLDER = re.compile(r"\s*(?:\.{3}|…|<[^<>]*>)?\s*")  # nothing, or what stands in an example of the format
FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})([^\n]*)")
DEFINES_POLICY = re.compile(r"^def[ \t]+policy[ \t]*\(", re.MULTILINE)
QUOTES = {'"': '"', "'": "'", "“": "”"}
CLOSING = re.compile(r"\s*(?:[,:}\]，：]|//|/\*|#|$)")  # what follows a quote that ends a string, and is no part of it
COMMENT = re.compile(r"(?://|#)[^\n]*|/\*[\s\S]{0,2000}?\*/")
MAX_QUOTED_CHARS = 20_000  # of an unusable answer that its author is shown again


def without_thoughts(answer: str) -> str:
    """What a model says behind its think-block, whose opening tag may stand in the prompt; "" where it never ends."""
    return re.split(r"<think(?:ing)?>", re.split(r"</think(?:ing)?>", answer)[-1])[0]


def parse_advice(answer: str, has_rule: bool, cut: bool = False) -> Advice:
    """Read the advisor's JSON object, alone or inside prose or a fence: the last one that says what it must.

    An object that is no strict JSON is read as it is meant where that is clear: line breaks in a string, a comma too
    many, comments, the quotes and names of Python, `\\_`.

    Args:
        has_rule: whether there is a rule that could be kept.
        cut: whether the server ended the answer before the model did.

    Raises:
        SupervisionError: there is none, or none that says what it must.
    """
    text = without_thoughts(answer)
    usable, problem, end = None, "", 0
    for outer, after in _objects(text):
        data = _unwrapped(outer)
        found = _advice_problem(data, has_rule)
        example = _is_example(data)
        if not found and (usable is None or not example):
            usable = data
        if not found or example:
            end = after
        problem = problem or found
    if re.search(r"\{[^{}]*?\bintervene[\"'”]?\s*:", text[end:]):  # an answer behind an example, and no usable one
        usable, problem = None, problem if usable is None else ""
    if usable is None:
        problem = problem or f"it holds no complete JSON object{_where(text, end)}"
        raise SupervisionError(f"the advisor's answer is unusable: {problem}{CUT if cut else ''}")
    return Advice(**{"analysis": "", **{key: usable[key] for key in ADVICE_TYPES if key in usable}})


def _objects(text: str) -> Iterator[tuple[dict, int]]:
    """The objects of a text that are not within each other and their ends, in their order."""
    decoder, end, failed, searched = json.JSONDecoder(strict=False), 0, 0, 0
    for match in re.finditer(r"""\{\s*["'“/#\w}]""", text):
        if match.start() < end:
            continue
        if failed == MAX_OBJECTS:
            return
        try:
            data, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):  # no JSON; a number of thousands of digits; nested too deeply
            failed += 1
            end = _end(text, match.start(), min(MAX_REPAIRED_CHARS, MAX_SEARCHED_CHARS - searched))
            searched += abs(end) - match.start()
            data = _repaired(text[match.start() : end]) if end > 0 else None
            end = end if data is not None else match.start() + 1
        if data is not None:
            yield data, end


def _end(text: str, start: int, most: int) -> int:
    """Where an object that is nearly JSON ends; where it does not, as a negative number, how far it was looked for."""
    depth, quote, i, most = 0, "", start, min(len(text), start + most)
    while i < most:
        c = text[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote and CLOSING.match(text, i + 1):
                quote = ""
        elif c in QUOTES:
            quote = QUOTES[c]
        elif c in "{[":
            depth += 1
            if depth > MAX_REPAIRED_DEPTH:
                break
        elif c in "}]":
            depth -= 1
            if depth == 0:
                return i + 1
        elif comment := COMMENT.match(text, i):
            i = comment.end() - 1
        i += 1
    return -min(i, most)


def _repaired(text: str) -> dict | None:
    import json_repair  # here: only where an answer needs it

    text = re.sub(r"(?<=[\"'”])\s*：", ":", re.sub(r"，(?=\s*[\"'“])", ",", text))  # from a Chinese keyboard
    try:
        data = json_repair.loads(text, skip_json_loads=True, strict=True)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _where(text: str, start: int) -> str:
    """Where the first thing from there on that looks like an object stops being JSON; "" where nothing does."""
    match = re.compile(r"""\{\s*["'“]""").search(text, start)
    if match is None:
        return ""
    try:
        json.JSONDecoder(strict=False).raw_decode(text, match.start())
    except json.JSONDecodeError as error:
        near = gist(text[max(0, error.pos - 20) : error.pos + 20], 40)
        return f" (line {error.lineno}, column {error.colno}: {error.msg}, near `{near}`)"
    except (ValueError, RecursionError) as error:
        return f" ({gist(str(error), 80)})"
    return ""


def _unwrapped(data: dict) -> dict:
    """The one object within an object that is the advisor's, as in {"answer": {"intervene": …}}; else the object."""
    inner, left = [], [data]
    while left and len(inner) < 2:
        value = left.pop()
        if isinstance(value, dict) and "intervene" in value:
            inner.append(value)
        elif isinstance(value, (dict, list)):
            left += value.values() if isinstance(value, dict) else value
    return inner[0] if len(inner) == 1 else data


def _is_example(data: dict) -> bool:
    """Whether an object shows the format only."""
    return any(isinstance(data.get(key), str) and data[key].strip() and PLACEHOLDER.fullmatch(data[key])
               for key in ("analysis", "advice"))  # fmt: skip


def _advice_problem(data: dict, has_rule: bool) -> str:
    """What ADVICE_SCHEMA has against an object, less what small models leave out and nobody misses.

    That is the analysis, whether to keep the rule (no), and the advice where no coder will read it. Keys beside those
    of the schema are passed over.
    """
    needed = {"intervene"}
    if data.get("intervene") is True and not (has_rule and data.get("keep_current_policy") is True):
        needed.add("advice")
    problems = []
    for key, kind in ADVICE_TYPES.items():
        if key in needed and key not in data:
            problems.append(f'"{key}" is missing')
        elif key in data and not isinstance(data[key], str if kind == "string" else bool):
            problems.append(f'"{key}" must be {"a string" if kind == "string" else "true or false"}')
        elif key in needed and kind == "string" and PLACEHOLDER.fullmatch(data[key]):
            problems.append(f'"{key}" must not be empty: a rule is to be written from it')
    if "advice" in needed and problems and data.get("keep_current_policy") is True and not has_rule:
        problems.insert(0, '"keep_current_policy" must be false: there is no current policy that could be kept')
    return "; ".join(problems)


def parse_code(answer: str, cut: bool = False) -> str:
    """The coder's Python: the one block of code that defines `policy`, or the whole answer where it is code alone.

    A block stands in a fence of ``` or ~~~, which may be indented, or is itself indented amid prose.

    Args:
        cut: whether the server ended the answer before the model did.

    Raises:
        PolicyError: there is no such block, or more than one.
    """
    text = without_thoughts(answer).removeprefix("\ufeff")
    blocks, ended = _fenced(text)
    usable = [block for block in blocks if DEFINES_POLICY.search(block)]
    if cut and (not ended or not usable):
        raise PolicyError(f"no complete code block{CUT}")
    if len(usable) > 1:
        raise PolicyError("the answer holds more than one code block that defines policy(obs, t); give exactly one")
    if usable:
        return usable[0]
    if blocks:
        raise PolicyError("no code block of the answer defines policy(obs, t)")
    if DEFINES_POLICY.search(text):
        return text
    indented = "\n".join(line if re.match(r"[ ]{4}|\t", line) else "" for line in text.splitlines())
    if DEFINES_POLICY.search(code := textwrap.dedent(indented)):
        return code
    raise PolicyError("the answer holds no code block: give one fenced block of Python that defines policy(obs, t)")


def _fenced(text: str) -> tuple[list[str], bool]:
    """The contents of a text's fences, without the fence's own indentation, and whether the last one is closed."""
    blocks, fence, indented = [], "", False
    for line in text.splitlines(keepends=True):
        match = FENCE.match(line)
        if match and not fence and "`" in match[3]:  # code within a line
            match = None
        if match and match[2].startswith(fence):
            if indented and fence:
                blocks[-1] = [textwrap.dedent("".join(blocks[-1]))]
            opens = not fence or match[3].strip()  # what is not closed ends where the next one begins
            fence, indented = (match[2], bool(match[1])) if opens else ("", False)
            if opens:
                blocks.append([])
        elif fence:
            blocks[-1].append(line)
    texts = ["".join(block) for block in blocks]
    if indented:
        texts[-1] = textwrap.dedent(texts[-1])
    return texts, not fence


def gist(text: str, width: int = 200) -> str:
    """A text on one line of at most `width` printable characters, cut between two words where it has any."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    if len(line) <= width:
        return line
    words = line[: width - 1].rpartition(" ")[0]  # with " …" as long as allowed
    return f"{words} …" if words else line[: width - 1] + "…"
