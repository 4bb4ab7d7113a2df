"""Whether a rule can keep anything from one call to the next, told from its syntax.

A rule that cannot needs one copy for all environments, which is never restored. The answer errs to one side: whatever
is not plainly harmless counts as state, and costs no more than a copy for each environment.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from supervision.sandbox.vocabulary import words

MUTATING = words(
    "append appendleft clear extend extendleft fill insert pop popitem popleft remove reverse rotate setdefault sort "
    "update"
)
LAZY = words("enumerate filter map reversed zip")  # what they return is used up by whoever looks at it
CONSUMING = words("all any dict enumerate filter list map max min reversed sorted sum tuple zip")
NEW_BUILTINS = words("bool dict float int len list sorted str")  # they return nothing that existed before
NEW_NUMPY = words(
    "abs absolute add append arange array clip concatenate copy cos cumsum divide dot exp eye full full_like hstack "
    "identity linspace log maximum minimum multiply negative ones ones_like outer power sign sin sqrt square stack "
    "subtract sum tan tanh vstack where zeros zeros_like"
)
IN_PLACE = words("copy overwrite_input")  # keywords by which numpy changes or shares what it was given
FUNCTIONS = (ast.FunctionDef, ast.Lambda)


def uses_random(tree: ast.AST) -> bool:
    """Tell whether a rule draws random numbers."""
    return any(isinstance(node, ast.Attribute) and node.attr == "random" for node in ast.walk(tree))


def keeps_state(tree: ast.Module) -> bool:
    """Tell whether a rule, of a tree that the language allows, may act differently after other calls."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    if uses_random(tree):
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Nonlocal) or (isinstance(node, ast.Name) and node.id in ("iter", "next", "deque")):
            return True
        if isinstance(node, ast.keyword) and (node.arg is None or node.arg in IN_PLACE):
            return True
        lazy = isinstance(node, ast.GeneratorExp) or (isinstance(node, ast.Name) and node.id in LAZY)
        if lazy and not _used_up(node, parents, bound):
            return True
        if isinstance(node, ast.Attribute) and node.attr in MUTATING and not _called(node, parents):
            return True
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    return any(_changes_what_it_did_not_make(function, bound) for function in functions)


def _called(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    parent = parents.get(node)
    return isinstance(parent, ast.Call) and parent.func is node


def _used_up(node: ast.AST, parents: dict[ast.AST, ast.AST], bound: set[str]) -> bool:
    """Tell whether a lazy expression is used up where it stands, so that nobody can keep it."""
    if isinstance(node, ast.Name):
        if not _called(node, parents):
            return False
        node = parents[node]
    parent = parents.get(node)
    match parent:
        case ast.For(iter=used) | ast.comprehension(iter=used):
            return used is node
        case ast.Call(func=ast.Name(id=name)):
            return name in CONSUMING and name not in bound and node is not parent.func
        case ast.Call(func=ast.Attribute(value=ast.Constant() | ast.Name(id="np" | "numpy"))):
            return True
        case ast.Assign(targets=[ast.Tuple() | ast.List()]) | ast.Starred():
            return True
    return False


def _inside(function: ast.AST) -> Iterator[ast.AST]:
    """Walk a function without the functions in it."""
    nodes = list(ast.iter_child_nodes(function))
    while nodes:
        node = nodes.pop()
        yield node
        if not isinstance(node, FUNCTIONS):
            nodes += ast.iter_child_nodes(node)


def _changes_what_it_did_not_make(function: ast.AST, bound: set[str]) -> bool:
    """Tell whether a function changes anything but objects that it has just made itself and called by a name."""
    sources: dict[str, list[ast.expr | None]] = {}  # what each local name is assigned; None: something unclear
    for node in _inside(function):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    _note(target, value, sources)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                _note(target, value, sources)
            case ast.NamedExpr(target=target, value=value):
                _note(target, value, sources)
            case ast.Name(id=name, ctx=ast.Store()):
                sources.setdefault(name, [])
    noted = {id(target) for node in _inside(function) for target in _plain_targets(node)}
    for node in _inside(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in noted:
            sources.setdefault(node.id, []).append(None)  # of a loop, a comprehension, `with`, `except`
    parameters = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}

    def made_here(node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            values = sources.get(node.id)
            return bool(values) and node.id not in parameters and all(value and _new(value, bound) for value in values)
        return _new(node, bound)

    for node in _inside(function):
        match node:
            case ast.Subscript(value=changed, ctx=ast.Store()):
                pass
            case ast.AugAssign(target=ast.Name() as changed):
                pass
            case ast.Call(func=ast.Attribute(value=changed, attr=name)) if name in MUTATING:
                pass
            case ast.keyword(arg="out", value=changed):
                pass
            case _:
                continue
        if not made_here(changed):
            return True
    return False


def _plain_targets(node: ast.AST) -> Iterator[ast.Name]:
    """The names that `_note` has taken care of, and those of augmented assignments."""
    match node:
        case ast.Assign(targets=targets):
            for target in targets:
                yield from (name for name in ast.walk(target) if isinstance(name, ast.Name))
        case ast.AnnAssign(target=ast.Name() as target) | ast.NamedExpr(target=target):
            yield target
        case ast.AugAssign(target=ast.Name() as target):
            yield target


def _note(target: ast.AST, value: ast.expr, sources: dict[str, list[ast.expr | None]]) -> None:
    if isinstance(target, ast.Name):
        sources.setdefault(target.id, []).append(value)
    elif isinstance(target, ast.Tuple | ast.List):
        same = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
        starred = any(isinstance(element, ast.Starred) for element in [*target.elts, *(value.elts if same else [])])
        if same and not starred:
            for part, part_value in zip(target.elts, value.elts, strict=True):
                _note(part, part_value, sources)
        else:
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    sources.setdefault(name.id, []).append(None)


def _new(node: ast.AST, bound: set[str]) -> bool:
    """Tell whether an expression makes an object that nobody else has."""
    match node:
        case ast.Constant() | ast.List() | ast.Dict() | ast.ListComp() | ast.DictComp() | ast.BinOp() | ast.Compare():
            return True
        case ast.UnaryOp(operand=operand):
            return isinstance(operand, ast.Constant) or isinstance(node.op, ast.USub | ast.Not)
        case ast.IfExp(body=first, orelse=second):
            return _new(first, bound) and _new(second, bound)
        case ast.Call(func=ast.Name(id=name)):
            return name in NEW_BUILTINS and name not in bound
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=name)):
            return name in NEW_NUMPY and not any(keyword.arg == "out" for keyword in node.keywords)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"))):
            return True
        case ast.Call(func=ast.Attribute(attr="copy"), args=[]):
            return True
    return False
