"""Ordinary code passes the check and runs; what does not pass is told what to write instead."""

import functools
import re
from symtable import symtable

import numpy as np
import pytest
from constructs import EXPRESSIONS, HEAD, REPLACED, WHOLE, body, expressions
from hypothesis import given
from hypothesis import strategies as st
from sandboxed import call, make, needs_linux, nothing_left  # noqa: F401

from supervision.sandbox.lanes import Lanes
from supervision.sandbox.language import check_source
from supervision.sandbox.messages import PolicyError
from supervision.sandbox.refusals import MOST_CHARS, Refusal, summary
from supervision.sandbox.state import keeps_state, uses_random

pytestmark = needs_linux


def test_the_bank_is_large():
    assert len(expressions()) + len(WHOLE) >= 200 and EXPRESSIONS


def test_the_bank_s_expressions_run_as_they_would_in_process():
    """All in one rule; each one's value, as text, is that of plain Python (what is random has a shape and no more)."""
    names = expressions()
    lines = "".join(f"def e{i}(v, x, n, a):\n    return {text}\n" for i, text in enumerate(names))
    functions = ", ".join(f"e{i}" for i in range(len(names)))
    source = HEAD + "WANTED = None\n" + lines + f"ALL = [{functions}]\n" + body(
        """
        values = []
        for e in ALL:
            y = e(obs, 0.5, 3, np.arange(6.0).reshape(2, 3))
            y = np.abs(np.sum(np.array(y) * 1.0)) if isinstance(y, (int, float, np.ndarray, np.number)) else len(str(y))
            values.append(float(np.nan_to_num(y, posinf=7.0)))
        return values
        """
    )  # fmt: skip
    bound = np.full(len(names), 1e9)
    obs = np.array([0.25, -0.5, 2.0])
    scope: dict = {}
    exec(source, scope)
    expected = np.array(scope["policy"](obs.copy(), 0))
    with make(source, (3,), -bound, bound, call_timeout=5.0) as policy:
        actions = policy(obs[None], np.array([0]))[0]
    fixed = ["random" not in name for name in names]
    assert [name for name, ok in zip(names, (actions == expected) | ~np.array(fixed), strict=True) if not ok] == []


def kind(source: str) -> tuple[bool, bool]:
    """Whether a rule may keep something, and whether it draws random numbers; as the parent tells its child."""
    tree = check_source(source)
    return keeps_state(tree), uses_random(tree)


@functools.cache
def in_process(name: str) -> np.ndarray:
    """What a construct returns at its first two steps, restricted to the language but not confined, (2, 2)."""
    rule = Lanes(WHOLE[name], 0, True, *kind(WHOLE[name])).rule(0, 0)
    return np.array([rule(np.zeros(3), t) for t in (0, 1)], dtype=np.float64)


@pytest.mark.parametrize("name", WHOLE)
def test_the_bank_s_constructs_are_allowed(name):
    assert np.abs(in_process(name)).max() <= 1.0


def bundles() -> dict[str, list[str]]:
    """The bank's constructs, by the first, in bundles of one kind without a name of the top level in common."""
    found: list[tuple[tuple[bool, bool], set[str], list[str]]] = []
    for name in sorted(WHOLE, key=lambda name: "__future__" not in WHOLE[name]):  # that is a source's first line
        symbols = symtable(WHOLE[name], name, "exec").get_symbols()
        own = {s.get_name() for s in symbols if s.is_assigned() and not s.is_imported()} - {"policy"}
        for of_kind, taken, names in found:
            if of_kind == kind(WHOLE[name]) and not own & taken:
                taken |= own
                names.append(name)
                break
        else:
            found.append((kind(WHOLE[name]), own, [name]))
    return {names[0]: names for _, _, names in found}


@pytest.mark.parametrize("names", bundles().values(), ids=bundles())
def test_the_bank_s_constructs_run_confined_as_they_do_in_process(names):
    """Those of a bundle are one source, each with its `policy` under a name of its own."""
    renamed = [re.sub(r"\bpolicy\b", f"policy_{i}", WHOLE[name]) for i, name in enumerate(names)]
    calls = ", ".join(f"policy_{i}(obs, t)" for i in range(len(names)))
    source = "\n".join([*renamed, "import numpy as np", body(f"return np.concatenate([{calls}])")])
    assert kind(source) == kind(WHOLE[names[0]])
    bound = np.ones(2 * len(names))
    with make(source, low=-bound, high=bound) as policy:
        actions = np.concatenate([call(policy, 0), call(policy, 1)])
    for i, name in enumerate(names):
        assert actions[:, 2 * i : 2 * i + 2].tobytes() == in_process(name).tobytes(), name


@pytest.mark.parametrize("name", REPLACED)
def test_a_refusal_names_what_to_write_instead(name):
    source, instead = REPLACED[name]
    with pytest.raises(PolicyError, match=f"^line .*{instead}"):
        check_source(source)


def test_a_dictionary_s_keys_make_no_set():
    """A set of strings has another order in each process."""
    for text in ("{'a': 1}.keys() | {'b': 2}.keys()", "{'a': 1}.items() & [('a', 1)]", "dict.keys({'a': 1}) ^ 'ab'"):
        with (
            make(body(f"return [len({text}), 0.0]")) as policy,
            pytest.raises(PolicyError, match="unsupported operand"),
        ):
            call(policy, 0)
    with pytest.raises(PolicyError, match=r"line 2: `\.keys` may only be called"):
        check_source(body("keys = {'a': 1}.keys\nreturn [len(keys()), 0.0]"))
    rule = body("d = {'b': 0.5, 'a': 0.25}\nfor k, v in d.items(): pass\nreturn [v, d[list(d.keys())[0]]]")
    with make(rule) as policy:
        assert call(policy, 0).tolist() == [[0.25, 0.5]]


def test_a_refusal_names_every_line():
    lines = ["import os", "x = eval('1')", "@print", "def f(): return f'{x}'"]
    lines += [f"y{i} = undefined_{i}" for i in range(9)] + ["z = np.empty(2)"] * 3
    with pytest.raises(PolicyError) as caught:
        check_source("\n".join(lines) + "\n")
    text = str(caught.value)
    for line in (1, 2, 4, 14):
        assert f"line {line}: " in text
    assert "(also in lines 15–16)" in text  # one reason once, with all its lines
    assert all(f"`undefined_{i}`" in text for i in range(9)) and "more of the same kind" in text


def lines_named(text: str) -> set[int]:
    """All lines of a source of which a refusal speaks."""
    named: set[int] = set()
    for listed in re.findall(r"\blines? ((?:\d+(?:–\d+)?(?:, (?=\d))?)+)", text):
        for first, _, last in (part.partition("–") for part in listed.split(", ")):
            named |= set(range(int(first), int(last or first) + 1))
    return named


def test_a_refusal_of_many_names_leaves_no_line_out():
    with pytest.raises(PolicyError) as caught:
        check_source(body("\n".join(f"x{i} = undefined_{i}" for i in range(30)) + "\nreturn [0.0, 0.0]"))
    text = str(caught.value)
    assert lines_named(text) == set(range(2, 32))
    assert text.endswith("\nline 8: 24 more of the same kind: " + ", ".join(
        f"`undefined_{i}` in line {i + 2}" for i in range(6, 16)) + ", 14 in lines 18–31")  # fmt: skip


REFUSALS = st.builds(
    Refusal, st.booleans(), st.integers(1, 60), st.sampled_from(["name", "syntax"]),
    st.sampled_from([f"`thing_{i}` is not known. {'Why. ' * 60}" for i in range(20)]),
)  # fmt: skip


@given(st.lists(REFUSALS, min_size=1, max_size=300))
def test_whatever_is_refused_every_line_is_named_and_the_text_is_bounded(refusals):
    text = summary(refusals)
    assert lines_named(text) == {refusal.line for refusal in refusals}
    assert len(text) < MOST_CHARS + 500


def test_causes_come_before_consequences():
    source = (
        "x = 1\n"
        + body("import random\nreturn [random.gauss(0, 1), __name__]")
        + "class A:\n    def f(self): eval(1)\n"
    )
    with pytest.raises(PolicyError) as caught:
        check_source(source)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["line 3", "line 4", "line 5", "line 4", "line 6"]
    assert [line.endswith("(may follow from the above)") for line in lines] == [False] * 3 + [True] * 2


def test_a_refusal_of_very_many_lines_is_bounded():
    source = body("\n".join(f"obs.attribute_{i} = name_{i}(lambda: np.thing_{i})" for i in range(1_000)))
    with pytest.raises(PolicyError) as caught:
        check_source(source)
    text = str(caught.value)
    assert len(text) <= MOST_CHARS and "994 more of the same kind" in text and ", 984 in lines 18–1001" in text
