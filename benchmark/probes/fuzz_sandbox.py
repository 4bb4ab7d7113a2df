"""Random programs of the rules' language, run confined: none may crash its process, show memory as it was left, or make
an array of anything but numbers (of Python's own, and strings, where arithmetic leaves 64 bits).

    python -m benchmark.probes.fuzz_sandbox --programs 200

Each program holds many statements, each one that the language accepts: calls of any allowed function and method with
arguments that are right, wrong, huge, empty or hostile. The process runs with Python's debugging allocator
(PYTHONMALLOC=debug: freed memory is overwritten, writes beyond a block are found), and glibc fills freed and new
memory with a pattern. A program runs twice, with different patterns: where its digits differ, it has seen memory as it
was left.
"""

import dataclasses
import os
import random
import stat
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from supervision.sandbox import policy as sandbox
from supervision.sandbox.language import check_source
from supervision.sandbox.messages import BoxAction, Observation, PolicyError
from supervision.sandbox.numeric import NUMPY_NUMBERS
from supervision.sandbox.policy import SandboxedPolicy
from supervision.sandbox.vocabulary import ATTRIBUTES, MATH, NUMPY, NUMPY_SUBMODULES, NUMPY_TYPES

NUMBERS = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "0.5",
    "-0.0",
    "1e308",
    "1e-320",
    "math.inf",
    "-math.inf",
    "math.nan",
    "2**31",
    "2**63-1",
    "-2**63",
    "2**64-1",
    "10**30",
    "True",
    "t",
]
ARRAYS = """
obs | obs[::-1] | obs > 0 | np.zeros(3) | np.ones((2, 3)) | np.arange(6).reshape(2, 3) | np.zeros((0, 3))
np.zeros(()) | np.full(3000, 0.5) | np.eye(3) | np.ones((40, 40)) | np.arange(5) | np.arange(700)[::-3]
np.array([True, False, True]) | np.float32(1.5) | np.int8(-7) | np.zeros(3, dtype=np.uint8)
np.ones(3, dtype="float32") | np.linspace(0, 1, 257) | np.array([[0, 1, 2], [2, 1, 0]]) | np.arange(3)[:, None]
np.broadcast_to(obs, (4, 3)) | np.arange(24).reshape(2, 3, 4).T
"""
OTHERS = """
[1, 2, 3] | [0, 1, 2] | [[1, 2], [3, 4]] | [] | [[]] | (0, 1) | (2, 3) | (-1, 1) | [0.5, [1]] | [None] | ['a']
[policy] | [2**63, -1] | {} | {'a': 1} | range(4) | (x for x in obs) | map(float, obs) | zip(obs, obs) | 'O'
'constant' | 'edge' | 'now' | 'M8[s]' | 'f8,f8' | 'float32' | 'ij->ji' | 'i,i' | 'ij,jk' | 'ii' | 'fro' | 'valid'
'same' | 'linear' | 'C' | '' | None | ... | slice(0, 2) | slice(None) | lambda *a: 0 | np.add | np.array | print
policy | obs.dtype | float | int | bool | np.float64 | np.int8 | np.inf | [obs, obs] | [obs, [1, 2]]
[np.ones(2)] * 3 | [[[0]] * 2] * 2 | deque([1, 2]) | {}.keys() | {'a': 1}.keys() | [{}.keys(), 1] | ['%s', 10**30]
[10**30] | np.ones(2, dtype=int) * [10**30] | 'x' * 50
"""
KEYWORDS = """
axis=0 | axis=-1 | axis=5 | axis=(0, 1) | axis=None | dtype=float | dtype=np.int8 | dtype='O' | dtype=object
dtype=policy | out=obs | out=np.zeros(3) | out=np.zeros((2, 3)) | where=obs > 0 | where=True | where=np.zeros(3) > 1
keepdims=True | mode='constant' | mode='empty' | mode='wrap' | mode=policy | initial=0 | ddof=1 | ddof=5
fill_value=2 | weights=obs | order='F' | order='K' | kind='stable' | side='right' | sorter=[0, 1, 2]
return_index=True | return_counts=True | axes=(1, 0) | ord=2 | ord='nuc' | rcond=None | optimize=True
method='midpoint' | bins=3 | bins='auto' | range=(0, 1) | copy=False | like=obs | casting='unsafe' | subok=True
signature='dd->d' | k=1 | k=-2 | n=2 | num=7 | minlength=4 | size=3 | size=(2, 2) | replace=False
p=[0.2, 0.3, 0.5] | low=0 | high=4 | shape=(2, 2) | overwrite_input=True | full_matrices=False | compute_uv=False
UPLO='U' | nan=0.0 | decimals=2 | indexing='ij' | stable=True | prepend=0
"""
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "@", "&", "|", "^", "<<", ">>", "<", "<=", "==", "!=", "in", "is"]
STATEMENTS = 120
NUMERIC = sorted(NUMPY_NUMBERS)
FRAME = """
import math
import numpy as np
from collections import deque

NUMERIC = {numeric}


def check(x):
    if isinstance(x, np.ndarray) and str(x.dtype) not in NUMERIC:
        integers = str(x.dtype) == "object" and all([isinstance(y, (int, float, str)) for y in x.ravel().tolist()])
        return 0.0 if integers else 1e300
    if isinstance(x, (list, tuple)):
        return float(sum([check(y) for y in x[:20]]))
    if isinstance(x, (np.ndarray, int, float, np.number)) and not isinstance(x, bool):
        y = float(np.sum(np.nan_to_num(np.real(np.array(x)) * 1.0, posinf=1.0, neginf=-1.0)) % 1e6)
        return y if math.isfinite(y) else -2.0
    return 0.0


"""


def split(text: str) -> list[str]:
    """The expressions in a text of lines and " | "."""
    return [part.strip() for line in text.strip().splitlines() for part in line.split(" | ")]


ARRAY_POOL, OTHER_POOL, KEYWORD_POOL = split(ARRAYS), split(OTHERS), split(KEYWORDS)
TAME = [*ARRAY_POOL[:12], "0", "1", "2", "0.5", "obs", "obs", "obs", "[0, 1, 2]", "np.eye(3)", "np.arange(3)"]
FUNCTIONS = [f"np.{name}" for name in sorted(NUMPY - NUMPY_TYPES - {"errstate"})]
FUNCTIONS += [f"np.{module}.{name}" for module, names in sorted(NUMPY_SUBMODULES.items()) for name in sorted(names)]
METHODS = sorted(ATTRIBUTES)
MATHS = [f"math.{name}" for name in sorted(MATH)]


class Programs:
    """Makes random programs of which every statement is accepted by the language."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.tame = False

    def value(self, depth: int = 0) -> str:
        """A number, an array, something else, a value of before, or an expression."""
        kind = self.random.random()
        if self.tame:  # mostly what numpy can work with
            if kind < 0.7 or depth > 2:
                return self.random.choice(TAME)
            return f"pool[{self.random.randrange(12)}]" if kind < 0.85 else self.expression(depth + 1)
        if kind < 0.2:
            return self.random.choice(NUMBERS)
        if kind < 0.55:
            return self.random.choice(ARRAY_POOL)
        if kind < 0.75 or depth > 2:
            return self.random.choice(OTHER_POOL)
        if kind < 0.85:
            return f"pool[{self.random.randrange(12)}]"
        return self.expression(depth + 1)

    def arguments(self, depth: int, function: str = "") -> str:
        """What stands in a call's brackets; tame programs give numpy's functions as many as they take."""
        count = self.random.choice((0, 1, 1, 1, 2, 2, 2, 3, 4))
        if self.tame:
            count = getattr(getattr(np, function.removeprefix("np."), None), "nin", self.random.choice((0, 1, 1, 2)))
        given = [self.value(depth) for _ in range(count)]
        if self.random.random() < (0.1 if self.tame else 0.4):
            chosen = self.random.choices(KEYWORD_POOL, k=2)
            given += {keyword.partition("=")[0]: keyword for keyword in chosen}.values()
        return ", ".join(given)

    def expression(self, depth: int = 0) -> str:
        """A call of numpy, a method or math, an operation, a subscript, or random numbers."""
        kind = self.random.random()
        if kind < 0.55:
            function = self.random.choice(FUNCTIONS)
            return f"{function}({self.arguments(depth, function)})"
        if kind < 0.72:
            return f"({self.value(depth)}).{self.random.choice(METHODS)}({self.arguments(depth)})"
        if kind < 0.76:
            return f"{self.random.choice(MATHS)}({self.value(depth)})"
        if kind < 0.90:
            return f"({self.value(depth)} {self.random.choice(OPERATORS)} {self.value(depth)})"
        if kind < 0.96:
            return f"({self.value(depth)})[{self.value(depth)}]"
        return (
            f"np.random.default_rng({self.random.randrange(9)}).{self.random.choice(METHODS)}({self.arguments(depth)})"
        )

    def statement(self) -> str:
        """The lines of a function's body that returns something; it may not be accepted."""
        self.tame = self.random.random() < 0.7
        kind = self.random.random()
        if kind < 0.75:
            return f"x = {self.expression()}\nreturn x"
        if kind < 0.85:
            return f"x = {self.value()}\nx[{self.value()}] = {self.value()}\nreturn x"
        if kind < 0.93:
            return f"x = {self.value()}\nx {self.random.choice('+-*/')}= {self.value()}\nreturn x"
        return (
            f"x = {self.value()}\nwith np.errstate(all={self.random.choice(['ignore', 'raise', 'warn'])!r}):\n"
            f"    return {self.expression()}"
        )

    def accepted(self) -> str:
        """One statement, as the body of a function, that the language accepts."""
        while True:
            body = "".join(f"    {line}\n" for line in self.statement().splitlines())
            try:
                check_source(f"import math\nimport numpy as np\npool = []\ndef policy(obs, t):\n{body}")
                return body
            except PolicyError:
                continue

    def program(self, statements: int = STATEMENTS) -> str:
        """A rule that runs so many statements, each in a function of its own, and returns digits of their values."""
        source = FRAME.format(numeric=NUMERIC)
        for number in range(statements):
            source += f"def s{number}(obs, t, pool):\n{self.accepted()}\n\n"
        names = ", ".join(f"s{number}" for number in range(statements))
        source += (
            f"def policy(obs, t):\n    pool = [0] * 12\n    digits = []\n    for i, s in enumerate([{names}]):\n"
            "        y = 0.0\n        try:\n            x = s(obs.copy(), t, pool)\n            y = check(x)\n"
            "            pool[i % 12] = x\n        except Exception:\n            y = -1.0\n        digits.append(y)\n"
            "    return digits\n"
        )
        return source


@dataclasses.dataclass
class Outcome:
    """What became of one program."""

    source: str
    digits: list[bytes]  # of its runs
    statements: int
    failed: int = 0  # statements that raised
    problem: str = ""
    late: bool = False


def run(source: str, pattern: int, folder: Path) -> np.ndarray:
    """Run a program once and return its digits.

    Args:
        pattern: with which glibc fills memory, 1 to 255.
        folder: for a script that starts Python with its debugging allocator.
    """
    interpreter = folder / "python"
    if not interpreter.exists():
        # -P -s is what is left of -I, which would keep Python from hearing of its allocator
        interpreter.write_text(f'#!/bin/sh\nshift\nPYTHONMALLOC=debug exec {sys.executable} -P -s "$@"\n')
        interpreter.chmod(stat.S_IRWXU)
    statements = source.count("\ndef s")
    bound = np.full(statements, 1e301)
    executable, environment = sys.executable, sandbox.CHILD_ENVIRONMENT
    try:
        sys.executable = str(interpreter)
        sandbox.CHILD_ENVIRONMENT = {**environment, "MALLOC_PERTURB_": str(pattern)}
        with SandboxedPolicy(
            source, observation=Observation("floats", (3,)), action=BoxAction(-bound, bound), call_timeout=20.0,
            start_timeout=30.0, memory_mb=2048,
        ) as policy:  # fmt: skip
            obs = np.array([[0.25, -1.5, 3.0]])
            return np.concatenate([policy(obs, np.array([t])) for t in (0, 1)])
    finally:
        sys.executable, sandbox.CHILD_ENVIRONMENT = executable, environment


def attempt(source: str, folder: Path) -> Outcome:
    """Run a program twice and say what was wrong with it."""
    outcome = Outcome(source, [], source.count("\ndef s"))
    try:
        runs = [run(source, pattern, folder) for pattern in (85, 170)]
    except PolicyError as error:
        text = str(error)
        outcome.late = "took longer" in text or "CPU time limit" in text
        if not outcome.late and "MemoryError" not in text:
            outcome.problem = text
        return outcome
    outcome.digits = [digits.tobytes() for digits in runs]
    outcome.failed = int((runs[0][0] == -1.0).sum())
    if (np.abs(runs[0]) > 1e299).any():
        outcome.problem = f"statement {np.argwhere(np.abs(runs[0]) > 1e299)[0][1]} made an array of no numbers"
    elif outcome.digits[0] != outcome.digits[1]:
        outcome.problem = f"statement {np.argwhere(runs[0] != runs[1])[0][1]} showed memory as it was left"
    return outcome


@dataclasses.dataclass
class Args:
    programs: int = 50
    """programs, each of 120 statements"""
    seed: int = 0
    """of the first program; the others follow"""
    keep: str | None = None
    """folder for the programs with which something was wrong"""


if __name__ == "__main__":
    args = tyro.cli(Args)
    started, statements, failed, late, wrong = time.time(), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seed, args.seed + args.programs):
            outcome = attempt(Programs(seed).program(), Path(folder))
            statements, failed, late = statements + outcome.statements, failed + outcome.failed, late + outcome.late
            if outcome.problem:
                wrong += 1
                print(f"seed {seed}: {outcome.problem}", flush=True)
                if args.keep:
                    os.makedirs(args.keep, exist_ok=True)
                    Path(args.keep, f"{seed}.py").write_text(outcome.source)
    print(
        f"{args.programs} programs, {statements:,} statements ({failed:,} of them raised an error), {late} programs "
        f"too slow, {wrong} with something wrong, {time.time() - started:.0f} s"
    )
    sys.exit(bool(wrong))
