"""What is understood of what models write, and what is refused."""

import json
import time

import pytest
from consultations import ADVICE

from supervision.answers import SupervisionError, gist, parse_advice, parse_code
from supervision.sandbox.language import check_source
from supervision.sandbox.messages import PolicyError


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
