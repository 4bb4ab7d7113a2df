"""What a run executes, as a hash: the script, what it imports of the files beside it, its prompts and its rule.

Docs: docs/benchmark.md
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RULE = "guide-policy"  # the flag that names a file: relative to the script's folder, and part of the code
FILMING = ("capture-video", "replay-frequency")  # the flags with which a baseline imports the helper
HELPER = ("llm_supervisor", "supervision")  # its modules and packages
SILENT = ("console", "report")  # modules and packages of these names only print: they change no number
SANDBOX = "sandbox"  # of a package of this name every file counts: one is started by its path, and never imported

Flag = bool | int | float | str


class CodeError(ValueError):
    """A file of a run that is not Python: which, and where."""


Import = ast.Import | ast.ImportFrom


class Source(NamedTuple):
    """What counts of a file's text."""

    top_level: list[Import]
    imports: list[Import]  # wherever they stand
    code: str  # without comments and formatting


class Module(NamedTuple):
    """A file that a run executes."""

    path: Path
    source: Source


@functools.cache  # every run of a study, and every study, asks for the same files
def parsed(text: str) -> Source:
    """A file's text, parsed, and its tree walked."""
    tree = ast.parse(text)
    top_level, imports = ([node for node in nodes if isinstance(node, Import)] for nodes in (tree.body, ast.walk(tree)))
    return Source(top_level, imports, ast.unparse(tree))


def code_hash(script: Path, env: str, flags: dict[str, Flag]) -> str:
    """Hash of what a run executes: `modules()`, the environment's prompts, and a rule of `--guide-policy`.

    Comments and formatting do not count. Where nobody supervises and nothing is filmed, neither do the helper and the
    prompts: such a run does not use them. A script that imports the helper at its top level is supervised, unless
    `--supervisor none` says otherwise; one that imports it later does so for videos alone.
    """
    top_level = imported(read(script).source.top_level, package=())
    supervised = flags.get("supervisor") != "none" and any(name[0] in HELPER for name in top_level)
    filming = any(flags.get(name) for name in FILMING)
    digest = hashlib.sha256()
    for path, source in modules(script, without=() if supervised or filming else HELPER):
        digest.update(f"{path.relative_to(script.parent).as_posix()}\0{source.code}\0".encode())
    if supervised:
        prompts = script.parent / "prompts"
        own = (prompts / env).is_dir()
        paths = sorted(prompts.glob(f"{env}/*.*" if own else "default*/*.*"))
        if own and "env-kwargs" in flags:  # with other values than the default the environment's own are not used
            paths += sorted(prompts.glob("default*/*.*"))
        for path in paths:
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
        if RULE in flags:
            digest.update((script.parent / str(flags[RULE])).read_bytes())
    return digest.hexdigest()


def modules(script: Path, without: tuple[str, ...] = ()) -> Iterator[Module]:
    """The script and the files beside it that it imports, that these import, and so on; of packages `__init__.py` too.

    An import counts wherever in a file it stands.

    Args:
        without: names beside the script that are not followed.
    """
    seen, queue = set(), [script]
    while queue:
        path = queue.pop(0)
        if path in seen:
            continue
        seen.add(path)
        module = read(path)
        yield module
        package = path.parent.relative_to(script.parent).parts
        for name in imported(module.source.imports, package):
            if name[0] not in without:
                queue += files(script.parent, name)
        if package and package[-1] == SANDBOX:
            queue += sorted(file for file in path.parent.glob("*.py") if file.stem not in SILENT)


def read(path: Path) -> Module:
    """A file, parsed; CodeError where it cannot be."""
    try:
        return Module(path, parsed(path.read_text(encoding="utf-8")))
    except SyntaxError as error:
        raise CodeError(f"{path.name} is not valid Python: {error}") from None


def imported(nodes: list[Import], package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The names that these nodes import, seen from the script's folder: `import a.b` is (a, b).

    `from a import b` is both (a,) and (a, b), which may be a module.

    Args:
        package: the folder of the file below the script's, from which relative imports count.
    """
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        else:
            above = package[: max(0, len(package) + 1 - node.level)] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield from (name for name in (base, *((*base, alias.name) for alias in node.names)) if name)


def files(folder: Path, name: tuple[str, ...]) -> Iterator[Path]:
    """The files below the script's folder that an import of this name executes, as far as it names any."""
    for part in name:
        if part in SILENT:
            return
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            yield package
        elif module.is_file():
            yield module
            return
        folder = folder / part
