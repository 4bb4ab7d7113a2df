"""Run a rule-based policy that a language model (or a person) wrote, in a limited child process.

    with SandboxedPolicy(source, observation=Observation("floats", (47,)), action=BoxAction(low, high)) as policy:
        actions = policy(obs, t)  # obs (N, 47), t (N,) -> (N, *action shape) float64
    with SandboxedPolicy(source, observation=Observation("int"), action=DiscreteAction(6)) as policy:
        actions = policy(obs, t)  # obs (N, 1) int64, t (N,) -> (N,) int64

The source defines `policy(obs, t)`. Two layers stand between it and the machine; each alone keeps it from files, the
network and other processes (docs/sandbox.md says what is promised where):

1. Language. `check_source` allows what a rule needs and refuses everything else: the kinds of syntax, the names, the
   attributes, the names of `math` and `numpy` are all allow-lists. What passed is executed with as few builtins.
2. Operating system. The source travels as text to a process of its own and is executed only there. That process starts
   clean (`-I`, an environment of ours, no inherited descriptors, a new session, an empty folder that is unlinked at
   once) and gives up what a policy does not need: limits on memory, file size, open files, processes and CPU time; on
   Linux no new privileges, Landlock without a single rule, and a seccomp filter that leaves it the system calls that
   computing takes. In it an error is a message, an endless loop is a missed deadline and a crash is an end of file, and
   each of them is a `PolicyError` here.

Messages, little-endian, strictly one request and then one answer; nothing is ever unpickled:
    request  kind u8, 3 zero bytes, rows u32, payload bytes u64, payload
             SETUP (rows 0): JSON with the source, the spaces and the limits
             STEP: episode steps, rows x i64, then observations, rows x row shape, f64 or (discrete) i64
    answer   status u8, 3 zero bytes, payload bytes u32, payload
             OK: nothing after SETUP, actions after STEP, rows x action shape f64 or (discrete) rows x i64
             ERROR: UTF-8 text
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import errno
import fcntl
import functools
import importlib
import io
import json
import math
import operator
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

REQUEST = struct.Struct("<B3xIQ")
SETUP, STEP = 1, 2
ANSWER = struct.Struct("<B3xI")
OK, ERROR = 1, 2

SOURCE_NAME = "<policy>"
MAX_SOURCE_CHARS = 65_536
MAX_TEXT_CHARS = 2_000
MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS  # UTF-8 needs at most 4 bytes a character
FIRST_CALL_TIMEOUT = 2.0  # seconds; the first call may fill caches
RENEW_AFTER = 1.0  # seconds for which the child's limit of CPU time stands before a call renews it
PATIENCE = 2.0  # seconds beyond a deadline for a child that other processes keep from computing
TOLERANCE = 1e-6  # how far outside its bounds an action may lie before it is refused rather than clipped

LAYERS = ("language", "limits", "landlock", "seccomp")
_switched_off: tuple[str, ...] = ()  # set by tests alone, to see that each layer holds without the others

CHILD_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class PolicyError(RuntimeError):
    """A policy was refused or misbehaved; `str(error)` is one clear message for a person or for the coder model."""


# --- what goes in and what comes out ---


class Observation(NamedTuple):
    """What `policy` is given of one observation, and the row of an array in which it travels there.

    | kind | space | `policy` gets | row |
    |-|-|-|-|
    | floats | Box | a float64 array of `shape` | numbers of `shape` |
    | int | Discrete, `shape` () | an int | integers (1,) |
    | tuple | Tuple of k Discrete, `shape` (k,) | a tuple of k ints | integers (k,) |
    | ints | MultiDiscrete | an int64 array of `shape` | integers (k,), k = its size |
    """

    kind: Literal["floats", "int", "tuple", "ints"]
    shape: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        return "<f8" if self.kind == "floats" else "<i8"

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self.shape) if self.kind == "floats" else (math.prod(self.shape),)

    def own(self, row: np.ndarray) -> np.ndarray | int | tuple[int, ...]:
        """Return the environment's own observation, which shares no memory with the row."""
        if self.kind == "int":
            return int(row[0])
        if self.kind == "tuple":
            return tuple(row.tolist())
        return np.array(row) if self.kind == "floats" else np.array(row).reshape(self.shape)


class BoxAction(NamedTuple):
    """An array of finite numbers within bounds; where its shape is (1,), `policy` may return a number too."""

    low: np.ndarray  # may be infinite
    high: np.ndarray  # of the same shape


class DiscreteAction(NamedTuple):
    """One integer from `start` to `start + n - 1`: an int, a NumPy integer or an integer array of shape ()."""

    n: int
    start: int = 0


# --- layer 1: the language ---


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SYNTAX = (
    ast.Module, ast.FunctionDef, ast.Lambda, ast.arguments, ast.arg, ast.Return, ast.Expr, ast.Pass, ast.Assert,
    ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.Import, ast.ImportFrom, ast.alias,
    ast.If, ast.IfExp, ast.For, ast.While, ast.Break, ast.Continue, ast.With, ast.withitem,
    ast.Try, ast.ExceptHandler, ast.Raise,
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Call, ast.keyword, ast.Starred,
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
    ast.Tuple, ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.GeneratorExp, ast.comprehension,
    ast.expr_context,
)  # fmt: skip
REFUSED_SYNTAX = {  # what to say; syntax that is in neither table is refused by its name
    ast.ClassDef: "a class is refused; use functions",
    ast.JoinedStr: "an f-string is refused",
    ast.FormattedValue: "an f-string is refused",
    ast.Global: "`global` is refused: a policy keeps no state between calls",
    ast.Delete: "`del` is refused",
    ast.SetComp: "a set is refused except after `in`: its order differs from run to run; use a list or a dict",
    ast.Yield: "`yield` is refused; return a list",
    ast.YieldFrom: "`yield` is refused; return a list",
    ast.Match: "`match` is refused; use `if` and `elif`",
}
CONSTANTS = (bool, int, float, str, type(None), type(...))
BUILTINS = _names(
    """
    abs all any bool dict divmod enumerate filter float int isinstance iter len list map max min next pow print range
    reversed round slice sorted str sum tuple zip
    """
)
EXCEPTIONS = _names(
    """
    ArithmeticError AssertionError Exception FloatingPointError IndexError KeyError LookupError NotImplementedError
    OverflowError RuntimeError StopIteration TypeError ValueError ZeroDivisionError
    """
)
ALLOWED_IMPORTS = (("math", None), ("numpy", None), ("numpy", "np"))  # (module, the name after `as`)
RESERVED = ("np", "numpy", "math", "isinstance")  # the check relies on what they mean, so nothing else may be so called
# Not in it: what reads or writes files, makes arrays over foreign memory, calls back, or gives memory as it was left.
NUMPY = _names(
    """
    abs absolute add all allclose amax amin angle any append arange arccos arccosh arcsin arcsinh arctan arctan2
    arctanh argmax argmin argsort argwhere around array array_equal asarray atleast_1d atleast_2d average bool bool_
    broadcast_to cbrt ceil clip column_stack concatenate convolve copy copysign cos cosh count_nonzero cov cross
    cumprod cumsum deg2rad degrees delete diag diff digitize divide dot e einsum equal errstate exp exp2 expand_dims
    expm1 eye fabs finfo flatnonzero flip float16 float32 float64 floor floor_divide fmax fmin fmod full full_like
    gradient greater greater_equal heaviside histogram hstack hypot identity inf inner insert int16 int32 int64 int8
    interp isclose isfinite isin isinf isnan isscalar kron less less_equal linspace log log10 log1p log2 logaddexp
    logical_and logical_not logical_or logical_xor logspace matmul max maximum mean median meshgrid min minimum mod
    moveaxis multiply nan nan_to_num nanargmax nanargmin nanmax nanmean nanmin nanstd nansum ndarray negative newaxis
    nonzero not_equal ones ones_like outer pad percentile pi polyfit polyval positive power prod ptp quantile rad2deg
    radians ravel ravel_multi_index reciprocal remainder repeat reshape resize rint roll rot90 round searchsorted
    select shape sign signbit sin sinc sinh size sort split sqrt square squeeze stack std subtract sum swapaxes take
    tan tanh tensordot tile trace transpose trapezoid tri tril triu trunc uint8 unique unravel_index unwrap var vdot
    vstack where zeros zeros_like
    """
)
NUMPY_SUBMODULES = {
    "linalg": _names(
        """
        LinAlgError cholesky cond det eig eigh eigvals eigvalsh inv lstsq matrix_power matrix_rank multi_dot norm pinv
        qr slogdet solve svd
        """
    ),
    "random": _names(
        """
        RandomState beta binomial choice default_rng exponential gamma laplace lognormal multivariate_normal normal
        permutation poisson rand randint randn random random_sample seed shuffle standard_normal triangular uniform
        """
    ),
}
MATH = frozenset(name for name in dir(math) if not name.startswith("_"))  # all of it: functions of numbers, constants
ATTRIBUTES = _names(  # of arrays and numbers; of lists, dictionaries and strings; of random generators
    """
    T all any argmax argmin argsort astype clip copy cumprod cumsum diagonal dot dtype eps fill flatten imag is_integer
    item max mean min ndim nonzero prod ptp ravel real repeat reshape round searchsorted shape size sort squeeze std sum
    swapaxes take tiny tolist trace transpose var

    append clear count extend fromkeys get index insert items join keys pop remove reverse setdefault split splitlines
    strip update values

    choice exponential integers normal permutation rand randint randn random random_sample shuffle standard_normal
    uniform
    """
)


def check_source(source: str) -> None:
    """Refuse source that is not a plain `policy(obs, t)` in the allowed language; nothing of it is executed.

    Raises PolicyError that names the lines, one clear line for each refusal, five at most.
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise PolicyError(f"the source has {len(source)} characters, more than {MAX_SOURCE_CHARS}")
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes in strings; they would go to the terminal
            tree = ast.parse(source, SOURCE_NAME)
    except SyntaxError as error:
        raise PolicyError(f"line {error.lineno or 1}: syntax error: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes and surrogates; too deeply nested
        raise PolicyError(f"the source cannot be parsed: {str(error) or 'it is nested too deeply'}") from None
    if not tree.body:
        raise PolicyError("the source is empty")

    refusals = set(_shape_refusals(tree))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    known = BUILTINS | EXCEPTIONS | set(RESERVED) | {name for node in ast.walk(tree) for name in _bound(node)}
    for node in ast.walk(tree):
        located = node
        while not hasattr(located, "lineno") and located in parents:
            located = parents[located]
        refusals |= {(getattr(located, "lineno", 1), reason[:200]) for reason in _refusals(node, parents, known)}
    if refusals:
        raise PolicyError("\n".join(f"line {line}: {reason}" for line, reason in sorted(refusals)[:5]))


def _shape_refusals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Say, with the line, why the source is not one top-level `policy` of two parameters."""
    policies = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "policy"]
    if not policies:
        yield 1, "there is no top-level function `def policy(obs, t)`"
    for node in policies[1:]:
        yield node.lineno, f"`policy` is already defined in line {policies[0].lineno}"
    for node in policies:
        a = node.args
        if len(a.posonlyargs) + len(a.args) != 2 or a.vararg or a.kwonlyargs or a.kwarg:
            yield node.lineno, "`policy` must take exactly two positional parameters, obs and t"


def _bound(node: ast.AST) -> list[str]:
    """Return the names that one node binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)) | ast.alias(name=name):
            return [name]
    return []


def _refusals(node: ast.AST, parents: dict[ast.AST, ast.AST], known: set[str]) -> Iterator[str]:
    """Say what is refused about one node of the syntax tree, its children apart."""
    parent = parents.get(node)
    if not isinstance(node, SYNTAX):
        yield REFUSED_SYNTAX.get(type(node), f"{type(node).__name__} is not in the allowed language")
    if not isinstance(node, ast.Constant):  # every other string in a tree is an identifier
        for _, value in ast.iter_fields(node):
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and name.startswith("__") and name.endswith("__"):
                    yield f"the dunder name `{name}` is refused"
    if not isinstance(node, ast.alias):
        yield from (f"`{name}` is the name of something else here" for name in _bound(node) if name in RESERVED)

    if isinstance(node, ast.Constant) and not isinstance(node.value, CONSTANTS):
        yield f"a constant of type {type(node.value).__name__} is refused"
    elif isinstance(node, ast.FunctionDef) and node.decorator_list:
        yield "a decorator is refused"
    elif isinstance(node, ast.Set) and not _follows_in(node, parent):
        yield REFUSED_SYNTAX[ast.SetComp]
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if (alias.name, alias.asname) not in ALLOWED_IMPORTS:
                name = alias.name + (f" as {alias.asname}" if alias.asname else "")
                yield f"only `import math` and `import numpy as np` are allowed, not `import {name}`"
    elif isinstance(node, ast.ImportFrom) and (node.module != "math" or node.level):
        module = "." * node.level + (node.module or "")
        yield f"only `from math import ...` is allowed, not `from {module} import`"
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if alias.name not in MATH or alias.asname in RESERVED:
                yield f"`from math import {alias.name}{f' as {alias.asname}' if alias.asname else ''}` is refused"
    elif isinstance(node, ast.Name):
        if node.id not in known:
            yield f"the name `{node.id}` is neither defined here nor among the allowed builtins"
        elif node.id in ("np", "numpy", "math") and not isinstance(parent, ast.Attribute):
            yield f"`{node.id}` may only stand before a dot"  # so no variable ever holds a module
    elif isinstance(node, ast.Attribute):
        yield from _attribute_refusals(node, parents)


def _attribute_refusals(node: ast.Attribute, parents: dict[ast.AST, ast.AST]) -> Iterator[str]:
    if not isinstance(node.ctx, ast.Load):
        yield f"the attribute `{node.attr}` cannot be set: a policy keeps no state between calls"
    match node.value:
        case ast.Name(id="math"):
            allowed, name = MATH, f"math.{node.attr}"
        case ast.Name(id="np" | "numpy"):
            allowed, name = NUMPY, f"np.{node.attr}"
            if node.attr in NUMPY_SUBMODULES and isinstance(parents[node], ast.Attribute):
                return
            if node.attr == "ndarray" and not _names_a_type(node, parents):
                yield "`np.ndarray` may only stand in annotations and in isinstance; use np.zeros or np.array"
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=submodule) if submodule in NUMPY_SUBMODULES:
            allowed, name = NUMPY_SUBMODULES[submodule], f"np.{submodule}.{node.attr}"
        case _:
            allowed, name = ATTRIBUTES, f".{node.attr}"
    if node.attr not in allowed:
        yield f"`{name}` is not among the allowed names"


def _follows_in(node: ast.Set, parent: ast.AST) -> bool:
    """Tell whether a set is only asked whether it contains something: then its order is never seen."""
    return isinstance(parent, ast.Compare) and any(
        right is node and isinstance(operator, ast.In | ast.NotIn)
        for operator, right in zip(parent.ops, parent.comparators, strict=True)
    )


def _names_a_type(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Tell whether an expression is (part of) an annotation or the second argument of isinstance."""
    child, parent = node, parents[node]
    while isinstance(parent, ast.BinOp | ast.Subscript | ast.Tuple):  # `np.ndarray | None`, `list[np.ndarray]`
        child, parent = parent, parents[parent]
    match parent:
        case ast.Call(func=ast.Name(id="isinstance"), args=[_, second]):
            return second is child
        case (
            ast.FunctionDef(returns=annotation) | ast.arg(annotation=annotation) | ast.AnnAssign(annotation=annotation)
        ):
            return annotation is child
    return False


# --- layer 2: the operating system ---


# From the kernel's headers (linux/seccomp.h, linux/filter.h, linux/audit.h, linux/landlock.h, linux/prctl.h).
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_FILTER, SECCOMP_ACTION_AVAILABLE = 1, 2
SECCOMP_ALL_THREADS = 1
SECCOMP_KILL, SECCOMP_ALLOW, SECCOMP_FAIL = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
LOAD, IF_EQUAL, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # the four instructions used of the filter's machine
NUMBER, ARCHITECTURE, PROTECTION = 0, 4, 32  # offsets in struct seccomp_data: nr, arch, low half of args[2]
PROT_EXEC = 4
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, LANDLOCK_VERSION = 444, 446, 1
SYSTEM_CALLS = {  # what computing takes: memory, the two pipes, the clock and the CPU timer, the end
    "x86_64": {
        "architecture": 0xC000003E,
        "seccomp": 317,
        "allowed": {
            "write": 1, "munmap": 11, "brk": 12, "rt_sigreturn": 15, "readv": 19, "sched_yield": 24, "mremap": 25,
            "madvise": 28, "setitimer": 38, "futex": 202, "clock_gettime": 228, "exit_group": 231,
        },
        "allowed unless executable": {"mmap": 9, "mprotect": 10},
    },
    "aarch64": {
        "architecture": 0xC00000B7,
        "seccomp": 277,
        "allowed": {
            "write": 64, "munmap": 215, "brk": 214, "rt_sigreturn": 139, "readv": 65, "sched_yield": 124, "mremap": 216,
            "madvise": 233, "setitimer": 103, "futex": 98, "clock_gettime": 113, "exit_group": 94,
        },
        "allowed unless executable": {"mmap": 222, "mprotect": 226},
    },
}  # fmt: skip


@functools.cache
def missing_layers() -> dict[str, str]:
    """Return what this machine cannot enforce of the operating system's layer, with the reason; it changes nothing."""
    if sys.platform != "linux":
        reason = f"{sys.platform} does not offer it"
        return {"address space": "it has no limit", "landlock": reason, "seccomp": reason}
    missing = {}
    if _libc().syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION) < 1:
        missing["landlock"] = f"the kernel refuses it: {os.strerror(ctypes.get_errno())}"
    machine = os.uname().machine
    if machine not in SYSTEM_CALLS or sys.maxsize < 2**32:
        missing["seccomp"] = f"no filter is written for {machine} with {sys.maxsize.bit_length() + 1}-bit Python"
    elif _libc().syscall(
        SYSTEM_CALLS[machine]["seccomp"], SECCOMP_ACTION_AVAILABLE, 0, ctypes.byref(ctypes.c_uint32(SECCOMP_KILL))
    ):
        missing["seccomp"] = f"the kernel refuses it: {os.strerror(ctypes.get_errno())}"
    return missing


def check_platform(strict: bool) -> None:
    """Say, once in a process, what this machine cannot enforce; with `strict` raise a ValueError instead."""
    missing = "; ".join(f"{layer}: {reason}" for layer, reason in missing_layers().items())
    if missing and strict:
        raise ValueError(f"the strict sandbox needs what this machine lacks ({missing}); use auto to run without it")
    if missing:
        _say_once(f"policy sandbox: this machine lacks a part of the confinement ({missing}); see docs/sandbox.md")


@functools.cache
def _say_once(text: str) -> None:
    print(text, flush=True)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _confine(layers: list[str], memory_mb: int, files: int) -> None:
    """Give up for good what a policy does not need; OSError where the kernel refuses.

    Args:
        files: the number of descriptors in use, so that no more can be opened.
    """
    if "landlock" in layers:
        _deny_files_and_signals()
    if "limits" in layers:
        limits = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NOFILE: files,
            resource.RLIMIT_NPROC: 0,  # root is exempt
            resource.RLIMIT_AS: memory_mb * 2**20,
        }
        if sys.platform != "linux":  # macOS refuses it
            del limits[resource.RLIMIT_AS]
        for which, value in limits.items():
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
    if "seccomp" in layers:
        _filter_system_calls()


def _require(result: int, what: str) -> int:
    """Pass a system call's result on; OSError where it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _no_new_privileges() -> None:
    arguments = [ctypes.c_ulong(value) for value in (1, 0, 0, 0)]
    _require(_libc().prctl(PR_SET_NO_NEW_PRIVS, *arguments), "no_new_privs")


def _deny_files_and_signals() -> None:
    """Landlock: a ruleset that handles everything this kernel knows about and allows nothing of it."""
    _no_new_privileges()
    version = _libc().syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    files = 2 ** {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16) - 1  # kinds of access to files and folders
    network = 0b11 if version >= 4 else 0  # TCP: bind, connect
    scoped = 0b11 if version >= 6 else 0  # abstract UNIX sockets, signals to processes outside
    attributes = struct.pack("=QQQ", files, network, scoped)  # an older kernel accepts a longer one that ends in zeros
    ruleset = _require(_libc().syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0), "Landlock's ruleset")
    _require(_libc().syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _filter_system_calls() -> None:
    """seccomp: fail every system call but a few with EPERM, in all threads and for good.

    The filter is a program for the kernel's classic BPF machine; it sees the number and the raw arguments of a call.
    """
    calls = SYSTEM_CALLS[os.uname().machine]

    def instruction(code: int, value: int, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, skip_if_true, skip_if_false, value)

    program = [
        instruction(LOAD, ARCHITECTURE),  # numbers mean other calls in the 32-bit tables
        instruction(IF_EQUAL, calls["architecture"], skip_if_true=1),
        instruction(RETURN, SECCOMP_KILL),
        instruction(LOAD, NUMBER),
    ]
    for number in calls["allowed"].values():
        program += [instruction(IF_EQUAL, number, skip_if_false=1), instruction(RETURN, SECCOMP_ALLOW)]
    for number in calls["allowed unless executable"].values():  # no new machine code
        program += [
            instruction(IF_EQUAL, number, skip_if_false=4),
            instruction(LOAD, PROTECTION),
            instruction(IF_ANY_BIT, PROT_EXEC, skip_if_true=1),
            instruction(RETURN, SECCOMP_ALLOW),
            instruction(RETURN, SECCOMP_FAIL),
        ]
    program.append(instruction(RETURN, SECCOMP_FAIL))

    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))  # struct sock_fprog
    _no_new_privileges()
    result = _libc().syscall(calls["seccomp"], SECCOMP_SET_FILTER, SECCOMP_ALL_THREADS, header)
    _require(-abs(result), "seccomp")  # a positive number is that of a thread that it could not reach


# --- the parent's side ---

# The child is killed by the kernel when the last copy of its lifeline's write end is closed; a forked copy of this
# process (a vector environment's worker, say) must not keep it alive.
_lifelines: weakref.WeakSet[io.FileIO] = weakref.WeakSet()


def _drop_lifelines() -> None:
    for lifeline in list(_lifelines):
        lifeline.close()


os.register_at_fork(after_in_child=_drop_lifelines)


class SandboxedPolicy:
    """A policy that runs in a child process of its own; call it like a function, from one thread at a time.

    The child's `np.random` is seeded with `seed` before the source is loaded, and generators that the source makes
    without a seed are seeded from it too, so equal seeds and equal calls give equal actions.

    Args:
        source: Python source that `check_source` accepts.
        observation: what the policy is given.
        action: what it must return.
        seed: 0 to 2**32 - 1.
        call_timeout: seconds per row that a call may take; the first one may take 2 s. Where a busy machine gave the
            child less CPU time than that, it may take up to 2 s more (on Linux).
        start_timeout: seconds for the child to start, import numpy and run the source's top level.
        memory_mb: address space of the child in MiB, Python and numpy included.
        strict: refuse to run where this machine cannot enforce all of the operating system's layer; otherwise what is
            missing is printed once.

    Raises:
        PolicyError: the source is refused, or its top level fails. From a call: the policy raised, was late, died, or
            returned something other than an action (finite numbers of the right shape within the bounds, or an
            integer of the range). After that the child is gone and the object closed.
        ValueError: an argument, of this constructor or of a call, has a wrong shape, type or range; `strict` cannot be.
    """

    def __init__(
        self,
        source: str,
        *,
        observation: Observation,
        action: BoxAction | DiscreteAction,
        seed: int = 0,
        call_timeout: float = 0.05,
        start_timeout: float = 5.0,
        memory_mb: int = 1024,
        strict: bool = False,
    ) -> None:
        check_platform(strict)
        if "language" not in _switched_off:
            check_source(source)
        self.source = source
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be within 0 and 2**32 - 1, got {seed}")
        self._observation = observation
        self._discrete = isinstance(action, DiscreteAction)
        if self._discrete:
            first, last = int(action.start), int(action.start + action.n - 1)
            if not -(2**63) <= first <= last < 2**63:
                raise ValueError(f"discrete actions need n >= 1 and 64-bit numbers, got {action}")
            self._low = self._least = np.array(first, dtype=np.int64)
            self._high = self._most = np.array(last, dtype=np.int64)
            expected = f"an int or a NumPy integer from {first} to {last}"
        else:
            self._low, self._high = (np.array(bound, dtype=np.float64) for bound in action)
            if self._low.shape != self._high.shape or not (self._low <= self._high).all():
                raise ValueError(f"action bounds need equal shapes and low <= high, got {action.low} and {action.high}")
            # Clamped to the finite numbers, so that one comparison with them also refuses NaN and infinity.
            largest = np.finfo(np.float64).max
            self._least = np.maximum(self._low - TOLERANCE, -largest)
            self._most = np.minimum(self._high + TOLERANCE, largest)
            expected = f"an array of real numbers of shape {self._low.shape}"
        self._call_timeout = call_timeout
        self._called = False
        self._processor = -1  # where the child was last put
        self._closed = ""  # why, once it is closed
        self._rows = 0
        self._answer = memoryview(bytearray(ANSWER.size + MAX_TEXT_BYTES))
        lifeline, self._lifeline = _pipe()
        setup = json.dumps(
            {
                "source": source,
                "observation": observation,
                "action_shape": None if self._discrete else self._low.shape,
                "expected": expected,
                "seed": int(seed),
                "memory_mb": int(memory_mb),
                "start_timeout": start_timeout,
                "call_timeout": call_timeout,
                "lifeline": lifeline.fileno(),
                "layers": [layer for layer in LAYERS if layer not in (*_switched_off, *missing_layers())],
            }
        ).encode()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", os.path.abspath(__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd=tempfile.gettempdir(),
                env=CHILD_ENVIRONMENT,
                close_fds=True,
                pass_fds=[lifeline.fileno()],
                start_new_session=True,
            )
        finally:
            lifeline.close()
        self._destroy = weakref.finalize(self, _destroy, self._process, self._lifeline, os.getpid())
        try:
            self._to_child, self._from_child = self._process.stdin.fileno(), self._process.stdout.fileno()
            os.set_blocking(self._to_child, False)
            os.set_blocking(self._from_child, False)
            self._writable, self._readable = select.poll(), select.poll()
            self._writable.register(self._to_child, select.POLLOUT)
            self._readable.register(self._from_child, select.POLLIN)
            request = memoryview(REQUEST.pack(SETUP, 0, len(setup)) + setup)
            self._ask(request, 0, start_timeout, lambda: "loading the policy")
        except BaseException as error:  # Ctrl-C too: no half-started child may stay
            self._close(str(error))
            raise

    def __call__(self, obs: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the policy's actions: (N, *action shape) float64, clipped to the bounds; discrete ones (N,) int64.

        Args:
            obs: observations, (N, *row shape) as `Observation` has it, of any real or integer dtype.
            t: steps of the current episodes, (N,), integers.
        """
        if self._closed:
            raise PolicyError(f"the policy is closed: {self._closed}")
        obs, t = np.asarray(obs), np.asarray(t)
        rows = t.size
        if t.shape != (rows,) or rows == 0 or t.dtype.kind not in "iu":
            raise ValueError(f"t must be integers of shape (N,), N > 0, got {t.dtype} of shape {t.shape}")
        if rows != self._rows:
            self._allocate(rows)
        floats = self._observation.kind == "floats"
        if obs.shape != self._obs.shape or obs.dtype.kind not in ("biuf" if floats else "iu"):
            numbers = "real numbers" if floats else "integers"
            raise ValueError(f"obs must be {numbers} of shape {self._obs.shape}, got {obs.dtype} of shape {obs.shape}")
        self._t[...] = t
        self._obs[...] = obs
        seconds = rows * self._call_timeout if self._called else max(FIRST_CALL_TIMEOUT, rows * self._call_timeout)
        self._called = True
        allowed = () if _getcpu is None else os.sched_getaffinity(0)
        several = len(allowed) > 1
        try:
            try:
                if allowed:
                    self._meet_on_one_processor(several)
                self._ask(self._request, self._actions.nbytes, seconds, self._where)
            finally:
                # Without a call of our own, at which a second Ctrl-C could come in: a thread that is left on one
                # processor would slow the learner for good.
                if several:
                    try:  # noqa: SIM105
                        os.sched_setaffinity(0, allowed)
                    except OSError:
                        pass
            return self._checked(self._actions)
        except BaseException as error:  # Ctrl-C too: an answer that nobody read would be taken for the next one
            self._close(str(error))
            raise

    def close(self) -> None:
        """Kill the child and what it started, reap it, close the pipes; any number of times."""
        self._close("close() was called")

    def __enter__(self) -> SandboxedPolicy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _close(self, why: str) -> None:
        self._closed = self._closed or why or "interrupted"
        self._destroy()

    def _meet_on_one_processor(self, several: bool) -> None:
        """Put this thread (where it has several to choose from) and the child on the processor where this thread is.

        They take turns, so they lose nothing by it, and neither has to wake another processor from its sleep: on an
        otherwise idle virtual machine that takes several times as long as the policy.
        """
        here = _getcpu()
        try:
            if several:
                os.sched_setaffinity(0, {here})  # of this thread alone, not of the learner's others
            if here != self._processor:
                self._processor = here
                os.sched_setaffinity(self._process.pid, {here})
        except OSError:  # not ours to choose here, or no child: the exchange reports that
            pass

    def _allocate(self, rows: int) -> None:
        """Lay out the request and answer buffers for this number of rows."""
        row_shape = self._observation.row_shape
        obs_size = math.prod(row_shape)
        payload = 8 * rows * (1 + obs_size)
        request = bytearray(REQUEST.size + payload)
        REQUEST.pack_into(request, 0, STEP, rows, payload)
        answer = bytearray(ANSWER.size + max(8 * rows * self._low.size, MAX_TEXT_BYTES))
        shape = (rows, *self._low.shape)
        self._t = np.frombuffer(request, "<i8", rows, REQUEST.size)  # (N,)
        self._obs = np.frombuffer(request, self._observation.dtype, rows * obs_size, REQUEST.size + 8 * rows)
        self._obs = self._obs.reshape(rows, *row_shape)
        self._actions = np.frombuffer(answer, self._low.dtype.newbyteorder("<"), rows * self._low.size, ANSWER.size)
        self._actions = self._actions.reshape(shape)
        # No lower than low and no higher than high, and finite: what needs no clipping.
        self._lows = rows * np.maximum(self._low, self._least).ravel().tolist()
        self._highs = rows * np.minimum(self._high, self._most).ravel().tolist()
        self._request, self._answer = memoryview(request), memoryview(answer)
        self._rows = rows

    def _ask(self, request: memoryview, expected: int, seconds: float, what: Callable[[], str]) -> None:
        """Make one round trip: afterwards the answer buffer holds an OK with a payload of `expected` bytes.

        Raises PolicyError; `what()` says what was asked for.
        """
        try:
            self._deadline = time.monotonic() + seconds
            self._cpu_deadline = _cpu_time(self._process.pid) + seconds
            self._last_deadline = self._deadline + PATIENCE
            status, size = self._exchange(request)
        except TimeoutError:
            raise PolicyError(f"{what()} took longer than {seconds:g} s") from None
        except (EOFError, BrokenPipeError):
            self._destroy()
            code = self._process.returncode
            how = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
            raise PolicyError(f"{what()} ended the policy's process: {how}") from None
        if status == ERROR:
            text = bytes(self._answer[ANSWER.size : ANSWER.size + size]).decode("utf-8", "replace")[:MAX_TEXT_CHARS]
            # Written by hostile code: no terminal escapes in a log.
            raise PolicyError("".join(c if c.isprintable() or c == "\n" else "?" for c in text))
        if size != expected:
            raise PolicyError(f"{what()} gave {size} bytes instead of {expected}")

    def _exchange(self, request: memoryview) -> tuple[int, int]:
        """Send a request and read one whole answer; return its status and the number of payload bytes.

        Raises TimeoutError; EOFError or BrokenPipeError where the child is gone; PolicyError for a malformed answer.
        """
        while request:
            try:
                request = request[os.write(self._to_child, request) :]
            except BlockingIOError:
                self._wait(self._writable)
        answer, got, whole = self._answer, 0, ANSWER.size
        while got < whole:
            self._wait(self._readable)
            count = os.readv(self._from_child, [answer[got:] if got else answer])
            if not count:
                raise EOFError
            got += count
            if got >= ANSWER.size:
                status, size = ANSWER.unpack_from(answer)
                whole = ANSWER.size + size
                if status not in (OK, ERROR) or whole > len(answer) or (status == ERROR and size > MAX_TEXT_BYTES):
                    raise PolicyError(f"the policy's process sent a malformed answer: status {status}, {size} bytes")
        if got > whole:
            raise PolicyError(f"the policy's process sent {got - whole} bytes more than it announced")
        return status, size

    def _wait(self, poller: select.poll) -> None:
        """Wait until the poller's descriptor is ready or its other end closed; TimeoutError after the deadlines."""
        # Polled at least once: an answer that is there counts, however late this process itself comes to read it.
        while not poller.poll(max(0, math.ceil(1e3 * (self._deadline - time.monotonic())))):
            # A stall of a busy machine must not end a training run's guidance: what counts is the child's own time.
            missing = self._cpu_deadline - _cpu_time(self._process.pid)
            if missing <= 0 or self._deadline >= self._last_deadline:
                raise TimeoutError
            self._deadline = min(time.monotonic() + missing, self._last_deadline)

    def _where(self) -> str:
        steps = ", ".join(map(str, self._t[:5])) + (f", ... ({self._rows} rows)" if self._rows > 5 else "")
        return f"policy(obs, t) at t={steps}"

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions, clipped to the bounds, as a new array; PolicyError for a bad one."""
        # The usual case first, in numbers of Python: processes that take turns find their caches cold, and then numpy's
        # comparisons cost more than a loop over a few numbers.
        values = actions.ravel().tolist()
        if all(map(operator.le, self._lows, values)) and all(map(operator.le, values, self._highs)):
            return actions.copy()
        good = (actions >= self._least) & (actions <= self._most)
        if not good.all():
            row, *index = np.argwhere(~good)[0].tolist()
            at = tuple(index)
            name = "action" + (f"[{', '.join(map(str, at))}]" if at else "")
            allowed = "an integer from {} to {}" if self._discrete else "finite and within [{}, {}]"
            raise PolicyError(
                f"policy(obs, t) returned {name} = {actions[row][at].item()!r} at t={self._t[row]}; it must be "
                + allowed.format(self._low[at], self._high[at])
            )
        return np.minimum(np.maximum(actions, self._low), self._high)


# sched_getcpu(3): the number of the processor that the caller runs on; macOS has none.
_getcpu: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)


def _cpu_time(pid: int) -> float:
    """Return the CPU seconds of a child process, from an arbitrary origin; wall-clock seconds where nobody tells."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) does on Linux
    except OSError:
        return time.monotonic()


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    """Return the two ends of a new pipe, to read and to write; forked copies of this process drop the second."""
    read_end, write_end = (os.fdopen(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    _lifelines.add(write_end)
    return read_end, write_end


def _destroy(process: subprocess.Popen, lifeline: io.FileIO, owner: int) -> None:
    """End the child: kill its process group, close the pipes, reap it; in a forked copy of the owner close only."""
    mine = os.getpid() == owner
    if mine:  # not reaped before this, so its number cannot belong to anybody else
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS, where all of the group is dead already
            os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.stdout.close()
    lifeline.close()
    if mine:
        process.wait()


# --- the child's side ---


def _child_main() -> None:
    """Take the setup from fd 0, confine this process, load the policy, then answer requests until the pipe ends."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    # Unlinked while this process is in it: nothing can be created in it, and nothing stays behind whoever is killed.
    folder = tempfile.mkdtemp(prefix="policy_sandbox_", dir=os.getcwd())
    os.chdir(folder)
    os.rmdir(folder)

    header = bytearray(REQUEST.size)
    _read(requests, header)
    kind, _, size = REQUEST.unpack(header)
    if kind != SETUP:
        raise ValueError(f"expected a setup, got a request of kind {kind}")
    text = bytearray(size)
    _read(requests, text)
    setup = json.loads(text)
    layers, source = setup["layers"], setup["source"]
    warnings.simplefilter("ignore")
    # After _confine no file can be opened, so what honest code makes Python or numpy load lazily is loaded here:
    # unicodedata for names such as θ, numpy.ma for np.median and np.unique.
    for name in ("unicodedata", "numpy.ma", "numpy.random"):
        importlib.import_module(name)
    np.random.seed(setup["seed"])
    # Where numpy's generators take their entropy from when the policy gives them no seed.
    np.random.bit_generator.randbits = random.Random(setup["seed"]).getrandbits
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the parent may have left it ignored or blocked
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        if sys.platform == "linux":
            _die_with_parent(setup["lifeline"])
        _confine(layers, setup["memory_mb"], files=max(requests, answers, setup["lifeline"]) + 1)
    except OSError as error:
        _answer_error(answers, f"the policy's process could not be confined: {error}")
        return

    renewal, granted = -math.inf, 0.0

    def cpu_limit(seconds: float) -> None:
        """Have the kernel end this process when it computes for this long, and some more, without an answer.

        The parent's deadline comes first; this one holds where the parent is gone. RLIMIT_CPU counts the CPU time of
        the whole life, which in an honest long run reaches any value.
        """
        nonlocal renewal, granted
        now = time.monotonic()
        if "limits" in layers and (now >= renewal or seconds != granted):  # not at every call: it takes a system call
            renewal, granted = now + RENEW_AFTER, seconds
            signal.setitimer(signal.ITIMER_PROF, seconds + RENEW_AFTER + PATIENCE)

    cpu_limit(setup["start_timeout"])
    try:
        policy = _load(source, "language" in layers)
    except BaseException as error:  # on purpose: a policy may raise SystemExit or worse
        _answer_error(answers, _describe(error, "the top level of the source", source))
        return
    _write(answers, memoryview(ANSWER.pack(OK, 0)))
    _serve(
        policy, source, requests, answers, Observation(*setup["observation"]), setup["action_shape"], setup["expected"],
        lambda rows: cpu_limit(max(FIRST_CALL_TIMEOUT, rows * setup["call_timeout"])),
    )  # fmt: skip


def _die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process when the write end of its lifeline, which the parent holds, is closed.

    That needs no cooperation of this process, be it in an endless loop of C code, and unlike PR_SET_PDEATHSIG it is
    tied to the parent's life and not to that of the thread which started this process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    poller = select.poll()
    poller.register(lifeline, 0)
    if poller.poll(0):  # closed already, before there was a signal to be had
        os._exit(0)


def _load(source: str, restricted: bool) -> Callable[[np.ndarray, int], object]:
    """Execute the source, if restricted with few builtins, and return its `policy`; raises whatever that raises."""
    allowed = vars(builtins)
    if restricted:
        allowed = {name: getattr(builtins, name) for name in BUILTINS | EXCEPTIONS}
        allowed["print"] = lambda *values, **options: None
        allowed["__import__"] = _import
    scope = {"__builtins__": allowed, "__name__": "policy", "np": np, "math": math}
    exec(compile(source, SOURCE_NAME, "exec", dont_inherit=True), scope)  # not this file's __future__
    policy = scope.get("policy")
    if not callable(policy):
        raise PolicyError("leaves something in `policy` that cannot be called")
    return policy


def _import(name: str, scope=None, local_scope=None, wanted=(), level: int = 0) -> object:
    """Import math or numpy and nothing else."""
    # Submodules too, which check_source refuses: numpy's C code imports its helpers by way of the caller's builtins.
    if level or name.partition(".")[0] not in ("math", "numpy"):
        raise ImportError(f"import of {name!r} is refused: only math and numpy are allowed")
    return __import__(name, scope, local_scope, wanted, level)


def _serve(
    policy: Callable[[np.ndarray, int], object],
    source: str,
    requests: int,
    answers: int,
    observation: Observation,
    action_shape: list[int] | None,
    expected: str,
    cpu_limit: Callable[[int], None],
) -> None:
    """Answer step requests for ever; EOFError when the parent has closed the pipe.

    Args:
        action_shape: shape of an action; None: a discrete one.
        expected: what an action must be, for messages.
        cpu_limit: called before the rows of a request are computed, with their number.
    """
    request = bytearray(REQUEST.size)
    known_rows, steps, obs, actions, answer = 0, None, None, None, None
    row_shape, discrete, shape = observation.row_shape, action_shape is None, tuple(action_shape or ())
    obs_size, action_size = math.prod(row_shape), math.prod(shape)
    while True:
        got = _read(requests, request, least=REQUEST.size)  # all of it at once, where the last one had as many rows
        kind, rows, size = REQUEST.unpack_from(request)
        if rows != known_rows:
            begun = request[:got]
            request = bytearray(REQUEST.size + 8 * rows * (1 + obs_size))
            request[:got] = begun
            steps = np.frombuffer(request, "<i8", rows, REQUEST.size)  # (N,)
            obs = np.frombuffer(request, observation.dtype, rows * obs_size, REQUEST.size + 8 * rows)
            obs = obs.reshape(rows, *row_shape)
            reply = bytearray(ANSWER.size + 8 * rows * action_size)
            ANSWER.pack_into(reply, 0, OK, 8 * rows * action_size)
            actions = np.frombuffer(reply, "<i8" if discrete else "<f8", rows * action_size, ANSWER.size)
            actions = actions.reshape(rows, *shape)
            answer = memoryview(reply)
            known_rows = rows
        if kind != STEP or size != len(request) - REQUEST.size:
            raise ValueError(f"malformed request: kind {kind}, {rows} rows, {size} bytes")
        _read(requests, request, got)
        cpu_limit(rows)
        row = 0
        try:
            for row in range(rows):
                result = policy(observation.own(obs[row]), int(steps[row]))
                actions[row] = _as_integer(result, expected) if discrete else _as_array(result, shape, expected)
        except BaseException as error:  # on purpose: a policy may raise SystemExit or worse
            _answer_error(answers, _describe(error, f"policy(obs, t) at t={steps[row]}", source))
        else:
            _write(answers, answer)


def _as_integer(result: object, expected: str) -> int:
    """Return a policy's result as an integer of 64 bits; PolicyError for anything else, floats and bools among it."""
    if type(result) is not int:
        array = isinstance(result, np.ndarray | np.generic)
        if not array or result.shape != () or result.dtype.kind not in "iu":
            what = f"{result.dtype} of shape {result.shape}" if array else f"a {type(result).__name__}"
            raise PolicyError(f"returned {what}, expected {expected}")
        result = int(result)
    if not -(2**63) <= result < 2**63:
        raise PolicyError(f"returned an integer of more than 64 bits, expected {expected}")
    return result


def _as_array(result: object, shape: tuple[int, ...], expected: str) -> np.ndarray:
    """Return a policy's result as real numbers of this shape, or of shape () for (1,); PolicyError otherwise."""
    try:
        action = np.asarray(result)
    except ValueError as error:  # lists of unequal lengths
        raise PolicyError(f"returned a {type(result).__name__} that is no array: {error}") from None
    if action.dtype.kind not in "biuf":  # also keeps numpy from reading numbers out of strings and NaN out of None
        raise PolicyError(f"returned a {type(result).__name__}, expected {expected}")
    if action.shape != shape and (action.shape, shape) != ((), (1,)):
        raise PolicyError(f"returned shape {action.shape}, expected {shape}")
    return action


def _describe(error: BaseException, where: str, source: str) -> str:
    """Say what a policy did, with the lines of its source that its traceback passed through."""
    try:
        if type(error) is PolicyError:
            return f"{where} {error}"
        text = f"{where} raised {type(error).__name__[:100]}: {str(error)[:500]}".rstrip(": ")
        lines = source.split("\n")
        passed = [
            f"  line {number}, in {frame.f_code.co_name[:50]}: {lines[number - 1].strip()[:120]}"
            for frame, number in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_filename == SOURCE_NAME
        ]
        if len(passed) > 6:
            passed[3:-3] = [f"  ... {len(passed) - 6} more ..."]
        return "\n".join([text, *passed])
    except BaseException:  # on purpose: str(error) may be the policy's own code
        return f"{where} raised an error that cannot be shown"


def _answer_error(answers: int, text: str) -> None:
    payload = text[:MAX_TEXT_CHARS].encode("utf-8", "replace")
    _write(answers, memoryview(ANSWER.pack(ERROR, len(payload)) + payload))


def _read(descriptor: int, buffer: bytearray, filled: int = 0, least: int | None = None) -> int:
    """Go on filling the buffer until at least `least` bytes (all, by default) are there; return how many are.

    EOFError when the pipe ends first.
    """
    view, least = memoryview(buffer), len(buffer) if least is None else least
    while filled < least:
        count = os.readv(descriptor, [view[filled:]])
        if not count:
            raise EOFError
        filled += count
    return filled


def _write(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    try:
        _child_main()
    except EOFError:  # the parent is gone
        os._exit(0)
