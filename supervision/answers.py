"""What models answer: the advisor's JSON object, the coder's block of Python."""

import itertools
import json
import re
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
MAX_OBJECTS = 200  # of an answer that are tried as the advisor's: each trial may read the answer to its end
MAX_QUOTED_CHARS = 20_000  # of an unusable answer that its author is shown again


def without_thoughts(answer: str) -> str:
    """What a model says behind its think-block, whose opening tag may stand in the prompt; "" where it never ends."""
    return re.split(r"<think(?:ing)?>", re.split(r"</think(?:ing)?>", answer)[-1])[0]


def parse_advice(answer: str, has_rule: bool) -> Advice:
    """Read the advisor's JSON object, alone or inside prose or a fence.

    Args:
        has_rule: whether there is a rule that could be kept.

    Raises:
        SupervisionError: there is none, or none that says what it must.
    """
    text, decoder, problem = without_thoughts(answer), json.JSONDecoder(), ""
    for match in itertools.islice(re.finditer(r'\{\s*"', text), MAX_OBJECTS):
        try:
            data = decoder.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError):  # no JSON; a number of thousands of digits; nested too deeply
            continue
        found = _advice_problem(data, has_rule)
        if not found:
            return Advice(**{"analysis": "", **{key: data[key] for key in ADVICE_TYPES if key in data}})
        problem = problem or found
    raise SupervisionError(f"the advisor's answer is unusable: {problem or 'it holds no complete JSON object'}")


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
        elif key in needed and kind == "string" and not data[key].strip():
            problems.append(f'"{key}" must not be empty: a rule is to be written from it')
    return "; ".join(problems)


def parse_code(answer: str) -> str:
    """The coder's Python: the one fenced block that defines `policy`, or the whole answer where there is no fence."""
    text = without_thoughts(answer)
    blocks = re.findall(r"^```[^\n`]*\n(.*?)(?:^```|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    usable = [block for block in blocks if re.search(r"^def +policy *\(", block, flags=re.MULTILINE)]
    if len(usable) > 1:
        raise PolicyError("the answer holds more than one code block that defines policy(obs, t); give exactly one")
    if usable:
        return usable[0]
    if blocks:
        raise PolicyError("no code block of the answer defines policy(obs, t)")
    return text


def gist(text: str, width: int = 200) -> str:
    """A text on one line of at most `width` printable characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"
