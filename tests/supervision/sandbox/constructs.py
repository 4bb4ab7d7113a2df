"""What language models like to write in a rule: more than 200 constructs that are allowed, and what others become."""

import textwrap


def body(text: str) -> str:
    return "def policy(obs, t):\n" + textwrap.indent(textwrap.dedent(text).strip(), "    ") + "\n"


END = "    return [0.0, 0.0]\n"
HEAD = "import math\nimport numpy as np\n"

# One expression each: x is 0.5, v is obs (three numbers), a an array of 2 × 3, n is 3.
EXPRESSIONS = """
np.fix(1.7) | np.modf(1.7)[0] | np.bincount([0, 1, 1]) | np.ndim(v) | np.block([[a], [a]]) | np.sign(x)
np.hypot(x, x) | np.clip(x, -1.0, 1.0) | np.clip(v, -1, 1) | np.clip(v, a_min=-1, a_max=1) | np.clip(x, None, 1)
v.clip(-1, 1) | np.tanh(x) | np.sin(x) + np.cos(x) | np.arctan2(v[0], v[1]) | np.arctan2(*v[:2]) | np.deg2rad(x)
np.radians(30.0) | np.sqrt(np.sum(v ** 2)) | np.linalg.norm(v) | np.linalg.norm(v, ord=2)
np.linalg.norm(a, axis=1) | np.linalg.norm(a, 'fro') | np.dot(v, v) | v @ v | a @ v | np.matmul(a, v)
np.outer(v, v) | np.cross(v, v) | np.einsum('ij,j->i', a, v) | v.dot(v) | np.sum(a, axis=0)
np.mean(a, axis=1, keepdims=True) | np.std(v) | np.var(v, ddof=1) | np.max(v) | np.min(v) | np.ptp(v) | np.argmax(v)
np.argmin(v) | int(np.argmax(v)) | np.median(v) | np.percentile(v, 90) | np.quantile(v, 0.5) | np.average(v)
np.zeros(2) | np.zeros((2, 3)) | np.zeros(2, dtype=np.float32) | np.zeros(2, dtype=float)
np.zeros(2, dtype='float32') | np.zeros_like(v) | np.ones(n) | np.ones_like(v) | np.full(2, x) | np.full_like(v, x)
np.eye(3) | np.identity(3) | np.array([x, 0.0]) | np.array([x, 0.0], dtype=np.float64) | np.array([0, 1], dtype=int)
np.array(v, dtype='float64') | np.asarray(v) | np.asarray(v, dtype=float) | np.arange(3) | np.arange(0, 1, 0.25)
np.linspace(0, 1, 5) | np.logspace(0, 1, 3) | np.array(range(3)) | np.array(list(range(3)))
np.array([i * x for i in range(3)]) | np.array((1.0, 2.0)) | np.atleast_1d(x) | np.concatenate([v, v])
np.concatenate((v, [x])) | np.stack([v, v]) | np.vstack([v, v]) | np.hstack((v, v)) | np.append(v, x)
np.where(v > 0, 1.0, -1.0) | np.where(v > 0)[0] | np.select([v > 1, v > 0], [1, 2], default=0) | np.nonzero(v)
np.argwhere(v) | np.any(v > 0) | np.all(v > 0) | (v > 0).any() | np.logical_and(v > 0, v < 1) | np.isnan(v).any()
np.isfinite(v).all() | np.maximum(v, 0) | np.minimum(v, 1) | np.abs(v) | np.absolute(v) | np.fabs(v) | np.square(v)
np.power(v, 2) | np.exp(-x) | np.log(abs(x) + 1e-8) | np.log1p(x) | np.expm1(x) | np.floor(x) | np.ceil(x)
np.round(x, 2) | np.rint(x) | np.trunc(x) | np.mod(x, 2 * np.pi) | np.remainder(x, 1) | np.fmod(x, 1) | np.cumsum(v)
np.diff(v) | np.gradient(v) | np.interp(x, [0, 1], [0, 10]) | np.polyval([1, 2], x) | np.convolve(v, v, mode='same')
np.unique(v) | np.sort(v) | np.argsort(v) | np.argsort(-v)[0] | np.searchsorted([0, 1], x) | np.digitize(x, [0, 1])
np.flip(v) | np.roll(v, 1) | np.tile(v, 2) | np.repeat(v, 2) | np.reshape(a, (3, 2)) | np.transpose(a) | a.T
np.squeeze(a) | np.ravel(a) | np.expand_dims(v, 0) | v[None, :] | v[np.newaxis] | np.meshgrid(v, v)[0]
np.unravel_index(4, (2, 3)) | np.trace(a @ a.T) | np.linalg.inv(np.eye(2)) | np.linalg.solve(np.eye(3), v)
np.linalg.det(np.eye(2)) | np.linalg.pinv(a) | np.linalg.lstsq(a, [1.0, 2.0], rcond=None)[0] | np.nan_to_num(v)
np.nan_to_num(v, nan=0.0, posinf=1.0) | np.divide(v, 2.0, out=np.zeros_like(v), where=v > 0) | np.isclose(x, 0.5)
np.allclose(v, v) | np.array_equal(v, v) | np.count_nonzero(v) | np.prod(v) | np.histogram(v, bins=3)[0]
np.isin(2, [1, 2]) | np.sum([c * c for c in v]) | np.mean([1, 2]) | np.pad(v, (0, 2)) | np.pad(v, 1, mode='edge')
np.triu(a) | np.float32(x) | np.float64(x) | np.int64(3) | float(np.float32(x)) | np.pi | np.e | np.inf | -np.inf
np.finfo(float).eps | np.sinc(x) | np.heaviside(x, 0.5) | np.copysign(1.0, x) | np.signbit(x) | np.reciprocal(2.0)
np.cbrt(x) | np.nanmean(v) | np.random.uniform(-1, 1) | np.random.uniform(-1, 1, size=2) | np.random.rand()
np.random.randn(2) | np.random.randint(0, 4) | np.random.normal(0, 0.1) | np.random.choice([0, 1, 2])
np.random.choice(4) | np.random.choice(3, p=[0.2, 0.3, 0.5]) | np.random.default_rng(0).normal(size=2)
np.random.default_rng().integers(0, 4) | np.random.RandomState(0).rand() | math.sin(x) | math.atan2(x, 1)
math.pi / 2 | math.exp(-x) | math.sqrt(x) | math.hypot(x, x) | math.copysign(1, x) | math.tau | math.floor(x)
math.ceil(x) | math.isnan(x) | math.degrees(x) | math.radians(90) | math.fabs(x) | math.log(2.0) | math.inf
float(v[0]) | int(v[0] > 0) | round(x, 3) | abs(x) | min(max(x, -1.0), 1.0) | max(v) | min(v) | sum(v) | len(v)
divmod(n, 2) | pow(x, 2) | x ** 2 | n // 2 | n % 2 | ~n | n << 1 | n & 1 | -x | not x | x if x > 0 else -x
(1 if x > 0 else -1 if x < 0 else 0) | [c for c in v if c > 0] | {i: c for i, c in enumerate(v)} | list(zip(v, v))
list(map(float, v)) | list(filter(None, [0, 1])) | sorted(v) | sorted(range(3), key=lambda i: v[i])
max(range(3), key=lambda i: v[i]) | list(reversed(v)) | all(c > -9 for c in v) | v.tolist() | v.copy() | v.sum()
v.mean() | v.max() | v.min() | v.std() | v.shape | v.shape[0] | v.size | v.ndim | v.dtype | v.flatten() | a.ravel()
a.reshape(-1) | a.reshape(3, 2) | a.reshape((3, 2)) | v.astype(float) | v.astype(np.float32) | v.astype(int)
v.astype('float32') | v.astype(np.int64).sum() | a.sum(axis=0) | a.mean(axis=1) | a.T @ a | v.argmax() | v.round(2)
v[0].item() | v[1:] | v[-1] | v[::-1] | v[:2] * 2 | a[0, 1] | a[:, 0] | a[0][1] | v[v > 0] | v[[0, 2]]
v[np.array([0, 1])] | a[..., 0] | 'left' if x < 0 else 'right' | 'a' + 'b' | str(n) | 'abc'.upper()
'a,b'.split(',') | ','.join(['a', 'b']) | 'abc'.startswith('a') | 'x'.replace('x', 'y') | ' a '.strip()
'LEFT'.lower() | '%.2f' % x | 'a' in 'abc' | 'abc'[0] | 'abc'.find('b') | '7'.isdigit() | {'a': 1}['a']
{'a': 1}.get('b', 0) | list({'a': 1}.items()) | dict(a=1) | {**{'a': 1}, 'b': 2} | tuple(v) | list(v) | [*v, x]
n in {1, 2, 3} | n not in {1, 2} | n in (1, 2) | n in [1, 2] | n in {0: 'a'} | 0 < x < 1 | x is None
(0, 1) in {(0, 1), (1, 0)} | isinstance(v, np.ndarray) | isinstance(n, int) | isinstance(n, (int, np.integer))
isinstance(x, (float, np.floating)) | isinstance(v, (list, tuple)) | isinstance(x, np.number)
isinstance(x, np.generic) | isinstance(n, (int, np.integer)) and not isinstance(n, bool) | bool(v[0])
"""

WHOLE = {
    "from math import *": "from math import *\n" + body("return [sin(pi * t), sqrt(4.0) - 2.0]"),
    "if __name__": HEAD + body("return [0.0, 0.0]") + 'if __name__ == "__main__":\n    print(policy([0], 0))\n',
    "an extra parameter with a default": "def policy(obs, t, kp=1.0):\n    return [0.1 * kp, 0.0]\n",
    "two of them, typed": "def policy(obs: list, t: int, kp: float = 1.0, kd: float = 0.1):\n"
    "    return [kp * kd, 0.0]\n",
    "keyword-only with a default": "def policy(obs, t, *, gain=0.5):\n    return [gain, 0.0]\n",
    "typing": "from typing import List, Optional, Tuple\n"
    "def policy(obs: List[float], t: Optional[int] = None) -> Tuple[float, float]:\n    return 0.0, 0.0\n",
    "typing as a module": "import typing\ndef policy(obs: typing.List[float], t: int):\n" + END,
    "future annotations": "from __future__ import annotations\nimport numpy as np\n"
    "def policy(obs: np.ndarray, t: int) -> np.ndarray:\n" + END,
    "NDArray": "from numpy.typing import NDArray\ndef policy(obs: NDArray, t: int) -> NDArray:\n" + END,
    "typed variables": HEAD + body("x: float = 0.5\ny: 'list[float]' = [x]\nz: int\nreturn [y[0], 0.0]"),
    "typed constants": HEAD + "GAIN: float = 0.5\n" + body("return [GAIN, 0.0]"),
    "Callable": "from collections.abc import Callable\n"
    "def f(g: Callable[[float], float]) -> float:\n    return g(0.5)\n"
    + body("return [f(lambda x: x), 0.0]"),
    "a set of holes": "HOLES = {5, 7, 11, 12}\n" + body("return [0.5 if t in HOLES else 0.0, 0.0]"),
    "a set made of a list": "HOLES = set([5, 7])\n" + body("return [0.5 if t not in HOLES else 0.0, 0.0]"),
    "a frozen set": "HOLES = frozenset((5, 7))\n" + body("return [0.5 if t in HOLES else 0.0, 0.0]"),
    "a set of pairs": body("walls = {(0, 1), (2, 3)}\nreturn [0.5 if (0, t) in walls else 0.0, 0.0]"),
    "a typed set": "HOLES: set = {5, 7}\n" + body("return [0.5 if t in HOLES else 0.0, 0.0]"),
    "an f-string in raise": body("if t < 0:\n    raise ValueError(f'bad step {t}: {obs[0]:.3f}')\nreturn [0.0, 0.0]"),
    "an f-string in assert": body("assert t >= 0, f'bad step {t!r}'\nreturn [0.0, 0.0]"),
    "an f-string in print": body("print(f'{t} {obs}')\nreturn [0.0, 0.0]"),
    "deque": "from collections import deque\nlast = deque(maxlen=3)\n"
    + body("last.append(obs[0])\nif len(last) == 3:\n    last.popleft()\nreturn [len(last) / 3, 0.0]"),
    "errstate": HEAD
    + body("with np.errstate(divide='ignore', invalid='ignore'):\n    x = obs / 0.0\nreturn [0.0, 0.0]"),
    "a state dictionary": "state = {'integral': 0.0}\n"
    + body("state['integral'] += 0.01\nreturn [state['integral'], 0.0]"),
    "a state list": "prev = [None]\n" + body("last = prev[0]\nprev[0] = t\nreturn [0.0 if last is None else 0.1, 0.0]"),
    "reset at the start": "memory = {}\n" + body("if t == 0:\n    memory.clear()\nmemory['t'] = t\nreturn [0.0, 0.0]"),
    "a closure": "def make(gain):\n    def f(x):\n        return gain * x\n    return f\nf = make(0.5)\n"
    + body("return [f(1.0), 0.0]"),
    "nonlocal": body("n = 0\ndef f():\n    nonlocal n\n    n += 1\nf()\nreturn [n / 10, 0.0]"),
    "try": body("try:\n    x = 1 / t\nexcept ZeroDivisionError:\n    x = 0.0\nreturn [min(x, 1.0), 0.0]"),
    "except as": body("try:\n    x = [1][t + 5]\nexcept (IndexError, KeyError) as e:\n    x = 0.0\nreturn [x, 0.0]"),
    "finally": body("try:\n    x = 0.5\nfinally:\n    y = 0.1\nreturn [x, y]"),
    "while": body("i = 0\nwhile i < 3:\n    i += 1\n    if i == 2: continue\nreturn [i / 10, 0.0]"),
    "for else": body("for i in range(3):\n    if i > 5: break\nelse:\n    i = 0\nreturn [i, 0.0]"),
    "nested functions": body(
        "def clip(x, lo=-1.0, hi=1.0):\n    return max(lo, min(hi, x))\nreturn [clip(2.0), clip(-0.5)]"
    ),
    "star arguments": "def f(*xs, **options):\n    return sum(xs) * options.get('gain', 1.0)\n"
    + body("return [f(0.1, 0.2, gain=0.5), f(*[0.1], **{'gain': 2.0})]"),
    "a queue search": body(
        """
        seen, queue = [0], [(0, 0)]
        while queue:
            cell, depth = queue.pop(0)
            for step in (1, 4):
                if cell + step < 16 and cell + step not in seen:
                    seen.append(cell + step)
                    queue.append((cell + step, depth + 1))
        return [len(seen) / 16, 0.0]
        """
    ),
    "a table of rows": "GRID = ['SFFF', 'FHFH', 'FFFH', 'HFFG']\n" + body("return [GRID[1][1] == 'H', 0.0]"),
    "a dictionary of lambdas": body("table = {'a': lambda x: x, 'b': lambda x: -x}\nreturn [table['a'](0.5), 0.0]"),
    "array assignment": HEAD + body("a = np.zeros(2)\na[0] = 0.5\na[1:] += 0.1\na[a > 0.4] = 0.3\nreturn a"),
    "a two-dimensional array": HEAD + body("m = np.zeros((2, 2))\nm[0, 1] = 1.0\nm[1][0] = 0.5\nreturn m[0]"),
    "np.sum of a generator": HEAD + body("return [np.sum(0.1 * x for x in [1, 2]), np.array(x for x in [0.5])[0]]"),
    "swap": body("a, b = 0.1, 0.2\na, b = b, a\nreturn [a, b]"),
    "star unpacking": body("first, *rest = obs\nreturn [0.0 * first, 0.0 * len(rest)]"),
    "walrus": body("if (n := len(obs)) > 2:\n    return [n / 10, 0.0]\nreturn [0.0, 0.0]"),
    "docstrings": '"""A rule."""\n' + body('"""Says what it does."""\nreturn [0.0, 0.0]'),
    "pass and ellipsis": body("if t < 0:\n    pass\nelse:\n    ...\nreturn [0.0, 0.0]"),
    "a negative index and a step": body("return [0.0 * obs[-1], 0.0 * sum(obs[::2])]"),
    "a generator of one": body("return [next(iter([0.5])), next((x for x in obs if x > 9e9), 0.0)]"),
    "a linear algebra error": HEAD
    + body("try:\n    x = np.linalg.inv(np.zeros((2, 2)))\nexcept np.linalg.LinAlgError:\n    x = 0\nreturn [0, x]"),
    "a rotation matrix": HEAD
    + body("c, s = np.cos(0.1), np.sin(0.1)\nR = np.array([[c, -s], [s, c]])\nreturn R @ np.array([0.5, 0.0])"),
    "a seeded generator": HEAD + "rng = np.random.default_rng(42)\n" + body("return rng.uniform(-1, 1, size=2)"),
    "random seed": HEAD + "np.random.seed(0)\n" + body("return np.random.uniform(-1, 1, 2)"),
}  # fmt: skip

# What is refused, and what the refusal names in its place.
REPLACED = {
    "import random": (body("import random\nreturn [random.random(), 0.0]"), "np.random.uniform"),
    "itertools": ("import itertools\n" + body("return [0.0, 0.0]"), "nested loops"),
    "from numpy": ("from numpy import sin\n" + body("return [sin(t), 0.0]"), "import numpy as np"),
    "functools": ("from functools import lru_cache\n" + body("return [0.0, 0.0]"), "helper functions"),
    "dataclass": ("from dataclasses import dataclass\n" + body("return [0.0, 0.0]"), "use a dictionary"),
    "scipy": ("from scipy.linalg import solve\n" + body("return [0.0, 0.0]"), "np.linalg"),
    "torch": ("import torch\n" + body("return [0.0, 0.0]"), "use numpy"),
    "time": ("import time\n" + body("return [time.time(), 0.0]"), "count with `t`"),
    "defaultdict": ("from collections import defaultdict\n" + body("return [0.0, 0.0]"), "lists and dictionaries"),
    "a class": ("class A:\n    pass\n" + body("return [0.0, 0.0]"), "use functions"),
    "global": ("n = 0\n" + body("global n\nn += 1\nreturn [n, 0.0]"), "keeps no state"),
    "yield": (body("yield 0.0"), "return a list"),
    "match": (body("match t:\n    case 0:\n        return [0.0, 0.0]"), "`if` and `elif`"),
    "del": (body("x = [1]\ndel x[0]\nreturn [0.0, 0.0]"), r"`\.pop`"),
    "an f-string": (body("x = f'{t}'\nreturn [0.0, 0.0]"), "`str`"),
    "a set that is walked": (body("x = {1, 2}\nfor y in x: pass\nreturn [0.0, 0.0]"), "a list or a dict"),
    "set()": (body("x = set()\nx.add(1)\nreturn [0.0, 0.0]"), "a list or a dict"),
    "type": (body("return [type(t) is int, 0.0]"), "isinstance"),
    "getattr": (body("return [getattr(obs, 'x', 0), 0.0]"), "a dictionary"),
    "hasattr": (body("return [hasattr(obs, 'x'), 0.0]"), "isinstance"),
    "np.empty": (body("return np.empty(2)"), "np.zeros"),
    "np.vectorize": (body("return np.vectorize(abs)(obs[:2])"), "a loop or a list comprehension"),
    "np.apply_along_axis": (body("return np.apply_along_axis(sum, 0, obs)"), "loop over the rows"),
    "np.piecewise": (body("return np.piecewise(obs, [obs > 0], [1])"), "np.select"),
    "np.trapz": (body("return np.trapz(obs)"), "np.trapezoid"),
    "np.float": (body("return np.float(1)"), "np.float64"),
    "np.r_": (body("return np.r_[obs, 1]"), "np.concatenate"),
    "np.matrix": (body("return np.matrix(obs)"), "np.array"),
    "np.seterr": (body("np.seterr(all='ignore')\nreturn [0.0, 0.0]"), "np.errstate"),
    "astype object": (body("return obs.astype(object)"), "a type of numbers"),
    "dtype object": (body("return obs.sum(dtype='O')"), "a type of numbers"),
    "positional dtype": (body("return obs.sum(0, float)"), "by their names"),
    "format": (body("return '{}'.format(t)"), "`round` or `str`"),
    ".view": (body("return obs.view()"), r"`\.astype` or `\.copy`"),
    ".reduce": (body("return np.add.reduce(obs)"), "np.sum"),
    "keyword spreading": (body("return np.clip(obs, **{'a_min': 0, 'a_max': 1})"), "write the keywords out"),
    "errstate elsewhere": (body("x = np.errstate(all='ignore')\nreturn [0.0, 0.0]"), "with np.errstate"),
    "an attribute": (body("policy.n = 1\nreturn [0.0, 0.0]"), "keeps no state"),
}


def expressions() -> list[str]:
    return [part.strip() for line in EXPRESSIONS.strip().splitlines() for part in line.split(" | ")]
