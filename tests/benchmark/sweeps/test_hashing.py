"""benchmark/sweeps/hashing.py: what makes a run the same run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from handmade import SCRIPT, a_run

from benchmark.sweeps.hashing import FILMING, HELPER, CodeError, code_hash, modules


def files_of(script: Path, **options) -> set[str]:
    """The files that `modules()` finds, as paths from the script's folder."""
    return {path.relative_to(script.parent).as_posix() for path, _ in modules(script, **options)}


def test_the_hash_is_of_settings_and_code(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import helper, llm_supervisor\nprint(1)\n")
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "llm_supervisor.py").write_text("")
    for folder in ("default", "default-discrete"):
        (tmp_path / "prompts" / folder).mkdir(parents=True)
        (tmp_path / "prompts" / folder / "coder.md").write_text("write")
    first = a_run(script, flags={"a": 1, "b": 2})
    assert a_run(script, flags={"b": 2, "a": 1}).hash == first.hash
    others = [a_run(script, flags={"a": 1, "b": 3}), *(a_run(script, flags={"a": 1, "b": 2}, **change)
              for change in (dict(threads=2), dict(seed=2), dict(env="F-v0")))]  # fmt: skip
    assert len({run.hash for run in (first, *others)}) == 5

    script.write_text("import helper, llm_supervisor  # a comment\n\n\nprint( 1 )\n")
    assert a_run(script, flags={"a": 1, "b": 2}).hash == first.hash
    unsupervised = a_run(script, flags={"supervisor": "none"}).hash
    for path, text in ((script, "import helper, llm_supervisor\nprint(2)\n"), (tmp_path / "helper.py", "x = 2\n"),
                       (tmp_path / "prompts" / "default" / "coder.md", "rewrite"),
                       (tmp_path / "prompts" / "default-discrete" / "coder.md", "rewrite")):  # fmt: skip
        before, kept = a_run(script).hash, path.read_text()
        path.write_text(text)
        assert a_run(script).hash != before, path
        assert (a_run(script, flags={"supervisor": "none"}).hash == unsupervised) == (path.suffix == ".md")
        path.write_text(kept)
    (tmp_path / "prompts" / "E-v0").mkdir()
    (tmp_path / "prompts" / "E-v0" / "coder.md").write_text("of this environment")
    default, other = a_run(script, env="E-v0").hash, a_run(script, env="E-v0", flags={"env-kwargs": "{}"}).hash
    (tmp_path / "prompts" / "default" / "coder.md").write_text("rewrite")  # used with other --env-kwargs
    assert a_run(script, env="E-v0").hash == default
    assert a_run(script, env="E-v0", flags={"env-kwargs": "{}"}).hash != other
    (tmp_path / "rules").mkdir()
    rule = tmp_path / "rules" / "rule.py"
    rule.write_text("def policy(obs, t): return 0")
    ruled = a_run(script, flags={"guide-policy": "rules/rule.py"})
    assert ruled.arguments[2:] == [f"--guide-policy={rule}"]  # each run works in a folder of its own
    rule.write_text("def policy(obs, t): return 1")
    assert a_run(script, flags={"guide-policy": "rules/rule.py"}).hash != ruled.hash
    assert str(tmp_path) not in str(ruled.settings)  # or two machines would not agree on a run's name
    script.write_text("import (")
    with pytest.raises(CodeError, match="not valid Python"):
        a_run(script)


def test_the_helpers_of_our_scripts_count():
    """The script's own modules are found by their imports."""
    found = files_of(SCRIPT)
    assert {SCRIPT.name, "llm_supervisor.py"} < found and any("sandbox" in name for name in found)
    before = code_hash(SCRIPT, "MountainCarContinuous-v0", {})
    assert before != code_hash(SCRIPT, "MountainCarContinuous-v0", {"supervisor": "none"})
    assert before != code_hash(SCRIPT, "Humanoid-v5", {})


@pytest.mark.parametrize(
    ("top", "inner", "flags", "counts"),
    [
        ("import llm_supervisor", "", {}, True),
        ("import llm_supervisor", "", {"supervisor": "none"}, False),
        ("import llm_supervisor", "", {"supervisor": "none", "capture-video": True}, True),
        ("", "if film: import llm_supervisor", {}, False),
        ("", "if film: import llm_supervisor", {"replay-frequency": 0}, False),
        ("", "if film: import llm_supervisor", {"replay-frequency": 100}, True),
    ],
)
def test_the_supervisors_modules_count_where_they_are_used(top, inner, flags, counts, tmp_path):
    """Runs without guidance and without videos stay valid when the supervisor is changed."""
    script, module = tmp_path / "script.py", tmp_path / "llm_supervisor.py"
    script.write_text(f"{top}\n{inner}\n")
    module.write_text("a = 1")
    before = code_hash(script, "E-v0", flags)
    module.write_text("a = 2")
    assert (code_hash(script, "E-v0", flags) != before) == counts


def test_a_baseline_counts_the_helper_only_where_it_makes_videos(tmp_path):
    """Plain runs of a baseline keep their hash when helper or prompts change; with videos the helper counts."""
    script = ROOT / "rnd_sac.py"
    helper = files_of(script) - files_of(script, without=HELPER)
    assert "llm_supervisor.py" in helper and any("sandbox" in name for name in helper)
    for name in files_of(script):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    prompts = tmp_path / "prompts" / "default"
    prompts.mkdir(parents=True)
    (prompts / "coder.md").write_text("write")
    settings = [{}, {"replay-frequency": 0, "capture-video": False}, {"replay-frequency": 5}, {"capture-video": True}]

    def hashes(settings: list[dict] = settings) -> list[str]:
        return [code_hash(tmp_path / "rnd_sac.py", "E-v0", flags) for flags in settings]

    before = hashes()
    (prompts / "coder.md").write_text("rewrite")
    assert hashes() == before
    plain, filmed = before[0], before[2]
    for name in helper:
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\nx = 2\n")
        unchanged, now = hashes([settings[0], settings[2]])
        assert unchanged == plain and now != filmed, name
        filmed = now
    assert [a == b for a, b in zip(before, hashes(), strict=True)] == [True, True, False, False]
    (tmp_path / "rnd_sac.py").write_text((tmp_path / "rnd_sac.py").read_text() + "\nx = 2\n")
    assert not set(before) & set(hashes())


@pytest.mark.parametrize("script", sorted(ROOT.glob("*_sac*.py")), ids=lambda path: path.name)
def test_our_scripts_import_late_for_videos_alone(script):
    """What code_hash() leaves out of a run without videos stands below a condition on one of the flags for videos."""

    def late_imports(node: ast.AST, conditions: list[str]) -> Iterator[list[str]]:
        for child in ast.iter_child_nodes(node):
            late = isinstance(child, ast.ImportFrom | ast.Import) and not isinstance(node, ast.Module)
            if late and any(name in ast.unparse(child) for name in HELPER):
                yield conditions
            inner = [ast.unparse(child.test)] if isinstance(child, ast.If) else []
            yield from late_imports(child, conditions + inner)

    found = list(late_imports(ast.parse(script.read_text()), []))
    assert found
    for conditions in found:
        flags = [name.replace("-", "_") for name in FILMING]
        assert any(flag in condition for flag in flags for condition in conditions), conditions


GUIDED = """
import argparse

from guided_utils import console
from guided_utils.settings import defaults
from llm_supervisor import Supervisor

if __name__ == "__main__":
    print(defaults)
"""
BASELINE = """
from guided_utils.settings import defaults

if __name__ == "__main__":
    if replay_frequency:
        from llm_supervisor import film
"""
TREE = {  # a small project: each file imports in another way
    "guided.py": GUIDED,
    "baseline.py": BASELINE,
    "llm_supervisor.py": "import supervision.chat\n"
    "from supervision.sandbox import policy\nfrom supervision import report\n",
    "guided_utils/__init__.py": "",
    "guided_utils/settings.py": "def late():\n    from . import evaluation",
    "guided_utils/evaluation.py": "from .deep.inner import returns",
    "guided_utils/deep/__init__.py": "",
    "guided_utils/deep/inner.py": "from ..relative import x",
    "guided_utils/relative.py": "x = 1",
    "guided_utils/console.py": "from guided_utils.progress import bar",
    "guided_utils/progress.py": "bar = 1",
    "guided_utils/unused.py": "x = 1",
    "supervision/__init__.py": "",
    "supervision/chat.py": "def ask():\n    import supervision.prompts",
    "supervision/prompts.py": "import torch",
    "supervision/report.py": "",
    "supervision/workbench.py": "",
    "supervision/sandbox/__init__.py": "",
    "supervision/sandbox/policy.py": "CHILD = 'child.py'",
    "supervision/sandbox/child.py": "from language import check\nfrom supervision.limits import MOST",
    "supervision/sandbox/language.py": "",
    "supervision/limits.py": "MOST = 3",
}
OF_ALL = ["__init__.py", "settings.py", "evaluation.py", "deep/__init__.py", "deep/inner.py", "relative.py"]
OF_GUIDED = ["__init__.py", "chat.py", "prompts.py", "limits.py", "sandbox/__init__.py", "sandbox/policy.py",
             "sandbox/child.py", "sandbox/language.py"]  # fmt: skip
RUNS = {  # by name: script, flags, whether the helper counts
    "guided": ("guided.py", {}, True),
    "guided by a flag": ("guided.py", {"supervisor": "bundled"}, True),
    "unguided": ("guided.py", {"supervisor": "none"}, False),
    "unguided, filmed": ("guided.py", {"supervisor": "none", "capture-video": True}, True),
    "baseline": ("baseline.py", {}, False),
    "baseline, filmed": ("baseline.py", {"replay-frequency": 5}, True),
}


@pytest.fixture
def project(tmp_path) -> Path:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", TREE)
def test_an_edit_changes_the_hash_of_the_runs_that_execute_it(name, project):
    """Of packages too: of `guided_utils/` for every run, of `supervision/` for guided or filmed ones, of modules that
    only print, and of those that nobody imports, for none."""
    before = {run: code_hash(project / script, "E-v0", flags) for run, (script, flags, _) in RUNS.items()}
    (project / name).write_text(f"{TREE[name]}\nedited = True")
    folder, _, file = name.partition("/")
    for run, (script, flags, helped) in RUNS.items():
        counts = {
            "guided_utils": file in OF_ALL, "supervision": helped and file in OF_GUIDED, "llm_supervisor.py": helped,
        }.get(folder, name == script)  # fmt: skip
        assert (code_hash(project / script, "E-v0", flags) != before[run]) == counts, run


def test_the_hash_does_not_depend_on_where_the_project_lies(project, tmp_path_factory):
    """Two machines agree on it, and a folder of links to the project has its hash."""
    links = tmp_path_factory.mktemp("links")
    for path in project.iterdir():
        (links / path.name).symlink_to(path)
    assert code_hash(project / "guided.py", "E-v0", {}) == code_hash(links / "guided.py", "E-v0", {})


def test_files_of_one_name_are_told_apart(project):
    """What two `__init__.py` hold is exchanged."""
    one, other = project / "guided_utils" / "__init__.py", project / "guided_utils" / "deep" / "__init__.py"
    one.write_text("a = 1")
    before = code_hash(project / "guided.py", "E-v0", {})
    one.write_text("")
    other.write_text("a = 1")
    assert code_hash(project / "guided.py", "E-v0", {}) != before


def test_a_module_counts_once_and_a_package_goes_before_a_module_of_its_name(project):
    (project / "guided_utils.py").write_text("never = 1")
    (project / "guided_utils" / "relative.py").write_text("import guided\nimport guided_utils.settings, nowhere.at_all")
    found = files_of(project / "guided.py")
    assert len(list(modules(project / "guided.py"))) == len(found) and "guided_utils.py" not in found
    assert {f"guided_utils/{name}" for name in OF_ALL} < found


def test_a_package_that_is_not_python_is_named(project):
    (project / "guided_utils" / "deep" / "inner.py").write_text("import (")
    with pytest.raises(CodeError, match=r"^inner.py is not valid Python: "):
        code_hash(project / "guided.py", "E-v0", {})
