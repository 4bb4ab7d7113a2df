"""What is understood of what models write, and what is refused."""

import json
import textwrap
import time

import pytest
from consultations import ADVICE
from hypothesis import given
from hypothesis import strategies as st

from supervision.answers import Advice, SupervisionError, gist, parse_advice, parse_code
from supervision.sandbox.language import check_source
from supervision.sandbox.messages import PolicyError


@given(st.lists(st.text("ab,", min_size=1, max_size=30), min_size=1, max_size=60), st.integers(10, 200))
def test_a_gist_is_cut_between_words(words, width):
    short = gist(" ".join(words), width)
    assert len(short) <= width
    if len(" ".join(words)) <= width:
        assert short == " ".join(words)
    elif len(words[0]) <= width - 2:
        told = short.removesuffix(" …").split(" ")
        assert short.endswith(" …") and told == words[: len(told)]
        assert len(" ".join([*told, words[len(told)]])) + 2 > width  # not one word less than there is space for


@pytest.mark.parametrize(
    "text",
    ["{" * 400_000, '{"' * 200_000, '{"a":' * 80_000, '{"a":[' * 60_000, "{ " * 200_000 + '"', '{"a": 1}\n' * 40_000,
     "<think>" * 50_000, "</think>" * 50_000, "```\n" * 100_000, "```python\n" * 40_000, "`" * 400_000,
     "def policy(" * 36_000, " " * 400_000, "\n" * 400_000, '{"a": ' + "9" * 390_000, "\\" * 400_000],
    ids=lambda text: f"{text[:12]!r} {len(text)}",
)  # fmt: skip
def test_no_answer_takes_long_to_read(text):
    started = time.process_time()
    with pytest.raises(SupervisionError):
        parse_advice(text, has_rule=True)
    try:
        check_source(parse_code(text))
    except PolicyError:
        pass
    else:
        pytest.fail("such a text is no rule")
    gist(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (json.dumps(ADVICE | {"intervene": "yes"}), '"intervene" must be true or false$'),
        (json.dumps(ADVICE | {"advice": None}), '"advice" must be a string$'),
        (json.dumps(ADVICE | {"keep_current_policy": 1}), '"keep_current_policy" must be true or false$'),
        ('{"analysis": 1, "intervene": true, "keep_current_policy": "no"}',
         '"analysis" must be a string; "advice" is missing; "keep_current_policy" must be true or false$'),
        ('{"intervene": true, "advice": ["push"]}', 'unusable: "advice" must be a string$'),
        ('{"intervene": 1, "plan": {"a": 1}} {"b": 2}', 'unusable: "intervene" must be'),
    ],
)  # fmt: skip
def test_advice_is_held_against_the_schema(answer, problem):
    with pytest.raises(SupervisionError, match=problem):
        parse_advice(answer, has_rule=True)


TEXT = json.dumps(ADVICE)
MEANT = {  # an answer, and what differs from ADVICE in what it means
    "a line break in a string": (TEXT.replace("it stands", "it\nstands"), {"analysis": "it\nstands still"}),
    "a tab in a string": (TEXT.replace("it stands", "it\tstands"), {"analysis": "it\tstands still"}),
    "a comma too many": (TEXT.replace("false}", "false,\n}"), {}),
    "a comma too few": (TEXT.replace(", ", "\n"), {}),
    "comments": (TEXT.replace('"intervene"', '// it isn\'t "there"\n# hm\n/* hm, } */ "intervene"'), {}),
    "Python": (repr(ADVICE), {}),
    "Python with an apostrophe": (repr(ADVICE | {"analysis": "it isn't there"}), {"analysis": "it isn't there"}),
    "one that is not escaped": (repr(ADVICE).replace("it stands", "it doesn't go and stands"),
                                {"analysis": "it doesn't go and stands still"}),
    "an escape that is none": (TEXT.replace("push", r"push x\_pos"), {"advice": r"push x\_pos to the right"}),
    "LaTeX": (TEXT.replace("push", r"push \(x\)"), {"advice": r"push \(x\) to the right"}),
    "quotes within": (TEXT.replace("it stands", 'it "stands" here'), {"analysis": 'it "stands" here still'}),
    "round quotes": ("{" + ", ".join(f"“{k}”: {json.dumps(v) if v in (True, False) else f'“{v}”'}"
                                     for k, v in ADVICE.items()) + "}", {}),
    "keys without quotes": ("{analysis: 'it stands still', intervene: true, advice: 'push to the right'}", {}),
    "fenced, with all of it": ("Sure:\n```json\n" + repr(ADVICE)[:-1] + ", # done\n}\n```\nBye {.", {}),
    "an example before": ('As {"analysis": "why", "intervene": false, "advice": "what", "keep_current_policy": true}:\n'
                          + TEXT, {}),
    "a template before": ('{"analysis": "...", "intervene": true/false, "advice": "<text>"}\n' + TEXT, {}),
    "a template behind": (TEXT + '\nAs {"analysis": "...", "intervene": false, "advice": ""} asked.', {}),
    "braces in the prose behind": (TEXT + " The set {1, 2}, {x} and {.", {}),
    "a byte-order mark": ("\ufeff" + TEXT, {}),
    "signs of a Chinese keyboard": (TEXT.replace('": ', '"：').replace(', "', '，"').replace("still", "，：still"),
                                    {"analysis": "it stands ，：still"}),
    "within another object": (json.dumps({"id": 7, "answer": ADVICE}), {}),
    "deep within another object": (json.dumps({"choices": [{"id": 7, "answer": ADVICE}]}), {}),
    "within a list": (json.dumps([ADVICE]), {}),
    "blanks that do not break": (TEXT.replace(": ", ":\u00a0"), {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEANT)
def test_an_answer_that_is_nearly_json_is_read_as_it_is_meant(kind):
    answer, changes = MEANT[kind]
    assert parse_advice(answer, has_rule=True) == Advice(**(ADVICE | changes))


UNCLEAR = {  # an answer, and what is said of it
    "cut in a key": (
        TEXT[:-10],
        r"no complete JSON object \(line 1, column 83: Unterminated string .* near `.*keep_cur",
    ),
    "cut in the advice, behind braces": (TEXT.replace("push", "push {1} and [2]")[:-60], "no complete JSON object"),
    "cut after an example": (
        TEXT + " So: " + TEXT[:-20],
        r"no complete JSON object \(line 1, column \d+: Unterminated",
    ),
    "refused after an example": (TEXT + " So: " + TEXT.replace("true", '"yes"'), "unusable: "),
    "what is wrong and where": (
        '{"analysis": "x",\n"intervene" true, "advice": "y"',
        "line 2, column 13: Expecting ':'",
    ),
    "an empty template": (
        '{"analysis": "...", "intervene": true, "advice": "<what to do>"}',
        '"advice" must not be empty',
    ),
    "Python's name for neither": (repr(ADVICE | {"intervene": None}), '"intervene" must be true or false'),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_nothing_is_made_up(kind):
    """What is missing or broken is not guessed; it is said what is wrong and where, on one line."""
    answer, problem = UNCLEAR[kind]
    for cut in (False, True):
        with pytest.raises(SupervisionError, match=problem) as e:
            parse_advice(answer, has_rule=True, cut=cut)
        assert "\n" not in str(e.value) and str(e.value).endswith("so be shorter") == cut


@pytest.mark.parametrize("advice", ["", None])
def test_a_rule_that_is_not_there_cannot_be_kept(advice):
    """Said where nothing could be written instead."""
    answer = {"intervene": True, "keep_current_policy": True} | ({} if advice is None else {"advice": advice})
    assert parse_advice(json.dumps(answer), has_rule=True).keep_current_policy
    with pytest.raises(SupervisionError, match='"keep_current_policy" must be false: there is no current policy'):
        parse_advice(json.dumps(answer), has_rule=False)


@pytest.mark.parametrize(
    "text",
    ["{" * 19 + '"' + "}" * 19, '{"' * 19 + '"}' * 19, '{"a":"x":"a":"x":' * 1_000 + "}", "{'" + "a, '" * 4_500 + "}",
     '{"a": ' + "[[[[[1]]]]]," * 1_600 + "}", "{a:" * 9 + "a:" * 9_000 + "}" * 9, '{"a":"' + "\\u12" * 4_000 + '"}',
     "{" + "/*" * 9_000 + "}", '{"a": "' + "\\" * 19_000 + '"}', '{"a":' + "True" * 4_700 + "}",
     "{" + " \n" * 9_000 + "}x"],
    ids=lambda text: f"{text[:12]!r} {len(text)}",
)  # fmt: skip
def test_no_answer_that_is_nearly_json_takes_long(text):
    """Once, and as often as an answer can hold it."""
    for answer in (text, text * (400_000 // len(text))):
        started = time.process_time()
        with pytest.raises(SupervisionError):
            parse_advice(answer, has_rule=True)
        assert time.process_time() - started < 1


CODE = "import numpy as np\n\n\ndef policy(obs, t):\n    return 0.5\n"
BLOCKS = {
    "a fence": f"```python\n{CODE}```",
    "without a language": f"```\n{CODE}```",
    "tildes": f"~~~python\n{CODE}~~~",
    "a longer fence": f"`````py\n{CODE}`````",
    "an indented fence": "1. Here it is:\n\n" + textwrap.indent(f"```python\n{CODE}```\n", "   ") + "\n2. Done.",
    "tildes, indented": textwrap.indent(f"~~~\n{CODE}~~~", "\t"),
    "an indented block": "Here it is:\n\n" + textwrap.indent(CODE, "    ") + "\nDone, I hope.",
    "never closed": f"Sure.\n~~~python\n{CODE}",
    "no fence": CODE,
    "a byte-order mark": f"\ufeff{CODE}",
    "tildes within": f"```python\n{CODE}```\n~~~text\npolicy\n~~~",
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_code_is_found_however_it_is_set_off(kind):
    assert parse_code(BLOCKS[kind]).strip() == CODE.strip()
    check_source(parse_code(BLOCKS[kind]))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("I would push the car.", "^the answer holds no code block: give one fenced block of Python"),
        ("", "^the answer holds no code block"),
        ("Define policy(obs, t) as a function.\ndefine it", "^the answer holds no code block"),
        ("```python\nprint(1)\n```", "^no code block of the answer defines policy"),
        (BLOCKS["tildes"] + "\n" + BLOCKS["a fence"], "^the answer holds more than one code block"),
    ],
)
def test_an_answer_without_code_is_said_to_have_none(answer, problem):
    with pytest.raises(PolicyError, match=problem):
        parse_code(answer)


def test_a_cut_block_is_not_run():
    """Half of a function may be a function."""
    for answer in (f"```python\n{CODE}", f"```python\n{CODE[:30]}", "Let me see"):
        with pytest.raises(
            PolicyError, match="no complete code block; the server cut the answer at its limit of tokens"
        ):
            parse_code(answer, cut=True)
    assert parse_code(f"```python\n{CODE}```\nAnd so on, and", cut=True) == CODE


def test_code_that_needs_no_mending_is_left_as_it_is():
    """To the last blank: a recorded run shows it to the advisor."""
    odd = "def policy(obs, t):\n    x = '''\n   \n'''\n  \t\n    return 0.5  \n\n"
    assert parse_code(f"```python\n{odd}```") == odd and parse_code(odd) == odd
