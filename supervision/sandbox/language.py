"""Layer 1 of the sandbox: the language in which a rule may be written, docs/sandbox.md.

`check_source` allows what a rule needs and refuses everything else: the kinds of syntax, the names, the attributes, the
names of `math` and `numpy` are all allow-lists. What passed is executed with as few builtins.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterator

from supervision.sandbox.messages import PolicyError

SOURCE_NAME = "<policy>"
MAX_SOURCE_CHARS = 65_536


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
NUMPY_TYPES = frozenset()
DTYPE_WORDS = _names(
    "bool int int8 int16 int32 int64 uint8 uint16 uint32 uint64 float float16 float32 float64 f4 f8 i4 i8"
)
GENERATOR_METHODS = _names(
    """
    beta binomial choice exponential gamma integers laplace lognormal multivariate_normal normal permutation poisson
    random shuffle standard_normal triangular uniform
    """
)
RANDOM_STATE_METHODS = NUMPY_SUBMODULES["random"] - {"RandomState", "default_rng"}
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


def check_source(source: str) -> ast.Module:
    """Refuse source that is not a plain `policy(obs, t)` in the allowed language; nothing of it is executed.

    Returns its syntax tree; raises PolicyError that names the lines, one clear line for each refusal, five at most.
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
    return tree


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
