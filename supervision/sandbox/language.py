"""Layer 1 of the sandbox: the language in which a rule may be written, docs/sandbox.md.

`check_source` allows what a rule needs and refuses everything else: the kinds of syntax, the names, the attributes, the
names of `math` and `numpy` are all allow-lists (vocabulary.py). What passed is executed with few builtins, and with a
numpy that looks at its arguments (numeric.py).
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from supervision.sandbox.messages import PolicyError
from supervision.sandbox.refusals import Refusal, summary
from supervision.sandbox.rewriting import instrument, simplify, strip_annotations
from supervision.sandbox.vocabulary import (
    ALLOWED_IMPORTS,
    ATTRIBUTES,
    BUILTINS,
    CONSTANTS,
    DTYPE_WORDS,
    ERRSTATE,
    ERRSTATE_WORDS,
    EXCEPTIONS,
    INSTEAD_OF_ATTRIBUTES,
    INSTEAD_OF_MODULES,
    INSTEAD_OF_NAMES,
    INSTEAD_OF_NUMPY,
    MATH,
    METHOD_KEYWORDS,
    METHODS,
    NUMPY,
    NUMPY_SUBMODULES,
    NUMPY_TYPES,
    REFUSED_SYNTAX,
    RESERVED,
    SET_REFUSED,
    SYNTAX,
    words,
)

SOURCE_NAME = "<policy>"
MAX_SOURCE_CHARS = 65_536
NUMBER_TYPES = words("float int bool")
NUMPY_NUMBER_TYPES = words(
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
)  # as `dtype`
Parents = dict[ast.AST, ast.AST]


class Source(NamedTuple):
    """What is known of a source while its nodes are looked at one by one."""

    parents: Parents
    bound: set[str]  # all names that it binds
    members: set[str]  # names of sets that are only asked whether they contain something


def check_source(source: str) -> ast.Module:
    """Refuse source that is not a plain `policy(obs, t)` in the allowed language; nothing of it is executed.

    Returns:
        The syntax tree of what is to be executed (see `executable`).

    Raises:
        PolicyError: it names all lines that are refused, causes before consequences, with what to write instead.
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
    try:
        simplify(tree)
        refusals = list(_all_refusals(tree))
        if refusals:
            raise PolicyError(summary(refusals))
        return strip_annotations(tree)
    except RecursionError:
        raise PolicyError("the source cannot be parsed: it is nested too deeply") from None


def executable(source: str) -> ast.Module:
    """Return the syntax tree to be executed of a source that `check_source` accepted."""
    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse(source, SOURCE_NAME)
    simplify(tree)
    return instrument(strip_annotations(tree))


def _all_refusals(tree: ast.Module) -> Iterator[Refusal]:
    yield from _shape_refusals(tree)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    bound = {name for node in ast.walk(tree) for name in _bound(node)}
    foreign = {name for node in ast.walk(tree) if _foreign_import(node) for name in _imported(node)}
    about = Source(parents, bound, _membership_only(tree, parents))
    for node in ast.walk(tree):
        line, inside = 0, False
        above: ast.AST | None = node
        while above is not None:
            line = line or getattr(above, "lineno", 0)
            inside |= above is not node and not isinstance(above, SYNTAX)
            above = parents.get(above)
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        consequence = inside or (isinstance(node, ast.Attribute) and isinstance(root, ast.Name) and root.id in foreign)
        for kind, reason in _refusals(node, about):
            yield Refusal(consequence, line or 1, kind, reason[:200])


def _shape_refusals(tree: ast.Module) -> Iterator[Refusal]:
    """Say, with the line, why the source is not one top-level `policy` of two parameters."""
    policies = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "policy"]
    if not policies:
        yield Refusal(False, 1, "shape", "there is no top-level function `def policy(obs, t)`")
    for node in policies[1:]:
        reason = f"`policy` is already defined in line {policies[0].lineno}; keep one"
        yield Refusal(False, node.lineno, "shape", reason)
    for node in policies:
        a = node.args
        positional = len(a.posonlyargs) + len(a.args)
        needed = positional - len(a.defaults)
        if positional < 2 or needed > 2 or a.vararg or a.kwarg or None in a.kw_defaults:
            reason = "`policy` must take exactly two positional parameters, obs and t; others need a default"
            yield Refusal(False, node.lineno, "shape", reason)


def _bound(node: ast.AST) -> list[str]:
    """Return the names that one node binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):  # refused, but what uses it is no other mistake
            return [name]
        case ast.ImportFrom(module="math", names=[ast.alias(name="*")]):
            return list(MATH)
        case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)) | ast.alias(name=name):
            return [name.partition(".")[0]]
    return []


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {name for alias in node.names for name in _bound(alias)}


def _foreign_import(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any((alias.name, alias.asname) not in ALLOWED_IMPORTS for alias in names)
        case ast.ImportFrom(module=module):
            return module != "math"
    return False


def _membership_only(tree: ast.Module, parents: Parents) -> set[str]:
    """The names of sets whose order nobody sees: each is only assigned as `name = {...}` and only read after `in`."""
    sets, others = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                match parents[node]:
                    case ast.Assign(targets=[target], value=ast.Set()) | ast.AnnAssign(target=target, value=ast.Set()):
                        (sets if target is node else others).add(name)
                    case _:
                        others.add(name)
            case ast.Name(id=name) if not _follows_in(node, parents[node]):
                others.add(name)
            case ast.arg(arg=name) | ast.FunctionDef(name=name):
                others.add(name)
    return sets - others


def _refusals(node: ast.AST, about: Source) -> Iterator[tuple[str, str]]:
    """Say what is refused about one node of the syntax tree, its children apart: the kind of refusal, the reason."""
    parents, parent = about.parents, about.parents.get(node)
    if not isinstance(node, SYNTAX):
        yield "syntax", REFUSED_SYNTAX.get(type(node), f"{type(node).__name__} is not in the allowed language")
    if not isinstance(node, ast.Constant):  # every other string in a tree is an identifier
        for _, value in ast.iter_fields(node):
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and name.startswith("__") and name.endswith("__"):
                    yield "dunder", f"the dunder name `{name}` is refused; a rule needs none, leave it out"
    if not isinstance(node, ast.alias | ast.ImportFrom | ast.ClassDef | ast.AsyncFunctionDef):
        for name in _bound(node):
            if name in RESERVED:
                yield "rebound", f"`{name}` is the name of something else here; choose another"

    match node:
        case ast.Constant(value=value) if not isinstance(value, CONSTANTS):
            yield "constant", f"a constant of type {type(value).__name__} is refused; use real numbers and strings"
        case ast.FunctionDef(decorator_list=[_, *_]):
            yield "decorator", "a decorator is refused; call the function where it is needed"
        case ast.Set() if not _may_be_a_set(node, parent, about.members):
            yield "set", SET_REFUSED
        case ast.JoinedStr() if not _in_a_message(node, parents):
            yield "f-string", "an f-string is refused outside `raise`, `assert` and `print`; use `str` and `+`"
        case ast.Import() | ast.ImportFrom():
            yield from _import_refusals(node)
        case ast.Name(id=name):
            if name not in BUILTINS | EXCEPTIONS | about.bound | {*RESERVED, "deque"}:
                if not _in_an_annotation(node, parents) and not (name.startswith("__") and name.endswith("__")):
                    reason = f"the name `{name}` is neither defined here nor among the allowed builtins"
                    close = difflib.get_close_matches(name, BUILTINS | EXCEPTIONS, n=1, cutoff=0.8)
                    hint = f"; did you mean `{close[0]}`?" if close else "; define it first, or leave it out"
                    yield "name", reason + (_instead(INSTEAD_OF_NAMES, name) or hint)
            elif name in ("np", "numpy", "math") and not isinstance(parent, ast.Attribute):
                yield "module", f"`{name}` may only stand before a dot"  # so no variable ever holds a module
        case ast.NamedExpr() if _in_an_annotation(node, parents):
            yield "annotation", "`:=` in an annotation is refused: annotations are dropped; write a statement"
        case ast.Attribute():
            yield from _attribute_refusals(node, about)
        case ast.Call():
            yield from _call_refusals(node, about)


def _instead(table: dict[str, str], name: str) -> str:
    return f"; {table[name]}" if name in table else ""


def _import_refusals(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if (alias.name, alias.asname) not in ALLOWED_IMPORTS:
                name = alias.name + (f" as {alias.asname}" if alias.asname else "")
                hint = _instead(INSTEAD_OF_MODULES, alias.name.partition(".")[0])
                yield "import", f"only `import math` and `import numpy as np` are allowed, not `import {name}`{hint}"
    elif node.module != "math" or node.level:
        module = "." * node.level + (node.module or "")
        hint = _instead(INSTEAD_OF_MODULES, module.partition(".")[0])
        yield "import", f"only `from math import ...` is allowed, not `from {module} import`{hint}"
    else:
        for alias in node.names:
            if alias.name == "*":
                continue
            if alias.name not in MATH or alias.asname in RESERVED:
                name = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                close = difflib.get_close_matches(alias.name, MATH, n=1, cutoff=0.8)
                if alias.name in MATH:
                    hint = f"`{alias.asname}` is the name of something else here; choose another"
                else:
                    hint = f"did you mean `{close[0]}`?" if close else f"`math` has no `{alias.name}`; use numpy's"
                yield "import", f"`from math import {name}` is refused; {hint}"


def _attribute_refusals(node: ast.Attribute, about: Source) -> Iterator[tuple[str, str]]:
    parents = about.parents
    if not isinstance(node.ctx, ast.Load):
        reason = "cannot be set: a policy keeps no state between calls; use a variable, or `.reshape` for a shape"
        yield "set attribute", f"the attribute `{node.attr}` {reason}"
        return
    if _in_an_annotation(node, parents):
        return
    instead = INSTEAD_OF_ATTRIBUTES
    match node.value:
        case ast.Name(id="math"):
            allowed, name, instead = MATH, f"math.{node.attr}", {}
        case ast.Name(id="np" | "numpy"):
            allowed, name, instead = NUMPY | NUMPY_TYPES, f"np.{node.attr}", INSTEAD_OF_NUMPY
            if node.attr in NUMPY_SUBMODULES and isinstance(parents[node], ast.Attribute):
                return
            if node.attr in NUMPY_TYPES and not _names_a_type(node, parents):
                what = "; use np.zeros or np.array" if node.attr == "ndarray" else ""
                yield "type", f"`np.{node.attr}` may only stand in annotations and in isinstance{what}"
            if node.attr == "errstate" and not _is_called(node, parents):
                yield "errstate", 'np.errstate may only stand in `with np.errstate(all="ignore"):`'
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=submodule) if submodule in NUMPY_SUBMODULES:
            allowed, name = NUMPY_SUBMODULES[submodule], f"np.{submodule}.{node.attr}"
        case _:
            allowed, name = ATTRIBUTES, f".{node.attr}"
            if node.attr in METHODS and not _is_called(node, parents):
                yield "method", f"`.{node.attr}` may only be called, not passed on; use a lambda"
    if node.attr not in allowed:
        close = difflib.get_close_matches(node.attr, allowed, n=1, cutoff=0.8)
        hint = _instead(instead, node.attr) or (f"; did you mean `{close[0]}`?" if close else "")
        yield "attribute", f"`{name}` is not among the allowed names{hint}"


def _call_refusals(node: ast.Call, about: Source) -> Iterator[tuple[str, str]]:
    """What numpy could be led astray with: its own functions look at their arguments themselves, methods cannot."""
    spread = any(keyword.arg is None for keyword in node.keywords)
    match node.func:
        case ast.Name(id=name) if name in about.bound:
            pass
        case _ if spread:
            yield "spread", "`**` is refused but in calls of functions that are defined here; write the keywords out"
    match node.func:
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="errstate"):
            context = isinstance(about.parents[node], ast.withitem) and about.parents[node].context_expr is node
            good = all(
                keyword.arg in ERRSTATE
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value in ERRSTATE_WORDS
                for keyword in node.keywords
            )
            if not context or not good or node.args:
                yield "errstate", 'np.errstate may only stand in `with np.errstate(all="ignore"):` (or "raise", "warn")'
        case ast.Attribute(value=ast.Name(id="np" | "numpy" | "math")):
            pass
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=name)) if (
            name in NUMPY_SUBMODULES
        ):
            pass
        case ast.Attribute(attr=name) if name in METHODS:
            if len(node.args) > METHODS[name] or any(isinstance(argument, ast.Starred) for argument in node.args):
                yield "method", f"`.{name}` takes {METHODS[name]} argument(s) here; give the others by their names"
            for keyword in node.keywords:
                if keyword.arg == "dtype" and not _names_numbers(keyword.value, about.bound):
                    yield "dtype", "`dtype` must name a type of numbers, as in `dtype=float` or `dtype=np.float32`"
                if keyword.arg not in METHOD_KEYWORDS and keyword.arg is not None:
                    yield "method", f"`{keyword.arg}` is no keyword that `.{name}` may be given; leave it out"
                if keyword.arg == "where" and name == "clip":
                    yield "method", "`.clip` with `where` would show memory as it was left; use np.where"
            if name == "astype":
                named = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "dtype")]
                if len(named) != 1 or not _names_numbers(named[0], about.bound):
                    yield "dtype", "`.astype` must name a type of numbers, as in `.astype(float)`, `.astype(np.int64)`"


def _names_numbers(node: ast.expr, bound: set[str]) -> bool:
    """Tell whether an expression names a type of numbers and can be nothing else."""
    match node:
        case ast.Name(id=name):
            return name in NUMBER_TYPES and name not in bound
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=name):
            return name in NUMPY_NUMBER_TYPES
        case ast.Constant(value=str(word)):
            return word in DTYPE_WORDS
    return False


def _is_called(node: ast.AST, parents: Parents) -> bool:
    parent = parents[node]
    return isinstance(parent, ast.Call) and parent.func is node


def _may_be_a_set(node: ast.Set, parent: ast.AST | None, members: set[str]) -> bool:
    if _follows_in(node, parent):
        return True
    match parent:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name), value=ast.Set()):
            return name in members
    return False


def _follows_in(node: ast.AST, parent: ast.AST | None) -> bool:
    """Tell whether something is only asked whether it contains something: then its order is never seen."""
    return isinstance(parent, ast.Compare) and any(
        right is node and isinstance(operator, ast.In | ast.NotIn)
        for operator, right in zip(parent.ops, parent.comparators, strict=True)
    )


def _in_a_message(node: ast.AST, parents: Parents) -> bool:
    """Tell whether a string only says something: of an error, of an assertion, or to nobody."""
    while node in parents and not isinstance(node, ast.stmt | ast.Lambda):
        node = parents[node]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            return True
    return isinstance(node, ast.Raise | ast.Assert)


def _in_an_annotation(node: ast.AST, parents: Parents) -> bool:
    """Tell whether an expression stands in an annotation, whatever is made of it there: it is not evaluated."""
    child = node
    while child in parents:
        parent = parents[child]
        match parent:
            case ast.FunctionDef(returns=place) | ast.arg(annotation=place) | ast.AnnAssign(annotation=place):
                return place is child
        if isinstance(parent, ast.stmt | ast.Call | ast.Lambda):
            return False
        child = parent
    return False


def _names_a_type(node: ast.AST, parents: Parents) -> bool:
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
