"""The supervisor's flags: each says what it means, and each is read."""

import ast
import re

from conftest import ROOT


def test_every_flag_is_documented_and_used():
    source = (ROOT / "supervision" / "arguments.py").read_text()
    (args,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    body = [node for node in args.body[1:] if not isinstance(node, ast.FunctionDef)]
    names = [node.target.id for node in body if isinstance(node, ast.AnnAssign)]
    assert len(names) > 15
    for field, text in zip(body[::2], body[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign) and isinstance(text.value.value, str), ast.unparse(field)
    parts = [ROOT / "llm_supervisor.py", *sorted((ROOT / "supervision").rglob("*.py"))]
    readers = "\n".join(path.read_text() for path in parts)
    for name in names:
        assert re.search(rf"args\.{name}\b", readers), f"--{name} is never read"
