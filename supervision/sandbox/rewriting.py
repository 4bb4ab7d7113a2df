"""What is taken out of a rule before it is checked and executed: it is harmless and means nothing to a rule."""

from __future__ import annotations

import ast

from supervision.sandbox.vocabulary import SPARED_MODULES

# No rule can say these names.
KEEPER = "__keeper__"  # looks at what something is stored in
LIST = "__list__"  # is `list`, whatever a rule calls so


def simplify(tree: ast.Module) -> None:
    """Drop what a script has and a rule does not need, in place.

    These are imports for annotations, `if __name__ == "__main__":`, `from collections import deque` (the name is there
    anyway), and `set([...])` and `frozenset([...])`, which become `{...}`.
    """
    tree.body = [node for node in tree.body if not _runs_as_a_script(node)]
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                kept = [statement for statement in statements if not _only_for_annotations(statement)]
                if len(kept) < len(statements):
                    needed = not kept and field == "body" and not isinstance(node, ast.Module)
                    setattr(node, field, [ast.copy_location(ast.Pass(), statements[0])] if needed else kept)
    _Sets().visit(tree)


def strip_annotations(tree: ast.Module) -> ast.Module:
    """Drop all annotations, in place, so that none is ever evaluated."""
    return ast.fix_missing_locations(_Annotations().visit(tree))


def instrument(tree: ast.Module) -> ast.Module:
    """Put in, in place, what has to be looked at while the rule runs.

    `a[i] = b` becomes `__keeper__(a)[i] = b`, and `a.fill(b)` becomes `__keeper__(a).fill(b)`: nothing may be stored in
    an array of objects. `d.keys()` becomes `__list__(d.keys())`, and `d.items()` likewise: a view of a dictionary turns
    into a set when it meets an operator, and walks through the other operand, be it a generator.
    """
    return ast.fix_missing_locations(_Instruments().visit(tree))


def _runs_as_a_script(node: ast.stmt) -> bool:
    match node:
        case ast.If(
            test=ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant("__main__")]),
            orelse=[],
        ):
            return True
    return False


def _only_for_annotations(node: ast.AST) -> bool:
    match node:
        case ast.ImportFrom(module="collections", names=[ast.alias(name="deque", asname=None)], level=0):
            return True  # the name is there anyway
        case ast.ImportFrom(module=str(module), level=0):
            return module in SPARED_MODULES
        case ast.Import(names=[ast.alias(name="typing", asname=None)]):
            return True
    return False


class _Sets(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(
                func=ast.Name(id="set" | "frozenset"),
                args=[ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements)],
                keywords=[],
            ) if elements:
                return ast.copy_location(ast.Set(elements), node)
        return node


class _Annotations(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


class _Instruments(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items"):
            return ast.copy_location(ast.Call(ast.Name(LIST, ast.Load()), [node], []), node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.Subscript:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Store):
            node.value = _kept(node.value)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        if node.attr == "fill":
            node.value = _kept(node.value)
        return node


def _kept(value: ast.expr) -> ast.expr:
    return ast.copy_location(ast.Call(ast.Name(KEEPER, ast.Load()), [value], []), value)
