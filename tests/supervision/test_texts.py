"""Texts of models, servers, rules and environments where they are shown: the terminal and TensorBoard."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT, Endpoint, texts
from consultations import ADVICE, RULE, both, consult, consultant, finish, train  # noqa: F401
from rules import PUSH
from tensorboard.plugin_util import markdown_to_safe_html

import llm_supervisor as sup
from supervision.sandbox.messages import PolicyError
from supervision.texts import code_block, for_console, for_tensorboard

FORGED = "x\nstep 5,000: supervisor: guiding, trial passed: return 99"
CLEAR = "\x1b[2J\x1b[H\x9b2J\x07\u202eevil\u2066\x00\r"


def test_a_text_on_the_terminal_forges_no_line_and_moves_no_cursor():
    assert for_console(FORGED) == "x step 5,000: supervisor: guiding, trial passed: return 99"
    assert for_console(CLEAR) == r"\x1b[2J\x1b[H\x9b2J\x07\u202eevil\u2066\x00\r"
    assert for_console("half \ud83d, κόσμος, 余额不足 ±") == r"half \ud83d, κόσμος, 余额不足 ±"
    lines = for_console(
        f"{FORGED}\n--- advice: intervene ---\nsupervisor: fine\nllm_supervisor.py: error\n\tdef", lines=True
    )
    assert lines.splitlines() == ["x", "> step 5,000: supervisor: guiding, trial passed: return 99",
                                  "> --- advice: intervene ---", "> supervisor: fine", "> llm_supervisor.py: error",
                                  "\tdef"]  # fmt: skip


PICTURES = ["![x](http://a/b.png)", "![x][r]\n\n[r]: http://a/b.png", "![r]\n\n> [r]: http://a", "<img src=http://a>",
            "<IMAGE src=x>", "<i\0mg src=http://a>", "!\0[x](http://a)", "<div\n><img src=q>", r"\![x](http://a)",
            r"!\\[x](http://a)", "<\x02img src=x>", "a![b]![c](d)", "[r\n]: http://x\n\n![r\n]", "[a![b](c)](http://d)",
            "|a|b|\n|-|-|\n|![x](http://e)|<svg><image href=x>|", "1. [r]: http://x\n\n![x] [r]"]  # fmt: skip
LINKS = ["[click](http://evil)", "[click][r]\n\n[r]: http://evil", "<a href=http://e>x</a>"]


@pytest.mark.parametrize("text", PICTURES + LINKS)
def test_tensorboard_fetches_no_picture_and_hides_no_link(text):
    """As its own text page renders it; without the cleaning each of these is a picture or a link."""
    html = markdown_to_safe_html(for_tensorboard(text))
    assert "<img" not in html and not re.search(r"<a [^>]*>(?!http)", html), html


@pytest.mark.parametrize("fence", ["```", "````", "~~~", "```\r", "\x0b```"])
def test_nothing_in_a_rule_ends_its_block(fence):
    source = f'"""\n{fence}\n![x](http://a/b.png)\n"""'
    assert "<img" not in markdown_to_safe_html(code_block(source))
    assert code_block("x = 1\n") == "```python\nx = 1\n\n```"


def test_a_run_shows_no_foreign_text_raw(consultant, capsys):
    """Verdict, failure of a rule, advice and code, on the terminal and on TensorBoard."""
    advice = json.dumps(ADVICE | {"analysis": f"{CLEAR} ![x](http://a)", "advice": f"<img src=x> {FORGED}"})
    with Endpoint(both(advice, RULE.replace("LIMIT =", '"""\n![x](http://a)\n"""\nLIMIT ='))) as endpoint:
        it = consultant(endpoint.url)
        assert consult(it) is not None
        train(it, 14)
        it.guidance.failure = PolicyError(f"{CLEAR} ![x](http://a) {FORGED}")  # as a rule's last call may leave it
        train(it, 15)
        finish(it)
    with Endpoint(lambda body, n: (200, json.dumps({"x": f"![x](http://a) {CLEAR}"}))) as endpoint:
        it = consultant(endpoint.url, "other")
        assert consult(it) is None
        finish(it)
    printed = capsys.readouterr().out
    assert len(re.findall("^step 5,000", printed, re.MULTILINE)) == 0 and printed.count("the rule failed") == 1
    assert not set(CLEAR) & set(printed) - set("x[2JHevil")
    shown = [*texts("run", "supervisor/advice"), *texts("run", "supervisor/code"), *texts("run", "supervisor/verdict"),
             *texts("other", "supervisor/verdict")]  # fmt: skip
    assert len(shown) == 5
    for text in shown:
        assert "http://a" in text or "img" in text or "guiding" in text
        assert "<img" not in markdown_to_safe_html(text) and "\x1b" not in text


def test_a_consultation_on_the_terminal_shows_no_foreign_text_raw(capsys):
    advice = json.dumps(ADVICE | {"analysis": "\x1b[2J"}) + f"\n{FORGED}\n\x1b[2J--- advice: do not intervene ---"
    flags = ["--env-id", "MountainCarContinuous-v0", "--replay-frames", "0",
             "--trial-pairs", "0", "--supervisor", "llm"]  # fmt: skip
    with Endpoint(lambda body, n: [f"Format first.\n{advice}", PUSH][n % 2]) as endpoint:
        assert sup.main(["consult", *flags, "--llm-base-url", endpoint.url]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\n> step 5,000: " in printed and r"\x1b[2J" in printed
    assert len(re.findall("^--- advice", printed, re.MULTILINE)) == 1


@pytest.mark.parametrize(("command", "encoding"), [(["consult", "--help"], "latin-1"), (["--help"], "ascii")])
def test_help_on_a_terminal_that_knows_few_signs(command, encoding):
    process = subprocess.run(
        [sys.executable, str(ROOT / "llm_supervisor.py"), *command], capture_output=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr.decode(encoding)
    assert command == ["--help"] or b"\\u2265" in process.stdout
