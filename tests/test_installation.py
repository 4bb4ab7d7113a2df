"""pyproject.toml and the Makefile: what an installation brings, and which Python it takes."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from conftest import ROOT, SECRETS
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FLAGS = ["--env-id=MountainCarContinuous-v0", "--total-timesteps=30", "--supervisor=bundled",
         "--batch-size=16"]  # fmt: skip


def call(*command: str | Path, **options) -> subprocess.CompletedProcess:
    make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # a make inside of make says more than one line
    clean = {k: v for k, v in os.environ.items() if k not in (*SECRETS, *make, "PYTHONPATH")}
    return subprocess.run([str(word) for word in command], env=clean, capture_output=True, text=True, **options)


def install(kind: str, folder: Path) -> Path:
    """The programs of a new virtual environment with the project in it; its dependencies are the tests' own."""
    venv.create(folder / "venv", with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": folder / "venv", "platbase": folder / "venv"}))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = folder / "venv" / "bin" / "python"
    if kind == "wheel":
        flags = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
        built = call(sys.executable, "-m", "pip", "wheel", *flags, ROOT)
        assert built.returncode == 0, built.stderr
        what = [next(folder.glob("guided_sac-*.whl"))]
    else:
        what = ["--no-build-isolation", "-e", ROOT]
    done = call(python, "-m", "pip", "install", "--quiet", "--no-deps", *what)
    assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    return install("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_an_installation_trains_and_writes_prompts_from_any_folder(kind, tmp_path, tmp_path_factory, request):
    """Modules, packages and prompts are there; `guided-sac` is the helper's command line."""
    if kind == "wheel":
        installed = request.getfixturevalue("installed")
    else:
        installed = install(kind, tmp_path_factory.mktemp(kind))
    train = call(installed / "python", "-m", "guided_sac_continuous", *FLAGS, cwd=tmp_path)
    assert train.returncode == 0, train.stderr
    assert "supervisor: bundled" in train.stdout and len(list(tmp_path.glob("runs/*"))) == 1
    where = call(installed / "python", "-c", "import importlib.util as u, supervision.prompts as p; "
                 "print(u.find_spec('llm_supervisor').origin, p.PROMPTS, sep='\\n')", cwd=tmp_path)  # fmt: skip
    module, prompts = map(Path, where.stdout.split())
    inside = module.parent != ROOT
    assert inside == (kind == "wheel") and prompts.is_relative_to(module.parent)
    packed = {path.relative_to(prompts) for path in prompts.rglob("*.*") if "__pycache__" not in path.parts}
    assert packed == {path.relative_to(ROOT / "prompts") for path in (ROOT / "prompts").rglob("*.*")
                      if "__pycache__" not in path.parts}  # fmt: skip
    shown = call(installed / "guided-sac", "show-prompt", "--env-id", "Pendulum-v1", "--role", "coder", cwd=tmp_path)
    assert shown.returncode == 0 and "def policy(obs, t)" in shown.stdout, shown.stderr
    if inside:
        written = call(installed / "guided-sac", "new-prompt", "--env-id", "Pendulum-v1", cwd=tmp_path)
        assert written.returncode == 0, written.stderr
        folder = tmp_path / "prompts" / "Pendulum-v1"
        assert {path.name for path in folder.iterdir()} == {"advisor.md", "coder.md"}
        (folder / "coder.md").write_text((folder / "coder.md").read_text() + "\nOf this folder.\n")
        own = call(installed / "guided-sac", "show-prompt", "--env-id", "Pendulum-v1", "--role", "coder", cwd=tmp_path)
        assert "Of this folder." in own.stdout


def test_a_script_that_is_run_from_elsewhere_finds_its_packages(installed, tmp_path):
    """As CleanRL's tuner does: runpy in another process, without the script's folder on sys.path."""
    code = (
        f"import runpy, sys; sys.argv = [''] + {FLAGS!r}; runpy.run_path({str(ROOT / 'guided_sac_continuous.py')!r}, "
    )
    done = call(installed / "python", "-c", code + "run_name='__main__')", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_script_that_is_copied_beside_others_runs_there(installed, tmp_path):
    """As into a checkout of CleanRL, from whose root its scripts are started: the run lies beside the others."""
    (tmp_path / "cleanrl").mkdir()
    (tmp_path / "runs" / "theirs").mkdir(parents=True)
    shutil.copy(ROOT / "guided_sac_continuous.py", tmp_path / "cleanrl")
    done = call(installed / "python", "cleanrl/guided_sac_continuous.py", *FLAGS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.rsplit("__", 1)[0] for path in (tmp_path / "runs").iterdir())
    assert names == ["MountainCarContinuous-v0__guided_sac_continuous_bundled__1", "theirs"]


def test_dependencies_are_those_that_the_tests_run_with():
    """One name list in both files, and the versions of requirements.txt are allowed."""
    pinned = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().split()]
    allowed = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
    assert {r.name for r in pinned} == set(allowed)
    for requirement in pinned:
        (version,) = (specifier.version for specifier in requirement.specifier)
        assert allowed[requirement.name].specifier.contains(version)
        assert allowed[requirement.name].extras == requirement.extras
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("target", ["demo", "test"])
def test_a_python_that_is_too_old_is_refused_in_one_line(target, tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    old = tmp_path / "old_python"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.9.2;; *) echo False;; esac\n')
    old.chmod(0o755)
    done = call("make", target, f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode != 0 and done.stdout == ""
    assert "Python 3.11 or newer is needed" in done.stderr and "3.9.2" in done.stderr
    assert done.stderr.strip().count("\n") == 0 and not (tmp_path / ".venv").exists()
