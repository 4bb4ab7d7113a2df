"""How the package is cut into files: who may import whom, and how long a file may be."""

import ast

from conftest import ROOT


def test_arrows_go_one_way():
    """The package imports neither the scripts nor the helper, and the sandbox nothing of the rest of the package."""
    for path in sorted((ROOT / "supervision").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                first = name.partition(".")[0]
                assert first == "supervision" or not (ROOT / f"{first}.py").is_file(), (path.name, name)
                assert first not in ("guided_utils", "benchmark"), (path.name, name)
                if path.parent.name == "sandbox" and first == "supervision":
                    assert name.startswith("supervision.sandbox"), (path.name, name)


def test_no_file_of_the_package_is_longer_than_it_may_be():
    for path in sorted((ROOT / "supervision").rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 500, path
    assert len((ROOT / "llm_supervisor.py").read_text().splitlines()) <= 450
    assert (ROOT / "supervision" / "__init__.py").read_text() == ""
