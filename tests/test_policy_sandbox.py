"""The sandbox with real child processes: honest policies give the same bits, every other one gives a PolicyError."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import policy_sandbox
from llm_supervisor import Supervisor, SupervisorArgs
from policy_sandbox import BoxAction, DiscreteAction, Observation, PolicyError, SandboxedPolicy, check_source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

ROOT = Path(policy_sandbox.__file__).parent
HARMLESS = "def policy(obs, t):\n    return [0.0, 0.0]\n"


def make(source: str, obs_shape=(3,), low=(-1.0, -1.0), high=(1.0, 1.0), **options) -> SandboxedPolicy:
    action = BoxAction(np.array(low), np.array(high))
    return SandboxedPolicy(source, observation=Observation("floats", obs_shape), action=action, **options)


def body(text: str) -> str:
    """A policy with this body, which starts in line 2."""
    return "def policy(obs, t):\n" + textwrap.indent(textwrap.dedent(text).strip(), "    ") + "\n"


def call(policy: SandboxedPolicy, *steps: int) -> np.ndarray:
    return policy(np.zeros((len(steps), 3)), np.array(steps))


def pid_of(policy: SandboxedPolicy) -> int:
    return policy._process.pid


def stat_of(pid: int | str) -> list[str] | None:
    """State, parent's pid and what follows them in /proc/<pid>/stat; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def children() -> set[str]:
    """The pids of this process's children, zombies included."""
    stats = {pid: stat_of(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    return {pid for pid, stat in stats.items() if stat and stat[1] == str(os.getpid())}


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def wait_for(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def dead(pid: int) -> bool:
    """Gone, or (where the machine's init is slow to reap orphans) a zombie."""
    stat = stat_of(pid)
    return stat is None or stat[0] == "Z"


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """No test leaves a child (zombies count), a descriptor or a temporary folder behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = children(), descriptors()
    yield folder
    assert (children(), descriptors()) == before
    assert list(folder.iterdir()) == []


# --- the static check ---

LANGUAGE = {
    "arithmetic": "x = -obs[0] ** 2 % 3 // 1 + ~t | (t << 1) ^ 3 & 1\nx *= 2\nreturn x @ obs",
    "comparisons": "return 0 < obs[0] <= 1 and obs[1] != 2 or not t is None and t not in {1, 2} and t in (1, 2)",
    "branches": "if t:\n    x = 1\nelif obs[0]:\n    x = 2\nelse:\n    x = 3 if t else 4\nreturn x",
    "loops": "for i, (a, b) in enumerate(zip(obs, obs)):\n    if a: continue\n    break\nelse:\n    pass\n"
    "while t < 0: t += 1\nreturn obs",
    "comprehensions": "return [a for a in obs if a > 0], {i: a for i, a in enumerate(obs)}, sum(a * a for a in obs)",
    "functions": "def f(x: float, *rest: float, gain: float = 0.5, **more: float) -> float:\n    return x * gain\n"
    "g = lambda x: f(x, gain=2)\nreturn g(*obs, **{})",
    "a closure": "n = 0\ndef f():\n    nonlocal n\n    n += 1\nf()\nreturn n",
    "subscripts": "a = np.zeros((3, 3))\na[0, 1:] = 1\na[..., 0] += obs\na[a > 0] = 2\nreturn a[::-1, np.newaxis]",
    "containers": "d = {'a': [1, 2], 'b': (3,)}\nd['c'] = [*d['a'], 4]\nd.setdefault('e', []).append(5)\nreturn d",
    "conversions": "return float(obs[0]), int(t), bool(t), abs(t), round(obs[0], 2), divmod(t, 2), max(obs), min(1, t)",
    "functional": "return list(map(float, obs)), any(obs), all(obs), sorted(obs, key=lambda x: -x), next(iter(obs), 0)",
    "walrus": "if (x := obs[0]) > 0:\n    return x\nreturn -x",
    "errors": "try:\n    x = 1 / t\nexcept (ZeroDivisionError, ValueError) as error:\n"
    "    raise ValueError('bad') from error\n"
    "except Exception:\n    x = 0\nelse:\n    x = 1\nfinally:\n    x = 2\nassert x == 2, 'x'\nreturn x",
    "types": "x: np.ndarray | None = None\nassert isinstance(obs, (np.ndarray, list))\nreturn isinstance(t, int)",
    "numpy's errors": "with np.errstate(divide='ignore'):\n    return np.log(obs)",
    "methods": "return obs.copy().clip(-1, 1).reshape(-1).astype(np.float32).sum(), obs.shape[0], obs.T, obs.tolist()",
    "linear algebra": "try:\n    return np.linalg.solve(np.eye(3), obs)\nexcept np.linalg.LinAlgError:\n    return obs",
    "random": "r = np.random.default_rng(t)\nreturn r.normal(size=3) + np.random.uniform(-1, 1, 3)",
}  # fmt: skip

ACCEPTED = {
    "helpers and constants": "import math\nGAIN = 0.5\ndef helper(x):\n    return math.tanh(x)\n" + HARMLESS,
    "numpy": "import numpy as np\n" + HARMLESS,
    "numpy without a name": "import numpy\n" + HARMLESS,
    "from math": "from math import pi, sin\n" + HARMLESS,
    "import inside": body("import numpy as np\nreturn np.zeros(2)"),
    "annotations": "def policy(obs: np.ndarray, t: int = 0) -> np.ndarray:\n    return np.zeros(2)\n",
    "private names": "_x = 1\n__y = 2\n" + HARMLESS,
    "a variable called input": body("input = obs[0]\nreturn [input, 0.0]"),
    "dunder in a docstring": body('"""See __init__."""\nreturn [0.0, 0.0]'),
    "non-ASCII names": body("θ = obs[0]\nreturn [θ, 0.0]"),
    "a builtin's name": body("sum = obs[0]\nopen = 1\nreturn [sum, open]"),
    "annotated helper": "def f(x: np.ndarray, y: list[np.ndarray]) -> tuple[np.ndarray, float]:\n    return x, 0.0\n"
    + HARMLESS,
} | {name: body(text) for name, text in LANGUAGE.items()}  # fmt: skip

REFUSED = {
    "syntax": ("x = 1\ndef policy(obs, t)\n    return 0\n", "line 2: syntax error"),
    "indentation": ("def policy(obs, t):\nreturn 0\n", "line 2: syntax error"),
    "empty": ("", "empty"),
    "only a comment": ("# policy\n\n", "empty"),
    "null byte": (HARMLESS + "\0", "cannot be parsed|syntax error"),
    "surrogate": (HARMLESS + "# \ud800", "cannot be parsed"),
    "too long": (HARMLESS + "#" * 70_000, "more than 65536"),
    "too deep for the parser": (body("return " + "-" * 60_000 + "1"), "nested too deeply|recursion"),
    "too deep for the tree": (body("return obs" + "[0]" * 20_000), "nested too deeply|recursion"),
    "no policy": ("def act(obs, t):\n    return 0\n", "no top-level function `def policy"),
    "a lambda": ("policy = lambda obs, t: 0\n", "no top-level function `def policy"),
    "async": ("async def policy(obs, t):\n    return 0\n", "no top-level function `def policy"),
    "nested policy": ("if True:\n    def policy(obs, t):\n        return 0\n", "no top-level function `def policy"),
    "two policies": (HARMLESS + HARMLESS, "line 3: `policy` is already defined in line 1"),
    "one parameter": ("\ndef policy(obs):\n    return 0\n", "line 2: .*two positional"),
    "three parameters": ("def policy(obs, t, x=1):\n    return 0\n", "line 1: .*two positional"),
    "star": ("def policy(obs, t, *rest):\n    return 0\n", "line 1: .*two positional"),
    "keyword only": ("def policy(obs, *, t):\n    return 0\n", "line 1: .*two positional"),
    "import os": (body("import os"), "line 2: .*not `import os`"),
    "import submodule": ("import numpy.ctypeslib\n" + HARMLESS, "line 1: .*not `import numpy.ctypeslib`"),
    "import among others": ("import math, sys\n" + HARMLESS, "line 1: .*not `import sys`"),
    "other name": ("import numpy as q\n" + HARMLESS, "line 1: .*not `import numpy as q`"),
    "from numpy": ("from numpy import fromfile\n" + HARMLESS, "line 1: .*not `from numpy import`"),
    "relative": ("from .math import pi\n" + HARMLESS, "line 1: .*not `from .math import`"),
    "dunder name": (body("x = 1\nreturn __builtins__"), "line 3: .*`__builtins__`"),
    "dunder attribute": (body("return ().__class__"), "line 2: .*`__class__`"),
    "dunder in an f-string": (body("return f'{obs.__class__}'"), "line 2: .*`__class__`"),
    "dunder method": ("class A:\n    def __del__(self): pass\n" + HARMLESS, "line 2: .*`__del__`"),
    "dunder keyword": (body("return dict(__class__=1)"), "line 2: .*`__class__`"),
    "dunder parameter": ("def f(__x__): pass\n" + HARMLESS, "line 1: .*`__x__`"),
    "dunder alias": ("from math import pi as __import__\n" + HARMLESS, "line 1: .*`__import__`"),
    "dunder global": (body("global __builtins__\nreturn 0"), "line 2: .*`__builtins__`"),
    "dunder pattern": (body("match obs:\n    case object(__class__=c):\n        return c"), "line 3: .*`__class__`"),
    "dunder in disguise": (body("return ().__cl\u1d43ss__"), "line 2: .*`__class__`"),  # NFKC makes it an a
    "a module as a value": (body("m = np\nreturn m.load"), "line 2: `np` may only stand before a dot\nline 3: `.load`"),
    "a submodule as a value": (body("m = np.random\nreturn m"), "line 2: `np.random` is not among"),
    "a module as an argument": (body("return print(math)"), "line 2: `math` may only"),
    "another np": ("def policy(obs, np):\n    return np.zeros(2)\n", "line 1: `np` is the name of something else"),
    "np as pi": ("from math import pi as np\n" + HARMLESS, "line 1: `from math import pi as np` is refused"),
    "another isinstance": ("isinstance = max\n" + HARMLESS, "line 1: `isinstance` is the name of something else"),
    "star import": ("from math import *\n" + HARMLESS, r"line 1: `from math import \*` is refused"),
    "nothing of math": ("from math import sys\n" + HARMLESS, "line 1: `from math import sys` is refused"),
    "ndarray called": (body("return np.ndarray(2)"), "line 2: `np.ndarray` may only stand in annotations"),
    "ndarray kept": (body("return isinstance(obs, (a := np.ndarray))"), "line 2: `np.ndarray` may only stand"),
    "ndarray as a default": (body("def f(a: np.ndarray = np.ndarray): pass"), "line 2: `np.ndarray` may only stand"),
    "ndarray assigned": (body("x: float = np.ndarray\nreturn x(2)"), "line 2: `np.ndarray` may only stand"),
    "ndarray first": (body("return isinstance(np.ndarray, int)"), "line 2: `np.ndarray` may only stand"),
    "numpy's name elsewhere": (body("return obs.linalg"), "line 2: `.linalg` is not among the allowed names"),
    "attribute set": (body("obs.shape = (3, 1)\nreturn obs"), "line 2: the attribute `shape` cannot be set"),
    "attribute of the function": (body("policy.calls = 1"), "line 2: the attribute `calls` cannot be set"),
    "class": ("class A: pass\n" + HARMLESS, "line 1: a class is refused; use functions"),
    "decorator": ("@print\n" + HARMLESS, "line 2: a decorator is refused"),
    "f-string": (body("return f'{t:>9}'"), "line 2: an f-string is refused"),
    "global": (body("global x\nx = 1"), "line 2: `global` is refused: a policy keeps no state"),
    "del": (body("del obs[0]"), "line 2: `del` is refused"),
    "set": (body("return {1, 2}"), "line 2: a set is refused except after `in`"),
    "set, left of in": (body("return {1} in obs"), "line 2: a set is refused"),
    "set compared": (body("return t < {1}"), "line 2: a set is refused"),
    "set comprehension": (body("return {a for a in obs}"), "line 2: a set is refused"),
    "yield": (body("yield 1"), "line 2: `yield` is refused"),
    "yield from": (body("yield from obs"), "line 2: `yield` is refused"),
    "await": ("async def f():\n    await 1\n" + HARMLESS, "line 1: AsyncFunctionDef is not in the allowed language"),
    "match": (body("match t:\n    case 1: return 0"), "line 2: `match` is refused; use `if`"),
    "except*": (body("try: pass\nexcept* ValueError: pass"), "line 2: TryStar is not in the allowed language"),
    "bytes": (body("return b'x'"), "line 2: a constant of type bytes is refused"),
    "complex": (body("return 1j"), "line 2: a constant of type complex is refused"),
    "open by another name": (body("f = open\nreturn f('/etc/passwd')"), "line 2: the name `open` is neither"),
    "unknown name": (body("x = 1\nreturn velocity"), "line 3: the name `velocity` is neither defined here nor among"),
}  # fmt: skip
REFUSED_BUILTINS = """
    open exec eval compile __import__ input breakpoint globals locals vars getattr setattr delattr type object super id
    hash repr format memoryview bytearray property classmethod dir help exit set frozenset hasattr callable
"""
REFUSED_NUMPY = """
    load save fromfile memmap ctypeslib f2py testing lib core _core genfromtxt loadtxt savetxt frombuffer fromstring
    ctypeslib.load_library random.mtrand random.bit_generator linalg.lapack_lite nditer vectorize frompyfunc
    apply_along_axis fromiter empty object_ dtype
"""
REFUSED_ATTRIBUTES = """
    tofile dump dumps ctypes data base view setflags resize strides flags f_back f_globals gi_frame cr_frame tb_frame
    ag_frame gi_code co_code func_globals format format_map obj mro bit_generator
"""
for name in REFUSED_BUILTINS.split():
    REFUSED[f"call of {name}"] = (body(f"x = 1\n{name}(obs)"), f"line 3: .*`{name}`")
for name in REFUSED_NUMPY.split():
    REFUSED[f"np.{name}"] = (body(f"return np.{name}"), rf"line 2: `np\.{name.split('.')[0]}[^`]*` is not among")
for name in REFUSED_ATTRIBUTES.split():
    REFUSED[f"attribute {name}"] = (body(f"return obs.{name}"), rf"line 2: `\.{name}` is not among the allowed names")


@pytest.mark.parametrize("name", ACCEPTED)
def test_check_source_accepts(name):
    check_source(ACCEPTED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_check_source_refuses(name):
    source, message = REFUSED[name]
    with pytest.raises(PolicyError, match=message) as caught:
        check_source(source)
    assert len(str(caught.value)) < 1_500


def test_a_refused_source_starts_no_child(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("started a child"))
    with pytest.raises(PolicyError, match="line 2"):
        make(body("import os"))


def test_several_refusals_come_in_the_order_of_their_lines():
    with pytest.raises(PolicyError) as caught:
        check_source("import os\nimport numpy as np\nx = eval('1')\n")
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["line 1", "line 1", "line 3"]


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
    reference = in_process(HONEST[name])
    with make(HONEST[name]) as policy:
        assert policy.source == HONEST[name]
        for rows, first in ((1, 0), (1, 1), (7, 2), (7, 9)):
            obs, t = generator.uniform(-1, 1, (rows, 3)), np.arange(first, first + rows)
            with warnings.catch_warnings(action="ignore"):
                expected = np.array(
                    [reference(o.copy(), int(k)) for o, k in zip(obs, t, strict=True)], dtype=np.float64
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
    for result in ("0.5", "np.float64(0.5)", "np.array(0.5)"):
        with make(body(f"return {result}"), low=[-1.0], high=[1.0]) as policy:
            assert call(policy, 0).tolist() == [[0.5]]
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
    names = [f"np.{name}" for name in sorted(policy_sandbox.NUMPY - {"ndarray"})]
    for module, allowed in policy_sandbox.NUMPY_SUBMODULES.items():
        names += [f"np.{module}.{name}" for name in sorted(allowed)]
    names += [f"math.{name}" for name in sorted(policy_sandbox.MATH)]
    names += sorted(policy_sandbox.BUILTINS | policy_sandbox.EXCEPTIONS)
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


ONE_INT = Observation("int")


def make_discrete(source: str, observation: Observation = ONE_INT, n: int = 4, start: int = 0) -> SandboxedPolicy:
    return SandboxedPolicy(source, observation=observation, action=DiscreteAction(n, start))


def call_discrete(policy: SandboxedPolicy, *numbers: int) -> np.ndarray:
    """Call with Discrete observations, one a row."""
    return policy(np.array(numbers)[:, None], np.arange(len(numbers)))


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


@pytest.mark.parametrize("text", INTEGERS)
def test_integers_of_all_kinds_are_discrete_actions(text):
    with make_discrete(body(f"return {text.format('obs')}"), n=100) as policy:
        actions = call_discrete(policy, 0, 99, 7)
        assert actions.dtype == np.int64 and actions.shape == (3,) and actions.tolist() == [0, 99, 7]


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


@pytest.mark.parametrize("name", NO_INTEGER)
def test_nothing_else_is_a_discrete_action(name, monkeypatch):
    monkeypatch.setattr(policy_sandbox, "_switched_off", ("language",))
    result, message = NO_INTEGER[name]
    policy = make_discrete(LIARS + body(f"return {result}"))
    with pytest.raises(PolicyError, match=message) as caught:
        call_discrete(policy, 0)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
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
        monkeypatch.setattr(policy_sandbox, "_switched_off", ("language",))
    policy = make(source)
    pid = pid_of(policy)
    with pytest.raises(PolicyError, match=message) as caught:
        call(policy, 0)
    assert len(str(caught.value)) <= policy_sandbox.MAX_TEXT_CHARS
    assert stat_of(pid) is None
    with pytest.raises(PolicyError, match="closed: "):
        call(policy, 1)


@pytest.mark.parametrize("name", BROKEN_AT_THE_TOP)
def test_broken_at_the_top(name, monkeypatch):
    source, message = BROKEN_AT_THE_TOP[name]
    if name in NOT_IN_THE_LANGUAGE:
        monkeypatch.setattr(policy_sandbox, "_switched_off", ("language",))
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
        monkeypatch.setattr(policy_sandbox, "PATIENCE", 0.3)
        os.kill(pid_of(policy), signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(PolicyError, match="took longer"):
            call(policy, 2)
        assert 0.35 <= time.monotonic() - start < 3.0


def test_a_child_that_reads_nothing_does_not_block_the_write(monkeypatch):
    monkeypatch.setattr(policy_sandbox, "FIRST_CALL_TIMEOUT", 0.2)
    monkeypatch.setattr(policy_sandbox, "PATIENCE", 0.2)
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


ROGUE = """
import os, sys, time
request = os.read(0, 65536)
os.write(1, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
request = os.read(0, 65536)
for piece in {pieces!r}:
    os.write(1, piece)
    time.sleep(0.002)
{end}
"""
ANSWER = policy_sandbox.ANSWER


@pytest.mark.parametrize(("number", "size"), [(4, 8), (-1, 8), (2**63 - 1, 8), (0, 4), (0, 16)])
def test_a_child_that_sends_no_discrete_action(number, size, tmp_path, monkeypatch):
    """The parent checks what the child ought to have checked."""
    rogue = tmp_path / "rogue.py"
    piece = ANSWER.pack(1, size) + number.to_bytes(size, "little", signed=True)
    rogue.write_text(ROGUE.format(pieces=[piece], end="time.sleep(60)"))
    monkeypatch.setattr(policy_sandbox, "__file__", str(rogue))
    message = f"action = {number} at t=0; it must be an integer from 0 to 3" if size == 8 else f"{size} bytes instead"
    with make_discrete(HARMLESS) as policy, pytest.raises(PolicyError, match=message):
        call_discrete(policy, 0)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([b"\xff" * 8], "malformed answer: status 255"),
        ([ANSWER.pack(1, 2**31)], "malformed answer: status 1, 2147483648 bytes"),
        ([ANSWER.pack(2, 8_001)], "malformed answer: status 2, 8001 bytes"),
        ([ANSWER.pack(1, 8), bytes(8)], "8 bytes instead of 16"),
        ([ANSWER.pack(1, 16) + bytes(17)], "1 bytes more than it announced"),
        ([ANSWER.pack(1, 16), bytes(15)], "took longer"),
        ([ANSWER.pack(2, 3) + b"\xff\x1ba"], r"^.\?a$"),
        ([b""], "took longer"),
    ],
)
def test_a_child_that_breaks_the_protocol(pieces, message, tmp_path, monkeypatch):
    monkeypatch.setattr(policy_sandbox, "FIRST_CALL_TIMEOUT", 0.5)
    monkeypatch.setattr(policy_sandbox, "PATIENCE", 0.0)
    rogue = tmp_path / "rogue.py"
    rogue.write_text(ROGUE.format(pieces=pieces, end="time.sleep(60)"))
    monkeypatch.setattr(policy_sandbox, "__file__", str(rogue))
    with make(HARMLESS) as policy, pytest.raises(PolicyError, match=message):
        call(policy, 0)


def test_an_answer_in_single_bytes_and_one_cut_short(tmp_path, monkeypatch):
    whole = ANSWER.pack(1, 16) + np.array([0.5, -0.5]).tobytes()
    rogue = tmp_path / "rogue.py"
    rogue.write_text(ROGUE.format(pieces=[whole[i : i + 1] for i in range(len(whole))], end="sys.exit(9)"))
    monkeypatch.setattr(policy_sandbox, "__file__", str(rogue))
    with make(HARMLESS) as policy:
        assert call(policy, 0).tolist() == [[0.5, -0.5]]
        with pytest.raises(PolicyError, match="at t=1 ended the policy's process: exit status 9"):
            call(policy, 1)
    rogue.write_text(ROGUE.format(pieces=[whole[:12]], end="sys.exit(9)"))
    with make(HARMLESS) as policy, pytest.raises(PolicyError, match="exit status 9"):
        call(policy, 0)


# --- what the child is given ---


def test_the_child_is_given_nothing(nothing_left, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-policies")
    with open(tmp_path / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with make(HARMLESS) as policy:
            call(policy, 0)
            proc = Path(f"/proc/{pid_of(policy)}")
            names = [entry.partition("=")[0] for entry in (proc / "environ").read_text().split("\0") if entry]
            assert names == list(policy_sandbox.CHILD_ENVIRONMENT)
            assert all(name.endswith("_NUM_THREADS") for name in names)

            targets = {int(path.name): os.readlink(path) for path in (proc / "fd").iterdir()}
            assert [target for number, target in targets.items() if number < 3] == ["/dev/null"] * 3
            pipes = [target for number, target in targets.items() if number > 2]
            assert len(set(pipes)) == 3  # requests, answers, the lifeline
            assert all(target.startswith("pipe:") for target in pipes)

            assert os.readlink(proc / "cwd").startswith(f"{nothing_left}/policy_sandbox_")
            assert list(nothing_left.iterdir()) == []  # unlinked already
            command = (proc / "cmdline").read_text().split("\0")
            assert command == [sys.executable, "-I", str(ROOT / "policy_sandbox.py"), ""]
            assert os.getsid(pid_of(policy)) == os.getpgid(pid_of(policy)) == pid_of(policy)

            limits = {line[:26].strip(): line[26:].split()[:2] for line in (proc / "limits").read_text().splitlines()}
            assert limits["Max address space"] == [str(1024 * 2**20)] * 2
            assert limits["Max open files"] == [str(max(targets) + 1)] * 2
            for name in ("Max file size", "Max core file size", "Max processes"):
                assert limits[name] == ["0", "0"]


# --- the child's end ---


def test_close_any_number_of_times():
    before = descriptors()
    policy = make(HARMLESS)
    pid = pid_of(policy)
    policy.close()
    assert descriptors() == before
    assert stat_of(pid) is None
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    policy.close()
    with pytest.raises(PolicyError, match=r"closed: close\(\) was called"):
        call(policy, 0)


def test_twenty_children_leave_no_descriptor():
    before = descriptors()
    for i in range(20):
        policy = make(HARMLESS)
        call(policy, i)
        if i % 2:
            policy.close()
        del policy
    assert descriptors() == before


def run_parent(script: str) -> subprocess.Popen:
    """Start a parent of its own; it prints its child's pid first."""
    header = "import os, signal, sys, numpy as np\nfrom policy_sandbox import *\n"
    header += (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell put us in the background
    )
    options = "observation=Observation('floats', (3,)), action=BoxAction(-np.ones(2), np.ones(2))"
    options += ", call_timeout=call_timeout"
    maker = f"def make(source, call_timeout=60.0): return SandboxedPolicy(source, {options})\n"
    script = header + maker + textwrap.dedent(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)


START = """
policy = make("def policy(obs, t):\\n    while t: pass\\n    return [0, 0]")
print(policy._process.pid, flush=True)
"""
CALL = "policy(np.zeros((1, 3)), np.array([1]))\n"


THREAD = (
    "import threading\nthread = threading.Thread(target=lambda: exec({!r}, globals()))\nthread.start()\nthread.join()\n"
)
FORK = "if os.fork() == 0:\n    os.close(1)\n    signal.alarm(10)\n    signal.pause()\n"


@pytest.mark.parametrize(
    "script",
    [
        START + "signal.pause()",
        START + CALL,
        THREAD.format(START) + CALL,
        THREAD.format(START + CALL),
        START + FORK + CALL,
    ],
    ids=["idle", "in a call", "started by a thread", "called by a thread", "with a forked copy"],
)
def test_the_child_dies_with_a_killed_parent(script):
    with run_parent(script) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        assert not dead(pid)
        parent.kill()
    try:
        assert wait_for(lambda: dead(pid))
    finally:
        if not dead(pid):
            os.kill(pid, signal.SIGKILL)


def test_ctrl_c_in_a_call_ends_the_child():
    script = (
        "allowed = os.sched_getaffinity(0)\n"
        + START
        + (
            f"try:\n    {CALL}"
            "except KeyboardInterrupt:\n    print(os.path.exists(f'/proc/{policy._process.pid}'))\n"
            "print(os.sched_getaffinity(0) == allowed)\n"
            f"try:\n    {CALL}"
            "except PolicyError as error:\n    print(error)\n"
        )
    )
    with run_parent(script) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.send_signal(signal.SIGINT)
        assert parent.stdout.read() == "False\nTrue\nthe policy is closed: interrupted\n"
        assert parent.wait() == 0
    assert dead(pid)


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise KeyboardInterrupt", "policy = None; os._exit(0)"])
def test_the_child_ends_with_the_program(end):
    with run_parent(START + end) as parent:
        pid = int(parent.stdout.readline())
        parent.wait()
    assert wait_for(lambda: dead(pid), 1.0)


def test_the_end_of_the_starting_thread_is_not_the_childs():
    made = []
    thread = threading.Thread(target=lambda: made.append(make(HARMLESS)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with made[0] as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]


def test_a_forked_copy_does_not_end_the_child():
    script = START + (
        "if os.fork() == 0:\n    policy.close()\n    os._exit(0)\n"
        "os.wait()\n"
        "print(policy(np.zeros((1, 3)), np.array([0])))\n"
    )
    with run_parent(script) as parent:
        parent.stdout.readline()
        assert parent.stdout.read() == "[[0. 0.]]\n"


RANDOM_KILLS = """
import ctypes, random, tempfile, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us
folder = tempfile.mkdtemp()
tempfile.tempdir = folder
random.seed(0)
for trial in range(50):
    pid = os.fork()
    if pid == 0:
        policy = make("def policy(obs, t):\\n    while t % 100 == 99: pass\\n    return [0, 0]")
        for t in range(10**9):
            policy(np.zeros((1, 3)), np.array([t]))
    time.sleep(random.uniform(0, 0.4))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        print("a child survived")
        os.killpg(os.getpgid(0), signal.SIGKILL)
    except ChildProcessError:
        pass
print(sorted(os.listdir(folder)))
os.rmdir(folder)
"""


def test_no_child_survives_fifty_parents_killed_at_random_points():
    with run_parent(RANDOM_KILLS) as parent:
        assert parent.stdout.read() == "[]\n"


def test_a_child_whose_parent_stands_still_ends_by_its_cpu_limit():
    with run_parent("from functools import partial\nmake = partial(make, call_timeout=0.05)" + START + CALL) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)  # it is in the call by now
        parent.send_signal(signal.SIGSTOP)
        try:
            assert wait_for(lambda: dead(pid), 20.0)
        finally:
            parent.kill()


# --- the operating system's layer ---


@pytest.mark.skipif("seccomp" in policy_sandbox.missing_layers(), reason="no seccomp here")
def test_every_other_system_call_is_refused(monkeypatch):
    """All numbers but the allowed ones, the x32 ones and memory that can be executed among them."""
    calls = policy_sandbox.SYSTEM_CALLS[os.uname().machine]
    # The last two are the kernel's own (x86-64): return points of its probes, let past every filter, and whoever calls
    # them from elsewhere is killed.
    allowed = [*calls["allowed"].values(), *calls["allowed unless executable"].values(), 335, 336]
    mmap, mprotect = calls["allowed unless executable"].values()
    source = f"import ctypes, errno\nallowed = {allowed}\n" + body(
        f"""
        call = ctypes.CDLL(None, use_errno=True).syscall
        def refused(*arguments):
            ctypes.set_errno(0)
            return call(*map(ctypes.c_long, arguments)) == -1 and ctypes.get_errno() == errno.EPERM
        x32 = 0x40000000
        assert all(refused(n, *[0] * 6) for n in range(1000) if n not in allowed)
        assert all(refused(n + x32, *[0] * 6) for n in range(1000))
        assert refused({mmap}, 0, 4096, 7, 0x22, -1, 0)
        memory = call(*map(ctypes.c_long, ({mmap}, 0, 4096, 3, 0x22, -1, 0)))
        assert not refused({mprotect}, 0, 0, 1)
        assert refused({mprotect}, 0, 0, 5)
        return [0.0, 0.0]
        """
    )
    monkeypatch.setattr(policy_sandbox, "_switched_off", ("language",))
    with make(source) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]
        status = Path(f"/proc/{pid_of(policy)}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert "Threads:\t1" in status


def test_what_is_missing_is_said_once_and_refused_when_strict(monkeypatch, capsys):
    monkeypatch.setattr(policy_sandbox, "missing_layers", lambda: {"seccomp": "for a test", "landlock": "the same"})
    for _ in range(2):
        with make(HARMLESS) as policy:
            assert call(policy, 0).tolist() == [[0.0, 0.0]]
            assert "Seccomp:\t0" in Path(f"/proc/{pid_of(policy)}/status").read_text()
    assert capsys.readouterr().out == (
        "policy sandbox: this machine lacks a part of the confinement (seccomp: for a test; landlock: the same); "
        "see docs/sandbox.md\n"
    )
    with pytest.raises(ValueError, match=r"strict sandbox needs what this machine lacks \(seccomp: for a test; "):
        make(HARMLESS, strict=True)


def test_a_strict_run_ends_before_it_begins(monkeypatch):
    """`prepare` is what a script calls before it makes the run's folder."""
    monkeypatch.setattr(policy_sandbox, "missing_layers", lambda: {"seccomp": "for a test"})
    args = SupervisorArgs(supervisor="bundled", sandbox="strict")
    args.env_id, args.guide_window, args.guide_start, args.guide_end = "MountainCarContinuous-v0", 1, 0, 1
    supervisor = Supervisor(args, env_fn=pytest.fail, act=pytest.fail, intervene=pytest.fail, run_dir="run")
    with pytest.raises(ValueError, match="strict sandbox needs what this machine lacks"):
        supervisor.prepare()


@pytest.mark.skipif(bool(policy_sandbox.missing_layers()), reason=f"missing here: {policy_sandbox.missing_layers()}")
def test_strict_runs_where_nothing_is_missing(capsys):
    with make(HARMLESS, strict=True) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]
    assert capsys.readouterr().out == ""


def test_a_machine_without_the_layers(monkeypatch):
    missing = policy_sandbox.missing_layers.__wrapped__
    monkeypatch.setattr(policy_sandbox, "SYSTEM_CALLS", {})
    assert "no filter is written for" in missing()["seccomp"]
    monkeypatch.undo()
    libc = policy_sandbox._libc()
    monkeypatch.setattr(policy_sandbox, "_libc", lambda: types.SimpleNamespace(syscall=lambda *args: -1))
    assert list(missing()) == ["landlock", "seccomp"]
    monkeypatch.setattr(policy_sandbox, "_libc", lambda: libc)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert list(missing()) == ["address space", "landlock", "seccomp"]


def test_a_layer_that_fails_in_the_child_stops_it(monkeypatch):
    """What the parent found to be there, and the kernel then refuses, must not be gone without."""
    monkeypatch.setattr(policy_sandbox, "__file__", str(ROOT / "tests" / "unconfined_child.py"))
    with pytest.raises(PolicyError, match=r"process could not be confined: .*seccomp"):
        make(HARMLESS)


# --- many policies, many calls ---

FLOATS = st.one_of(
    st.sampled_from(["obs[0]", "obs[1]", "obs[-1]", "float(t)", "x", "y", "GAIN", "TABLE['a'][1]", "np.pi", "math.e"]),
    st.floats(-10, 10).map(repr),
    st.integers(-3, 3).map(repr),
)


def grow(inner):
    """Expressions made of smaller ones."""
    one = [
        "(-{})", "abs({})", "float({})", "math.tanh({})", "math.sin({})", "math.sqrt({})", "np.tanh({})", "np.sign({})",
        "np.exp({})", "helper({})", "(lambda a: a * a)({})", "helper({}, gain=2.0)", "float(np.sum(obs * {}))",
        "round({}, 3)", "sum(a * {} for a in obs)", "max([a - {} for a in obs])", "(z := {})", "{{'k': {}}}['k']",
        "np.array([{}, 1.0]).max()", "float(np.linalg.norm(obs - {}))", "sorted(obs, key=lambda a: a * {})[0]",
    ]  # fmt: skip
    two = [
        "({} + {})", "({} - {})", "({} * {})", "({} / {})", "({} % {})", "({} // {})", "({} ** {})", "max({}, {})",
        "min({}, {})", "math.copysign({}, {})", "math.fmod({}, {})", "np.arctan2({}, {})", "np.hypot({}, {})",
        "float({} < {})", "[{}, {}][t % 2]", "float(np.dot(obs[:2], [{}, {}]))", "({} or {})", "({} and {})",
        "float({} in (1, {}))",
    ]  # fmt: skip
    three = [
        "({} if {} > {} else 0.5)", "np.clip({}, {}, {})", "np.where({} > {}, {}, 1.0).item()", "float({} < {} <= {})",
    ]  # fmt: skip
    return st.one_of(
        st.builds(str.format, st.sampled_from(one), inner),
        st.builds(str.format, st.sampled_from(two), inner, inner),
        st.builds(str.format, st.sampled_from(three), inner, inner, inner),
    )


EXPRESSIONS = st.recursive(FLOATS, grow, max_leaves=8)
SIMPLE = st.one_of(
    st.builds("{} = {}".format, st.sampled_from("xyz"), EXPRESSIONS),
    st.builds("{} {}= {}".format, st.sampled_from("xy"), st.sampled_from(["+", "-", "*", "/"]), EXPRESSIONS),
    st.builds("x, y = {}, {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("obs[{}] = {}".format, st.integers(0, 2), EXPRESSIONS),
    st.builds("values.append({})\nx = values[-1]".format, EXPRESSIONS),
    st.builds("return {}".format, EXPRESSIONS),
    st.just("pass"),
)


def block(statements) -> str:
    return textwrap.indent("\n".join(statements), "    ")


def nest(inner):
    blocks = st.lists(inner, min_size=1, max_size=3).map(block)
    return st.one_of(
        st.builds("if {} > {}:\n{}\nelse:\n{}".format, EXPRESSIONS, EXPRESSIONS, blocks, blocks),
        st.builds("for i in range({}):\n{}".format, st.integers(0, 3), blocks),
        st.builds("for i, x in enumerate(obs):\n{}\n    if i > 1: break".format, blocks),
        st.builds("while t > 0:\n    t -= 1\n{}".format, blocks),
        st.builds("try:\n{}\nexcept (ArithmeticError, ValueError):\n{}".format, blocks, blocks),
        st.builds("with np.errstate(all='ignore'):\n{}".format, blocks),
    )


RULES = st.lists(st.recursive(SIMPLE, nest, max_leaves=5), min_size=1, max_size=4).map("\n".join)
RULES_A_POLICY = 12
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

    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(RULES, min_size=RULES_A_POLICY, max_size=RULES_A_POLICY), st.integers(0, 2**32 - 1))
    def check(rules, seed):
        source = FRAME
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
            assert policy(obs, t).tobytes() == expected.tobytes()

    check()


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
            policy(obs, np.array([t]))
            if t == 20_000:
                before = resident(pid_of(policy)), resident("self"), len(descriptors())
        after = resident(pid_of(policy)), resident("self"), len(descriptors())
    assert after[0] - before[0] < 2**20
    assert after[1] - before[1] < 2**21
    assert after[2] == before[2]
