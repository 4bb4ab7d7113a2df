"""The static check: what a rule may be written in, and what is refused."""

import re
import subprocess

import pytest
from sandboxed import HARMLESS, body, make, needs_linux, nothing_left  # noqa: F401

from supervision.sandbox.language import check_source
from supervision.sandbox.messages import PolicyError

pytestmark = needs_linux

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
    "three parameters": ("def policy(obs, t, x):\n    return 0\n", "line 1: .*two positional"),
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
    "star import": ("from os import *\n" + HARMLESS, r"line 1: .*not `from os import`"),
    "nothing of math": ("from math import sys\n" + HARMLESS, "line 1: `from math import sys` is refused"),
    "ndarray called": (body("return np.ndarray(2)"), "line 2: `np.ndarray` may only stand in annotations"),
    "ndarray kept": (body("return isinstance(obs, (a := np.ndarray))"), "line 2: `np.ndarray` may only stand"),
    "ndarray as a default": (body("def f(a: np.ndarray = np.ndarray): pass"), "line 2: `np.ndarray` may only stand"),
    "ndarray assigned": (body("x: float = np.ndarray\nreturn x(2)"), "line 2: `np.ndarray` may only stand"),
    "ndarray first": (body("return isinstance(np.ndarray, int)"), "line 2: `np.ndarray` may only stand"),
    "numpy's name elsewhere": (body("return obs.linalg"), "line 2: `.linalg` is not among the allowed names"),
    "attribute set": (body("obs.shape = (3, 1)\nreturn obs"), "line 2: the attribute `shape` cannot be set"),
    "attribute of the function": (body("policy.calls = 1"), "line 2: the attribute `calls` cannot be set"),
    "walrus in an annotation": ("def policy(obs, t, x: (open := 1) = 0):\n    return open\n", "line 1: `:=` in an ann"),
    "errstate with a function": (
        body("with np.errstate(call=print):\n    return obs"),
        "line 2: np.errstate may only stand in `with",
    ),
    "errstate with a word that is made": (
        body("with np.errstate(all='c' + 'all'):\n    return obs"),
        "line 2: np.errstate may only stand in `with",
    ),
    "errstate's name": (body("e = np.errstate\nreturn obs"), "line 2: np.errstate may only stand in `with"),
    "spread to numpy": (body("return np.add(obs, 1, **{'where': True})"), r"line 2: `\*\*` is refused but in calls of"),
    "spread to a method": (body("return obs.sum(**{'dtype': 'O'})"), r"line 2: `\*\*` is refused but in calls of"),
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


def test_what_models_write_most_is_refused_with_what_to_write_instead():
    """Files, other modules' habits, names that are a slip: a word behind the semicolon that helps."""
    for source, hint in {
        body("return np.loadtxt('w.txt')"): "write its numbers into the source",
        body("return np.zerso(2)"): "did you mean `zeros`?",
        body("return np.random"): "write `np.random.` and a function's name",
        body("return lenght(obs)"): "define it first, or leave it out",
        body("return lenn(obs)"): "did you mean `len`?",
        body("global x"): "use a variable of the function",
        body("obs.shape = (3, 1)\nreturn obs"): "`.reshape` for a shape",
        body("return 1j"): "use real numbers",
        "from math import sqr\n" + HARMLESS: "did you mean `sqrt`?",
        "from math import norm\n" + HARMLESS: "`math` has no `norm`; use numpy's",
        "from math import pi as np\n" + HARMLESS: "`np` is the name of something else here; choose another",
        body("return __file__"): "a rule needs none, leave it out",
        HARMLESS + HARMLESS: "keep one",
        body("async with obs: pass"): "use `with`",
        body("return obs.sum(casting='no')"): "leave it out",
    }.items():
        with pytest.raises(PolicyError, match=f"; .*{re.escape(hint)}"):
            check_source(source)


def test_a_refused_source_starts_no_child(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("started a child"))
    with pytest.raises(PolicyError, match="line 2"):
        make(body("import os"))


def test_several_refusals_come_in_the_order_of_their_lines():
    with pytest.raises(PolicyError) as caught:
        check_source("import os\nimport numpy as np\nx = eval('1')\n")
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["line 1", "line 1", "line 3"]
