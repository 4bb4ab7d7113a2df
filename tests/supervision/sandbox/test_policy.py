"""The sandbox with real child processes: honest policies give the same bits, every other one gives a PolicyError."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sandboxed import (
    HARMLESS,
    body,
    call,
    call_discrete,
    descriptors,
    make,
    make_discrete,
    needs_linux,
    nothing_left,  # noqa: F401
    pid_of,
    run_parent,
    stat_of,
)

from supervision.sandbox import language
from supervision.sandbox import policy as sandbox
from supervision.sandbox.messages import BoxAction, Observation, PolicyError
from supervision.sandbox.policy import SandboxedPolicy
from supervision.sandbox.wire import MAX_TEXT_CHARS

pytestmark = needs_linux

# --- honest policies ---

HONEST = {
    "list": body("return [math.sin(obs[0]) * 0.1, -0.0]"),
    "array": body("return np.tanh(obs[:2] * 0.37 + t)"),
    "float32": body("return np.asarray(obs[:2] / 7, dtype=np.float32)"),
    "integers": body("return (t % 2, -1)"),
    "booleans": body("return obs[:2] > 0"),
    "helpers": "GAINS = np.array([0.3, 0.1, -0.2])\n"
    "def clip(x):\n    return max(-1.0, min(1.0, x))\n"
    + body("s = sum(g * x for g, x in zip(GAINS, obs))\nreturn [clip(s), clip(s ** 2 - t)]"),
    "state": "memory = {'n': 0}\n" + body("memory['n'] += 1\nreturn [1.0 / memory['n'], obs[1]]"),
    "keeps an observation": "kept = []\n" + body("kept.append(obs)\nreturn kept[0][:2]"),
    "catches its errors": body("try:\n    return [1 / 0, 0]\nexcept ZeroDivisionError:\n    return [0.25, obs[2]]"),
    "numpy warnings": body("x = np.log(np.zeros(1))[0]\nreturn [0.5 if x < 0 else 0.0, 0.0]"),
    "prints": body("for _ in range(200):\n    print('x' * 1000, flush=True)\nreturn [0.5, 0.5]"),
}


def in_process(source: str):
    scope = {"np": np, "math": __import__("math"), "print": lambda *values, **options: None}
    exec(source, scope)
    return scope["policy"]


@pytest.mark.parametrize("name", HONEST)
def test_same_bits_as_in_process(name):
    generator = np.random.default_rng(3)
    references = [in_process(HONEST[name]) for _ in range(7)]  # each row's environment has its own copy
    with make(HONEST[name]) as policy:
        assert policy.source == HONEST[name]
        for rows, first in ((1, 0), (1, 1), (7, 2), (7, 9)):
            obs, t = generator.uniform(-1, 1, (rows, 3)), np.arange(first, first + rows)
            with warnings.catch_warnings(action="ignore"):
                expected = np.array(
                    [r(o.copy(), int(k)) for r, o, k in zip(references, obs, t, strict=False)], dtype=np.float64
                )
            actions = policy(obs, t)
            assert actions.dtype == np.float64
            assert actions.shape == (rows, 2)
            assert actions.tobytes() == expected.tobytes()


@pytest.mark.parametrize("obs_shape", [(), (4, 5), (2, 3, 2)])
def test_observations_and_actions_of_any_rank(obs_shape):
    source = body(f"assert obs.shape == {obs_shape} and obs.dtype == np.float64\nreturn np.full((2, 3), obs.sum())")
    obs = np.random.default_rng(0).uniform(-1, 1, (7, *obs_shape))
    bound = np.full((2, 3), 50.0)
    with make(source, obs_shape, -bound, bound) as policy:
        expected = np.stack([np.full((2, 3), o.sum()) for o in obs])
        assert policy(obs, np.arange(7)).tobytes() == expected.tobytes()


def test_round_trip_of_any_finite_observation():
    source = body("return np.append(obs, t)")
    bound = np.full(4, np.inf)
    dtypes = st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8, np.bool_])
    shapes = st.tuples(st.integers(1, 5), st.just(3))
    options = {"allow_nan": False, "allow_infinity": False}
    arrays = dtypes.flatmap(
        lambda dtype: hnp.arrays(dtype, shapes, elements=options if np.issubdtype(dtype, np.floating) else None)
    )
    with make(source, (3,), -bound, bound, call_timeout=1.0) as policy:

        @settings(max_examples=200, deadline=None, database=None)
        @given(obs=arrays, first=st.integers(0, 2**52))
        def check(obs, first):
            t = first + np.arange(len(obs))
            sent = obs.copy()
            actions = policy(obs, t)
            assert actions[:, :3].tobytes() == obs.astype(np.float64).tobytes()
            assert (actions[:, 3] == t).all()
            assert (obs == sent).all()

        check()


def test_a_float_is_an_action_of_shape_1_only():
    with make(body("return [0.5, np.float64(0.5), np.array(0.5)][t]"), low=[-1.0], high=[1.0]) as policy:
        assert call(policy, 0, 1, 2).tolist() == [[0.5]] * 3
    with make(body("return 0.5")) as policy, pytest.raises(PolicyError, match=r"shape \(\), expected \(2,\)"):
        call(policy, 0)


def test_nobody_shares_memory_with_the_policy():
    with make(body("obs += 1\nreturn obs[:2] / 10")) as policy:
        obs = np.zeros((2, 3))
        first = policy(obs, np.zeros(2, int))
        second = policy(obs + 1, np.zeros(2, int))
        assert not obs.any()
        assert (first == 0.1).all()
        assert (second == 0.2).all()


def test_actions_just_outside_the_bounds_are_clipped():
    with make(body("return [1 + 9e-7, -1 - 9e-7] if t == 0 else [1 + 2e-6, 0]")) as policy:
        assert call(policy, 0).tolist() == [[1.0, -1.0]]
        with pytest.raises(PolicyError, match=r"action\[0\] = 1.000002 at t=1;"):
            call(policy, 1)


def test_messages_larger_than_a_pipe():
    obs = np.random.default_rng(0).normal(size=(64, 348))
    bound = np.full(2_000, 1e9)
    with make(body("return np.resize(obs, 2_000) + t"), (348,), -bound, bound) as policy:  # 178 kB there, 1 MB back
        for first in (0, 64):
            t = np.arange(first, first + 64)
            expected = np.stack([np.resize(o, 2_000) + k for o, k in zip(obs, t, strict=True)])
            assert policy(obs, t).tobytes() == expected.tobytes()


def test_every_allowed_name_exists_and_numpy_works_in_the_child():
    names = [f"np.{name}" for name in sorted(language.NUMPY - {"ndarray", "errstate"})]
    for module, allowed in language.NUMPY_SUBMODULES.items():
        names += [f"np.{module}.{name}" for name in sorted(allowed)]
    names += [f"math.{name}" for name in sorted(language.MATH)]
    names += sorted(language.BUILTINS | language.EXCEPTIONS)
    source = f"ALL = [{', '.join(names)}]\n" + body(
        """
        np.linalg.lstsq(np.eye(3), obs, rcond=None), np.linalg.svd(np.eye(3)), np.polyfit([0, 1, 2], obs, 1)
        np.convolve(obs, obs), np.median(obs), np.clip(obs, -1, 1), np.isclose(obs, 0).all(), np.unique(obs)
        np.einsum("i,i,i->", obs, obs, obs, optimize=True), np.quantile(obs, 0.5), np.interp(0.5, [0, 1], [0, 1])
        np.histogram(obs), obs.std(), np.linalg.eig(np.eye(40)), np.zeros((600, 600)) @ np.ones((600, 600))
        np.random.default_rng(1).normal(), np.random.RandomState(1).choice(3), str(obs), "%.3f" % obs[0]
        np.nan_to_num(obs), np.gradient(obs), np.percentile(obs, 5), np.cov(np.eye(3)), np.isin(obs, obs)
        θ = np.arctan2(*obs[:2])
        return [θ, 0.0]
        """
    )
    with make(source) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]


STOCHASTIC = "a = np.random.default_rng()\nb = np.random.RandomState()\n" + body(
    "return [np.random.rand(), a.random(), b.rand(), np.random.default_rng().random()]"
)


def test_equal_seeds_give_equal_random_actions():
    def draws(seed: int) -> np.ndarray:
        with make(STOCHASTIC, low=np.zeros(4), high=np.ones(4), seed=seed) as policy:
            return np.concatenate([call(policy, 0), call(policy, 1, 2, 3)])

    first, again, other = draws(5), draws(5), draws(6)
    assert (first == again).all()
    assert (first != other).all()
    assert len(np.unique(first)) == first.size


def test_bad_arguments_are_value_errors_and_close_nothing():
    with make(HARMLESS) as policy:
        for obs, t in (
            (np.zeros(3), np.zeros(1, int)),
            (np.zeros((1, 4)), np.zeros(1, int)),
            (np.zeros((2, 3)), np.zeros(1, int)),
            (np.zeros((1, 3), complex), np.zeros(1, int)),
            (np.array([["1", "2", "3"]]), np.zeros(1, int)),
            (np.zeros((1, 3)), np.zeros(1)),
            (np.zeros((1, 3)), np.zeros((1, 1), int)),
            (np.zeros((0, 3)), np.zeros(0, int)),
        ):
            with pytest.raises(ValueError, match="must be"):
                policy(obs, t)
        assert call(policy, 0).tolist() == [[0.0, 0.0]]
    for options in ({"seed": -1}, {"seed": 2**32}, {"low": (2.0, 0.0)}, {"low": (np.nan, 0.0)}, {"low": (0.0,)}):
        with pytest.raises(ValueError, match=r"seed must|bounds need"):
            make(HARMLESS, **options)


# --- discrete spaces ---


OWN_OBSERVATIONS = {  # observation, the rows of the array, what the rule must be given for each
    "int": (Observation("int"), [[5], [-7], [2**62]], ["5", "-7", str(2**62)], "int"),
    "tuple": (Observation("tuple", (3,)), [[14, 10, 0], [21, 1, 1]], ["(14, 10, 0)", "(21, 1, 1)"], "tuple"),
    "ints": (Observation("ints", (2,)), [[3, -1], [0, 2**40]], ["[3, -1]", f"[0, {2**40}]"], "np.ndarray"),
    "ints of two axes": (Observation("ints", (2, 2)), [[1, 2, 3, 4]], ["[[1, 2], [3, 4]]"], "np.ndarray"),
}


@pytest.mark.parametrize("kind", OWN_OBSERVATIONS)
def test_the_rule_is_given_the_environments_own_observation(kind):
    """Type and value are compared in the child: t is the row, and a wrong one makes the assertion fail there."""
    observation, rows, values, name = OWN_OBSERVATIONS[kind]
    source = f"WANTED = [{', '.join(values)}]\n" + body(
        f"""
        assert isinstance(obs, {name}) and not isinstance(obs, bool)
        if isinstance(obs, np.ndarray):
            assert obs.dtype == np.int64 and obs.tolist() == WANTED[t]
            obs[...] = 0
        else:
            assert obs == WANTED[t]
        return t
        """
    )
    with make_discrete(source, observation) as policy:
        obs = np.array(rows)
        actions = policy(obs, np.arange(len(rows)))
        assert actions.dtype == np.int64 and actions.tolist() == list(range(len(rows)))
        assert obs.tolist() == rows


INTEGERS = ["{}", "np.int64({})", "np.int8({})", "np.array({})", "np.argmax(np.arange({} + 1))", "round({} + 0.4)",
            "np.array([0, {}])[1]", "int(np.float64({}))"]  # fmt: skip


def test_integers_of_all_kinds_are_discrete_actions():
    """The observation's first number is the kind, the second the integer."""
    lines = "".join(f"if kind == {kind}: return {text.format('x')}\n" for kind, text in enumerate(INTEGERS))
    with make_discrete(body("kind, x = obs\n" + lines), Observation("tuple", (2,)), n=100) as policy:
        for kind, text in enumerate(INTEGERS):
            actions = policy(np.array([[kind, 0], [kind, 99], [kind, 7]]), np.arange(3))
            assert actions.dtype == np.int64 and actions.shape == (3,) and actions.tolist() == [0, 99, 7], text


def test_uint8_and_a_start():
    with make_discrete(body("return np.uint8(obs)"), n=3, start=5) as policy:
        assert call_discrete(policy, 5, 6, 7).tolist() == [5, 6, 7]
        with pytest.raises(PolicyError, match=r"returned action = 8 at t=1; it must be an integer from 5 to 7$"):
            call_discrete(policy, 5, 8)
    with make_discrete(body("return obs"), n=3, start=-1) as policy:
        assert call_discrete(policy, -1, 1).tolist() == [-1, 1]
        with pytest.raises(PolicyError, match=r"returned action = -2 at t=0; it must be an integer from -1 to 1$"):
            call_discrete(policy, -2)


def test_actions_are_new_arrays():
    with make_discrete(body("return obs")) as policy:
        first = call_discrete(policy, 1, 2)
        call_discrete(policy, 3, 3)
        assert first.tolist() == [1, 2]


NO_INTEGER = {
    "too large": ("4", "returned action = 4 at t=0; it must be an integer from 0 to 3"),
    "negative": ("-1", "returned action = -1 at t=0; it must be an integer from 0 to 3"),
    "wraps around": ("2**64 + 1", "returned an integer of more than 64 bits, expected an int or a NumPy integer from"),
    "huge": ("10 ** 10_000", "returned an integer of more than 64 bits"),
    "least of 64 bits": ("-(2**63)", f"returned action = {-(2**63)} at t=0"),
    "uint64": ("np.array([2**64 - 1])[0]", "returned an integer of more than 64 bits"),
    "bool": ("True", "returned a bool, expected an int or a NumPy integer from 0 to 3"),
    "NumPy's bool": ("np.bool_(True)", r"returned bool of shape \(\), expected"),
    "float": ("1.0", "returned a float, expected an int or a NumPy integer from 0 to 3"),
    "NumPy's float": ("np.float64(1)", r"returned float64 of shape \(\), expected"),
    "NaN": ("math.nan", "returned a float, expected"),
    "infinity": ("math.inf", "returned a float, expected"),
    "one-hot": ("np.eye(4, dtype=np.int64)[1]", r"returned int64 of shape \(4,\), expected"),
    "array of one": ("np.array([1])", r"returned int64 of shape \(1,\), expected"),
    "list": ("[1]", "returned a list, expected"),
    "tuple": ("(1, 2)", "returned a tuple, expected"),
    "string": ("'1'", "returned a str, expected"),
    "digits of another script": ("'\u0661'", "returned a str, expected"),
    "None": ("None", "returned a NoneType, expected"),
    "object array": ("np.array(10**30)", r"returned object of shape \(\), expected"),
    "array of strings": ("np.array('1')", r"returned <U1 of shape \(\), expected"),
    "complex": ("np.array(1 + 0j)", r"returned complex128 of shape \(\), expected"),
    "duration": ("np.timedelta64(1)", r"returned timedelta64 of shape \(\), expected"),
    "int's subclass": ("C(1)", "returned a C, expected an int or a NumPy integer from 0 to 3"),
    "an array that lies": ("np.zeros(()).view(L)", r"returned float64 of shape \(\), expected"),
    "an index that lies": ("I()", "returned a I, expected"),
}  # fmt: skip
LIARS = """
class C(int):
    def __index__(self): return 10**9
    __int__ = __index__
class L(np.ndarray):
    def __int__(self): return 1
class I:
    shape, dtype = (), np.dtype(np.int64)
    def __index__(self): return 1
    __int__ = __index__
"""


def anything(monkeypatch) -> SandboxedPolicy:
    """A policy that returns what the observation is the number of in NO_INTEGER."""
    monkeypatch.setattr(sandbox, "_switched_off", ("language",))
    results = "".join(f"if obs == {n}: return {result}\n" for n, (result, _) in enumerate(NO_INTEGER.values()))
    return make_discrete(LIARS + body(results))


def test_nothing_else_is_a_discrete_action(monkeypatch):
    """All of them from one child, which is left open after each."""
    with anything(monkeypatch) as policy, monkeypatch.context() as patch:
        patch.setattr(policy, "_close", lambda why: None)
        for number, (name, (_, message)) in enumerate(NO_INTEGER.items()):
            with pytest.raises(PolicyError, match=message) as caught:
                call_discrete(policy, number)
            assert len(str(caught.value)) < 300 and "\n" not in str(caught.value), name


@pytest.mark.parametrize("name", ["too large", "uint64", "float"])
def test_what_is_no_discrete_action_ends_the_child(name, monkeypatch):
    """Whether the parent refuses it or the child, and there its size or its type."""
    policy = anything(monkeypatch)
    with pytest.raises(PolicyError, match=NO_INTEGER[name][1]):
        call_discrete(policy, list(NO_INTEGER).index(name))
    assert stat_of(pid_of(policy)) is None


def test_bad_arguments_of_discrete_spaces():
    with make_discrete(body("return obs")) as policy:
        for obs in (np.zeros((1, 1)), np.zeros(1, int), np.zeros((1, 2), int), np.ones((1, 1), bool)):
            with pytest.raises(ValueError, match=r"obs must be integers of shape \(1, 1\)"):
                policy(obs, np.zeros(1, int))
        assert call_discrete(policy, 3).tolist() == [3]
    for n, start in ((0, 0), (-1, 0), (2, 2**63 - 1), (1, -(2**63) - 1)):
        with pytest.raises(ValueError, match="discrete actions need n >= 1"):
            make_discrete(HARMLESS, n=n, start=start)


def test_discrete_observations_with_box_actions_and_the_other_way_round():
    action = BoxAction(np.array([-1.0]), np.array([1.0]))
    with SandboxedPolicy(
        body("return obs[0] / obs[1]"), observation=Observation("tuple", (2,)), action=action
    ) as policy:
        assert policy(np.array([[1, 4]]), np.array([0])).tolist() == [[0.25]]
    with make_discrete(body("return int(obs[0] > 0.5)"), Observation("floats", (2,)), n=2) as policy:
        assert policy(np.array([[0.6, 0.0], [0.4, 9.0]]), np.array([0, 0])).tolist() == [1, 0]


# --- broken and hostile policies ---

BROKEN = {
    "raises": (body("x = 1\nreturn obs[99]"), r"at t=0 raised IndexError: .*\n  line 3, in policy: return obs\[99\]"),
    "raises in a helper": (
        "def f(x):\n    return x.pop()\n" + body("return f(obs)"),
        r"AttributeError.*\n  line 4, in policy: return f\(obs\)\n  line 2, in f: return x.pop\(\)",
    ),
    "raises inside numpy": (body("return np.linalg.inv(np.zeros((2, 2)))"), r"LinAlgError.*\n  line 2, in policy: .*$"),
    "SystemExit": (body("raise SystemExit(3)"), "SystemExit: 3"),
    "KeyboardInterrupt": (body("raise KeyboardInterrupt"), "raised KeyboardInterrupt\n"),
    "BaseException": (body("raise BaseException('boo')"), "BaseException: boo"),
    "list bomb": (body("return [0] * 10**10"), r"MemoryError\n  line 2"),
    "array bomb": (body("return np.ones(10**10)"), "MemoryError: Unable to allocate"),
    "recursion": (body("return policy(obs, t)"), r"RecursionError(.|\n)*\.\.\. \d+ more"),
    "huge message": (body("raise ValueError('x' * 10**7)"), "ValueError: x{500}\n"),
    "terminal escapes": (body("raise ValueError('\\x1b[2J\\udcff')"), r"ValueError: \?\[2J\?"),
    "file": (body("return np.fromfile('/etc/passwd', dtype=np.uint8)"), "t=0 raised PermissionError"),
    "crash": (
        body("np.lib.stride_tricks.as_strided(np.zeros(1), (10**6,), (10**9,)).sum()"),
        r"at t=0 ended the policy's process: signal 11 \(Segmentation fault\)",
    ),
    "None": (body("return None"), r"t=0 returned a NoneType, expected an array of real numbers of shape \(2,\)"),
    "string": (body("return '0.5'"), "returned a str, expected"),
    "strings": (body("return ['0.5', '0.5']"), "returned a list, expected"),
    "complex": (body("return [1j, 0]"), "returned a list, expected"),
    "ragged": (body("return [0, [1]]"), "returned a list that is no array"),
    "generator": (body("yield 0"), "returned a generator, expected"),
    "dict": (body("return {0: 0.0, 1: 0.0}"), "returned a dict, expected"),
    "huge int": (body("return [10**30, 0]"), "returned a list, expected"),
    "huge array": (body("return np.zeros(10**7)"), r"returned shape \(10000000,\), expected \(2,\)"),
    "wrong shape": (body("return [[0, 0]]"), r"returned shape \(1, 2\), expected \(2,\)"),
    "NaN": (body("return [0, math.nan]"), r"action\[1\] = nan at t=0; it must be finite and within \[-1.0, 1.0\]"),
    "infinity": (body("return [-math.inf, 0]"), r"action\[0\] = -inf at t=0"),
    "out of range": (body("return [0, -1.5]"), r"action\[1\] = -1.5 at t=0"),
}

NOT_IN_THE_LANGUAGE = {"SystemExit", "KeyboardInterrupt", "BaseException", "file", "crash", "complex", "generator"}

BROKEN_AT_THE_TOP = {
    "raises": (
        "x = 1\ny = x / 0\n" + HARMLESS,
        r"top level .* ZeroDivisionError: .*\n  line 2, in <module>: y = x / 0",
    ),
    "SystemExit": ("raise SystemExit\n" + HARMLESS, "top level .* SystemExit"),
    "return": ("x = 1\nreturn\n" + HARMLESS, "SyntaxError: 'return' outside function .*line 2"),
    "policy overwritten": (HARMLESS + "policy = 3\n", "cannot be called"),
    "crash": (
        "np.lib.stride_tricks.as_strided(np.zeros(1), (10**6,), (10**9,)).sum()\n" + HARMLESS,
        r"loading the policy ended the policy's process: signal 11 \(Segmentation fault\)",
    ),
    "memory": ("x = [0] * 10**10\n" + HARMLESS, "top level .* MemoryError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_policy(name, monkeypatch):
    source, message = BROKEN[name]
    if name in NOT_IN_THE_LANGUAGE:
        monkeypatch.setattr(sandbox, "_switched_off", ("language",))
    policy = make(source)
    pid = pid_of(policy)
    with pytest.raises(PolicyError, match=message) as caught:
        call(policy, 0)
    assert len(str(caught.value)) <= MAX_TEXT_CHARS
    assert stat_of(pid) is None
    with pytest.raises(PolicyError, match="closed: "):
        call(policy, 1)


@pytest.mark.parametrize("name", BROKEN_AT_THE_TOP)
def test_broken_at_the_top(name, monkeypatch):
    source, message = BROKEN_AT_THE_TOP[name]
    if name in NOT_IN_THE_LANGUAGE:
        monkeypatch.setattr(sandbox, "_switched_off", ("language",))
    with pytest.raises(PolicyError, match=message):
        make(source)


def test_the_message_names_the_step():
    for failure in (
        "x = 1 / (t - 7)\nreturn [0, 0]",
        "return [0, 0] if t < 7 else [0, 9]",
        "return [0] * (2 + t // 7)",
    ):
        with make(body(failure)) as policy:
            call(policy, 5, 6)
            with pytest.raises(PolicyError, match=r"t=7\b"):
                call(policy, 4, 5, 6, 7, 8)
    with make(body("while t == 7: pass\nreturn [0, 0]")) as policy:
        call(policy, 6)
        with pytest.raises(PolicyError, match=r"at t=7 took longer than 0\.05 s"):
            call(policy, 7)


def test_memory_limit():
    source = body("return [np.zeros(40_000_000)[0], 0]")  # 320 MB
    with make(source) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]
    with make(source, memory_mb=256) as policy, pytest.raises(PolicyError, match="MemoryError"):
        call(policy, 0)


def slow(milliseconds: float) -> str:
    """A rule that computes for about as long as this at each call."""
    return body(f"x = 0.0\nfor i in range({int(30_000 * milliseconds)}):\n    x += i\nreturn [0.0, 0.0]")


def test_a_rule_that_takes_too_much_cpu_time_is_ended_after_200_calls_or_a_person_s_is_warned(capsys):
    with make(slow(1.0), cpu_budget=1e-4) as policy:
        with pytest.raises(PolicyError, match=r"took longer than 0\.1 ms of CPU time a row: .* on average of 200 rows"):
            for t in range(1_000):
                call(policy, t)
        assert t == 200
    with make(slow(0.1), cpu_budget=1e-5, warn_when_slow=True) as policy:
        for t in range(450):
            call(policy, t)
    assert capsys.readouterr().out.count("took longer than 0.01 ms of CPU time a row") == 1  # said once


def test_a_rule_that_turns_slow_later_is_ended_too_and_one_within_the_budget_never():
    source = body("x = 0.0\nfor i in range(30_000 if t > 900 else 1):\n    x += i\nreturn [0.0, 0.0]")
    with make(source, cpu_budget=5e-4) as policy, pytest.raises(PolicyError, match="took longer than"):
        for t in range(2_000):
            call(policy, t)
    assert 1_000 < t < 1_500
    with make(HARMLESS, cpu_budget=2e-3) as policy:
        for t in range(1_000):
            call(policy, t)


def test_endless_top_level():
    start = time.monotonic()
    with pytest.raises(PolicyError, match="loading the policy took longer than 1 s"):
        make("while True:\n    pass\n" + HARMLESS, start_timeout=1.0)
    assert 1.0 <= time.monotonic() - start < 4.5


def test_endless_first_call():
    with make(body("while True: pass")) as policy:
        start = time.monotonic()
        with pytest.raises(PolicyError, match="at t=0 took longer than 2 s"):
            call(policy, 0)
        assert 2.0 <= time.monotonic() - start < 5.5


def test_the_deadline_counts_rows():
    source = body("n = 0\nwhile t and n < 10**(t + 4): n += 1\nreturn [0, 0]")
    with make(source, call_timeout=0.02) as policy:
        call(policy, 0)
        call(policy, *[1] * 50)  # about 5 ms each
        start = time.monotonic()
        with pytest.raises(PolicyError, match=r"t=0, 0, 0, 5, 0, ... \(10 rows\) took longer than 0.2 s"):
            call(policy, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0)
        assert 0.2 <= time.monotonic() - start < 3.5


def test_a_child_that_gets_no_time_is_waited_for_but_not_for_ever(monkeypatch):
    with make(HARMLESS) as policy:
        call(policy, 0)
        os.kill(pid_of(policy), signal.SIGSTOP)
        wake = threading.Timer(0.4, os.kill, (pid_of(policy), signal.SIGCONT))
        wake.start()
        assert call(policy, 1).tolist() == [[0.0, 0.0]]
        wake.join()
        monkeypatch.setattr(sandbox, "PATIENCE", 0.3)
        os.kill(pid_of(policy), signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(PolicyError, match="took longer"):
            call(policy, 2)
        assert 0.35 <= time.monotonic() - start < 3.0


STANDS_STILL = """
import os, signal
import numpy as np
from supervision.sandbox import policy as sandbox
from supervision.sandbox.messages import BoxAction, Observation

sandbox.PATIENCE = 0.5
with sandbox.SandboxedPolicy("def policy(obs, t):\\n    return 0.5", observation=Observation("floats", (1,)),
                             action=BoxAction(np.full(1, -1.0), np.full(1, 1.0))) as policy:
    child = policy._process.pid
    policy(np.zeros((1, 1)), np.array([0]))
    os.kill(child, signal.SIGSTOP)
    print(child, flush=True)
    print(policy(np.zeros((1, 1)), np.array([1]))[0, 0], flush=True)
"""


def test_a_run_that_stood_still_waits_for_its_child_as_long_as_ever():
    """Both are stopped in the middle of a call, for longer than the patience; the child goes on a little later."""
    with subprocess.Popen([sys.executable, "-c", STANDS_STILL], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.2)
        os.kill(child, signal.SIGCONT)
        assert process.stdout.read() == "0.5\n"


def test_a_child_that_reads_nothing_does_not_block_the_write(monkeypatch):
    monkeypatch.setattr(sandbox, "FIRST_CALL_TIMEOUT", 0.2)
    monkeypatch.setattr(sandbox, "PATIENCE", 0.2)
    with make(HARMLESS, obs_shape=(100_000,)) as policy:
        os.kill(pid_of(policy), signal.SIGSTOP)
        with pytest.raises(PolicyError, match="at t=3 took longer"):
            policy(np.zeros((1, 100_000)), np.array([3]))


def test_a_call_leaves_the_thread_its_processors(monkeypatch):
    """After a good call and a failed one; and where a container forbids the choice, the policy works all the same."""
    allowed = os.sched_getaffinity(0)
    with make(body("return [0.0, 0.0] if t < 7 else None")) as policy:
        call(policy, 0)
        assert os.sched_getaffinity(0) == allowed
        with pytest.raises(PolicyError, match="t=7"):
            call(policy, 7)
        assert os.sched_getaffinity(0) == allowed

    def forbidden(pid: int, mask: set[int]) -> None:
        raise PermissionError("sched_setaffinity")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    with make(HARMLESS) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_thread_and_child_meet_on_one_processor():
    """A thread that may use one processor only is left alone; each of two policies follows the thread that calls it."""
    allowed = sorted(os.sched_getaffinity(0))
    failures = []

    def work(policy: SandboxedPolicy, processor: int) -> None:
        os.sched_setaffinity(0, {processor})  # of this thread alone
        for t in range(200):
            if call(policy, t).tolist() != [[t / 1000, 0.0]] or os.sched_getaffinity(0) != {processor}:
                failures.append((processor, t))
        if os.sched_getaffinity(pid_of(policy)) != {processor}:
            failures.append(processor)

    with make(body("return [t / 1000, 0.0]")) as first, make(body("return [t / 1000, 0.0]")) as second:
        for processors in (allowed[:2], allowed[1::-1]):
            threads = [
                threading.Thread(target=work, args=pair) for pair in zip((first, second), processors, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for t in range(100):  # in turns, by a thread that may go where it likes
            assert call(first, t)[0, 0] == call(second, t)[0, 0] == t / 1000
            assert os.sched_getaffinity(0) == set(allowed)
    assert failures == []


INTERRUPTS = """
import random, time
signal.signal(signal.SIGALRM, signal.default_int_handler)
random.seed(0)
before, left = os.sched_getaffinity(0), set()
for trial in range(25):
    policy, t = make("def policy(obs, t):\\n    return [0, 0]"), 0
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 2e-3))
        while True:
            policy(np.zeros((1, 3)), np.array([t]))
            t += 1
    except KeyboardInterrupt:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    left.add(frozenset(os.sched_getaffinity(0)))
    policy.close()
print(left == {frozenset(before)})
"""


def test_interrupts_at_random_moments_leave_the_thread_its_processors():
    with run_parent(INTERRUPTS) as parent:
        assert parent.stdout.read() == "True\n"


def test_killed_between_calls():
    with make(HARMLESS) as policy:
        call(policy, 0)
        os.kill(pid_of(policy), signal.SIGKILL)
        with pytest.raises(PolicyError, match=r"at t=1 ended the policy's process: signal 9 \(Killed\)"):
            call(policy, 1)


def test_killed_during_a_call():
    with make(body("while True: pass"), call_timeout=60.0) as policy:
        killer = threading.Timer(0.2, os.kill, (pid_of(policy), signal.SIGKILL))
        killer.start()
        with pytest.raises(PolicyError, match=r"at t=3 ended the policy's process: signal 9 \(Killed\)"):
            call(policy, 3)
        killer.join()


# --- many policies, many calls ---

NAMES = ["obs[0]", "obs[1]", "obs[-1]", "float(t)", "x", "y", "GAIN", "TABLE['a'][1]", "np.pi", "math.e"]
ODD_FLOATS = [0.0, -0.0, 5e-324, -2.2250738585072014e-308, 1e-9, 0.5, 2.00001, 1 / 3, 9.5]
OF_ONE = [
    "(-{})", "abs({})", "float({})", "math.tanh({})", "math.sin({})", "math.sqrt({})", "np.tanh({})", "np.sign({})",
    "np.exp({})", "helper({})", "(lambda a: a * a)({})", "helper({}, gain=2.0)", "float(np.sum(obs * {}))",
    "round({}, 3)", "sum(a * {} for a in obs)", "max([a - {} for a in obs])", "(z := {})", "{{'k': {}}}['k']",
    "np.array([{}, 1.0]).max()", "float(np.linalg.norm(obs - {}))", "sorted(obs, key=lambda a: a * {})[0]",
]  # fmt: skip
OF_TWO = [
    "({} + {})", "({} - {})", "({} * {})", "({} / {})", "({} % {})", "({} // {})", "({} ** {})", "max({}, {})",
    "min({}, {})", "math.copysign({}, {})", "math.fmod({}, {})", "np.arctan2({}, {})", "np.hypot({}, {})",
    "float({} < {})", "[{}, {}][t % 2]", "float(np.dot(obs[:2], [{}, {}]))", "({} or {})", "({} and {})",
    "float({} in (1, {}))",
]  # fmt: skip
OF_THREE = [
    "({} if {} > {} else 0.5)", "np.clip({}, {}, {})", "np.where({} > {}, {}, 1.0).item()", "float({} < {} <= {})",
]  # fmt: skip


class Grammar:
    """Random rules of the language, by a seed: bodies of functions of obs and t that know x, y, z and `values`."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def rule(self) -> str:
        """Statements of at most 1,500 characters, so that a policy of many rules is not longer than it may be."""
        while len(text := "\n".join(self.statement() for _ in range(self.random.randint(1, 4)))) > 1_500:
            pass
        return text

    def block(self, depth: int) -> str:
        lines = "\n".join(self.statement(depth) for _ in range(self.random.randint(1, 3)))
        return textwrap.indent(lines, "    ")

    def statement(self, depth: int = 2) -> str:
        """A statement with at most so many blocks around another."""
        if depth == 0 or self.random.random() < 0.5:
            return self.simple()
        depth -= 1
        match self.random.randrange(6):
            case 0:
                start = f"if {self.expression()} > {self.expression()}:"
                return f"{start}\n{self.block(depth)}\nelse:\n{self.block(depth)}"
            case 1:
                return f"for i in range({self.random.randint(0, 3)}):\n{self.block(depth)}"
            case 2:
                return f"for i, x in enumerate(obs):\n{self.block(depth)}\n    if i > 1: break"
            case 3:
                return f"while t > 0:\n    t -= 1\n{self.block(depth)}"
            case 4:
                return f"try:\n{self.block(depth)}\nexcept (ArithmeticError, ValueError):\n{self.block(depth)}"
            case _:
                return f"with np.errstate(all='ignore'):\n{self.block(depth)}"

    def simple(self) -> str:
        match self.random.randrange(7):
            case 0:
                return f"{self.random.choice('xyz')} = {self.expression()}"
            case 1:
                return f"{self.random.choice('xy')} {self.random.choice('+-*/')}= {self.expression()}"
            case 2:
                return f"x, y = {self.expression()}, {self.expression()}"
            case 3:
                return f"obs[{self.random.randint(0, 2)}] = {self.expression()}"
            case 4:
                return f"values.append({self.expression()})\nx = values[-1]"
            case 5:
                return f"return {self.expression()}"
            case _:
                return "pass"

    def expression(self, leaves: int = 8) -> str:
        """An expression with at most about so many names and numbers."""
        if leaves < 2 or self.random.random() < 0.25:
            return self.leaf()
        holes, templates = self.random.choice([(1, OF_ONE), (2, OF_TWO), (3, OF_THREE)])
        left = leaves - 1 if holes == 1 else -(-leaves // holes)
        return self.random.choice(templates).format(*(self.expression(left) for _ in range(holes)))

    def leaf(self) -> str:
        match self.random.randrange(5):
            case 0 | 1:
                return self.random.choice(NAMES)
            case 2:
                return repr(self.random.uniform(-10, 10))
            case 3:
                return repr(self.random.choice(ODD_FLOATS) * self.random.choice((1, -1, 1e-5, -1e-60, 1e-200)))
            case _:
                return repr(self.random.randint(-3, 3))


RULES, RULES_A_POLICY = 360, 36
FRAME = """
import math
import numpy as np

GAIN: float = 0.7
TABLE = {"a": (1.0, -0.5), "b": []}


def helper(a: float, gain: float = GAIN) -> float:
    return np.tanh(gain * a)


def bounded(rule, obs: np.ndarray, t: int) -> float:
    try:
        x = float(rule(obs.copy(), t % 4))
    except (ArithmeticError, TypeError, ValueError, IndexError):
        return -0.25
    return math.tanh(x) if math.isfinite(x) else 0.25

"""


def test_random_policies_of_the_language_run_as_they_would_in_process():
    bound = np.ones(RULES_A_POLICY)

    @settings(max_examples=RULES // RULES_A_POLICY, deadline=None, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**24 - 1))
    def check(seed):
        grammar = Grammar(seed)
        rules, source = [grammar.rule() for _ in range(RULES_A_POLICY)], FRAME
        for number, rule in enumerate(rules):
            start = f"def rule_{number}(obs, t):\n    x, y, z, values = 1.0, -2.0, 0.5, []\n"
            source += start + textwrap.indent(rule, "    ") + "\n    return x + y + z\n\n"
        names = ", ".join(f"rule_{number}" for number in range(RULES_A_POLICY))
        source += body(f"return np.array([bounded(rule, obs, t) for rule in ({names})])")
        obs, t = np.random.default_rng(seed).uniform(-2, 2, (4, 3)), np.arange(4)
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            reference = in_process(source)
            expected = np.stack([reference(o.copy(), int(k)) for o, k in zip(obs, t, strict=True)])
        with make(source, (3,), -bound, bound, call_timeout=1.0) as policy:
            actions = policy(obs, t)
        pairs = zip(rules, actions.T, expected.T, strict=True)
        assert [rule for rule, ours, theirs in pairs if ours.tobytes() != theirs.tobytes()] == []

    check()


@pytest.mark.slow
def test_two_hundred_thousand_calls_leave_nothing_behind():
    source = "import math\nimport numpy as np\ngenerator = np.random.default_rng()\n" + body(
        """
        state = {"lean": float(obs[3]), "names": ["a", "b"] * 3}
        noise = generator.normal(0.0, 0.01, 17) + np.random.uniform(-0.01, 0.01, 17)
        action = np.zeros(17)
        for i in range(17):
            action[i] = 0.1 * math.tanh(obs[7 + i]) + state["lean"] * 0.01
        return np.clip(action + noise, -0.4, 0.4)
        """
    )

    def resident(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    bound, obs = np.full(17, 0.4), np.random.default_rng(0).normal(size=(1, 47))
    with make(source, (47,), -bound, bound) as policy:
        for t in range(200_000):
            policy(obs, np.array([t % 1_000]))  # in episodes: what is remembered of one goes with it
            if t == 20_000:
                before = resident(pid_of(policy)), resident("self"), len(descriptors())
        after = resident(pid_of(policy)), resident("self"), len(descriptors())
    assert after[0] - before[0] < 2**20
    assert after[1] - before[1] < 2**21
    assert after[2] == before[2]
