"""benchmark/sweep.py: studies are read strictly, runs are recognised, and a sweep survives what happens to sweeps."""

import ast
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sweep
from conftest import ROOT, run_process, scalars
from filelock import FileLock
from sweep import Args, Arm, Outcome, Run, Study, StudyError, code_hash, load_study

SCRIPT = ROOT / "guided_sac_continuous.py"
TINY = {
    "total-timesteps": 20, "max-episode-steps": 10, "batch-size": 8, "eval-frequency": 10, "eval-episodes": 1,
    "supervisor": "none",
}  # fmt: skip


def write_study(name: str = "study.toml", **changes: str) -> Path:
    """A study in the present folder: TOML lines by key, to be changed or (with "") left out."""
    lines = {
        "environments": 'environments = ["MountainCarContinuous-v0"]',
        "seeds": "seeds = [1]",
        "flags": "[flags]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY.items()),
        "arms": '[arms.SAC]\nscript = "guided_sac_continuous.py"',
        "quick": "[quick]\nseeds = [1, 2]\nflags = { total-timesteps = 10 }",
    }
    path = Path(name)
    path.write_text("\n".join((lines | changes).values()))
    return path


def grid(axes: str) -> str:
    """An arm with a grid, as TOML."""
    return f'[arms.A]\nscript = "guided_sac_continuous.py"\ngrid = {axes}'


def start_sweep(*arguments: str | Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "benchmark" / "sweep.py"), *map(str, arguments), "--cores", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_sweep(*arguments: str | Path) -> tuple[int, str]:
    process = start_sweep(*arguments)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def a_run(script: Path, **changes) -> Run:
    values = dict(script=script, env="E-v0", seed=1, flags={}, threads=1) | changes
    return Run(**values, code=code_hash(script, values["env"], values["flags"]))


# --- studies ---
@pytest.mark.parametrize("path", sorted((ROOT / "benchmark" / "studies").glob("*.toml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_the_projects_studies_are_sound(path, quick):
    study = load_study(path, quick)
    assert all(len(study.seeds_of(arm)) >= 2 for arm in study.arms)
    assert len({run.hash for _, run in study.runs(1)}) == len(list(study.runs(1)))


def test_a_study_becomes_its_runs():
    """Flags of the arm go over common ones, those of the quick form over all; the command line by hand."""
    path = write_study(
        seeds="seeds = [3, 1]",
        flags="[flags]\ntotal_timesteps = 20\ngamma = 0.9\nautotune = false",
        arms='[arms.A]\nscript = "guided_sac_continuous.py"\nflags = { gamma = 0.8, save-model = true }',
    )
    runs = list(load_study(path).runs(2))
    assert [(arm, run.seed, run.threads) for arm, run in runs] == [("A", 3, 2), ("A", 1, 2)]
    assert runs[0][1].arguments == ["--env-id=MountainCarContinuous-v0", "--seed=3", "--total-timesteps=20",
                                    "--gamma=0.8", "--no-autotune", "--save-model"]  # fmt: skip
    quick = list(load_study(path, quick=True).runs(2))
    assert [run.seed for _, run in quick] == [1, 2]
    assert "--total-timesteps=10" in quick[0][1].arguments


def test_an_arm_may_have_seeds_of_its_own():
    """First seeds first; the others' runs stay what they are; the quick form has its seeds for all."""
    arms = "\n".join(f'[arms.{name}]\nscript = "{script}.py"' for name, script in (
        ("A", "guided_sac_continuous"), ("B", "rnd_sac")))  # fmt: skip
    alike = load_study(write_study(seeds="seeds = [1, 2]", arms=arms))
    path = write_study(seeds="seeds = [1, 2]", arms=f"{arms}\nseeds = [7, 1, 9]")
    study = load_study(path)
    runs = list(study.runs(1))
    assert [(arm, run.seed) for arm, run in runs] == [("A", 1), ("B", 7), ("A", 2), ("B", 1), ("B", 9)]
    assert (study.seeds_of("A"), study.seeds_of("B")) == ([1, 2], [7, 1, 9])
    hashes = {(arm, run.seed): run.hash for arm, run in runs}
    assert all(hashes[arm, run.seed] == run.hash for arm, run in alike.runs(1) if (arm, run.seed) != ("B", 2))
    quick = load_study(path, quick=True)
    assert [(arm, run.seed) for arm, run in quick.runs(1)] == [("A", 1), ("B", 1), ("A", 2), ("B", 2)]


def test_an_environment_may_have_flags_of_its_own():
    """Over the common ones and the arm's, on its runs only; those of the quick form go over them."""
    path = write_study(
        environments='environments = ["MountainCarContinuous-v0", "Humanoid-v5"]',
        flags="[flags]\neval_episodes = 5\n[flags_by_environment.Humanoid-v5]\neval_episodes = 7\ngamma = 0.5\n"
              "total_timesteps = 30",
        arms='[arms.A]\nscript = "guided_sac_continuous.py"\nflags = { gamma = 0.8 }',
    )  # fmt: skip
    arguments = {run.env: run.arguments[2:] for _, run in load_study(path).runs(1)}
    assert arguments == {"MountainCarContinuous-v0": ["--eval-episodes=5", "--gamma=0.8"],
                         "Humanoid-v5": ["--eval-episodes=7", "--gamma=0.5", "--total-timesteps=30"]}  # fmt: skip
    quick = {run.env: run.flags["total-timesteps"] for _, run in load_study(path, quick=True).runs(1)}
    assert quick == {"MountainCarContinuous-v0": 10, "Humanoid-v5": 10}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("threshold = 90", {"E-v0": 90, "F-v0": 90}),
        ("threshold = { 'F-v0' = -13.5 }", {"F-v0": -13.5}),
        ("threshold = { 'F-v0' = 0, 'E-v0' = 7.5 }", {"E-v0": 7.5, "F-v0": 0}),
    ],
)
def test_a_threshold_is_for_all_environments_or_for_each(line, expected):
    path = write_study(environments="environments = ['E-v0', 'F-v0']", seeds=f"seeds = [1]\n{line}")
    assert load_study(path).thresholds == expected


def test_the_hash_of_a_run_stays():
    """What the sweeps of the past left behind is found again: the hash of these settings, by hand."""
    run = Run(SCRIPT, "E-v0", 3, {"gamma": 0.5, "autotune": False}, 1, "c0de")
    text = ('{"code": "c0de", "env": "E-v0", "flags": {"autotune": false, "gamma": 0.5}, '
            '"script": "guided_sac_continuous.py", "seed": 3, "threads": 1}')  # fmt: skip
    assert run.hash == hashlib.sha256(text.encode()).hexdigest()[:12]
    study = Study("study", ["E-v0"], [3], {"A": Arm(SCRIPT, run.flags)}, "tag", {}, quick=False)
    (found,) = (found for _, found in study.runs(1))
    assert found.settings | {"code": "c0de"} == run.settings


def test_a_grid_becomes_its_arms():
    """The product of the axes, each with its point; a duration becomes an end; the quick form has values of its own."""
    path = write_study(
        arms=grid("{ guide_start = [0, 10], guide-duration = [5, 7] }") + '\n[arms.B]\nscript = "rnd_sac.py"',
        quick="[quick]\nseeds = [1, 2]\nflags = {}\ngrid = { guide-duration = [6] }",
    )
    arms = load_study(path).arms
    found = {name: (arm.flags.get("guide-start"), arm.flags.get("guide-end")) for name, arm in arms.items()}
    assert found == {
        "A guide-start=0 guide-duration=5": (0, 5), "A guide-start=0 guide-duration=7": (0, 7),
        "A guide-start=10 guide-duration=5": (10, 15), "A guide-start=10 guide-duration=7": (10, 17), "B": (None, None),
    }  # fmt: skip
    assert arms["A guide-start=10 guide-duration=7"].point == {"guide-start": 10, "guide-duration": 7}
    assert arms["B"].point == {} and not any("guide-duration" in arm.flags for arm in arms.values())
    quick = load_study(path, quick=True).arms
    assert [arm.flags.get("guide-end") for arm in quick.values()] == [6, 16, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": "seeds = ["}, "cannot be read as TOML"),
        ({"seeds": ""}, "lacks 'seeds'"),
        ({"seeds": "seeds = []"}, "one or more whole numbers, not \\[\\]"),
        ({"seeds": 'seeds = ["1"]'}, "whole numbers"),
        ({"seeds": "seeds = [1, 2, 1]"}, "names one twice"),
        ({"seeds": "seeds = [1]\nsteps = 5"}, "unknown key 'steps' in the study; known are environments, seeds"),
        ({"environments": 'environments = "E"'}, "Gymnasium ids, not 'E'"),
        ({"flags": "[flags]\nseed = 1"}, "comes from 'environments' and 'seeds'"),
        ({"flags": "[flags]\nenv_id = 'E'"}, "comes from 'environments' and 'seeds'"),
        ({"flags": "[flags]\ngamma = [1]"}, "'gamma' must be a string, a number or true/false"),
        ({"flags": "flags = 3"}, "\\[flags\\] must be a table"),
        ({"seeds": "seeds = [1, -1]"}, "'seeds' must be 0 or more: \\[1, -1\\]"),
        ({"quick": "[quick]\nseeds = [-2]\nflags = {}"}, "\\[quick\\] seeds must be 0 or more"),
        ({"flags": "[flags]\ntotal-timesteps = 20\ntotal_timesteps = 30"},
         "\\[flags\\] sets a flag in both spellings, .*: total-timesteps, total_timesteps"),
        ({"seeds": "seeds = [1]\nthreshold = 'high'"}, "'threshold' must be a finite number, not 'high'"),
        ({"seeds": "seeds = [1]\nthreshold = nan"}, "'threshold' must be a finite number, not nan"),
        ({"seeds": "seeds = [1]\nthreshold = -inf"}, "'threshold' must be a finite number, not -inf"),
        ({"seeds": "seeds = [1]\nthreshold = true"}, "'threshold' must be a finite number, not True"),
        ({"seeds": "seeds = [1]\nthreshold = { E-v0 = 1 }"}, "'threshold' names 'E-v0', which is not in 'environ"),
        ({"seeds": "seeds = [1]\nthreshold = { MountainCarContinuous-v0 = 'x' }"}, "must be a finite number, not 'x'"),
        ({"seeds": "seeds = [1]\nmetric = 3"}, "'metric' must be a TensorBoard tag"),
        ({"flags": "[flags_by_environment.E-v0]\ngamma = 1"},
         "unknown key 'E-v0' in \\[flags_by_environment\\]; known are MountainCarContinuous-v0"),
        ({"flags": "[flags_by_environment]\nMountainCarContinuous-v0 = 1"},
         "\\[flags_by_environment.MountainCarContinuous-v0\\] must be a table, not 1"),
        ({"flags": "[flags_by_environment.MountainCarContinuous-v0]\nguide-duration = 1"},
         "sets 'guide-duration', which only arms can"),
        ({"flags": "[flags_by_environment.MountainCarContinuous-v0]\ngamma = 1", "arms": grid("{ gamma = [0, 0.9] }")},
         "sets 'gamma', which is an axis of a grid"),
        ({"arms": ""}, "lacks 'arms'"),
        ({"arms": "[arms]"}, "at least one"),
        ({"arms": "[arms.A]"}, "\\[arms.A\\] lacks 'script'"),
        ({"arms": '[arms.A]\nscript = "nowhere.py"'}, "names the script 'nowhere.py'"),
        ({"arms": '[arms.A]\nscript = "README.md"'}, "names the script 'README.md': it must be a .py file"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nseeds = 3'},
         "\\[arms.A\\] seeds must be a list of one or more whole numbers, not 3"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nseeds = [-3]'}, "\\[arms.A\\] seeds must be 0 or"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nflag = 1'}, "unknown key 'flag' in \\[arms.A\\]"),
        ({"arms": '[arms.A]\nscript = "guided_sac_continuous.py"\nflags = { guide-policy = "no.py" }'},
         "names the rule 'no.py': no such file"),
        ({"quick": ""}, "no quick form"),
        ({"arms": grid("[0, 1]")}, "\\[arms.A\\] grid must be a table, not \\[0, 1\\]"),
        ({"arms": grid("{ gamma = 0.9 }")}, "'gamma' must be a list of one or more values, each once, not 0.9"),
        ({"arms": grid("{ gamma = [] }")}, "'gamma' must be a list of one or more values"),
        ({"arms": grid("{ gamma = [1, 1] }")}, "each once"),
        ({"arms": grid("{ gamma = [[1]] }")}, "'gamma' must be a string, a number or true/false"),
        ({"arms": grid("{ seed = [1, 2] }")}, "comes from 'environments' and 'seeds'"),
        ({"arms": grid("{ guide-duration = [5] }")}, "guide-duration needs 'guide-start' beside it"),
        ({"arms": grid("{ guide-start = [0], guide-duration = [0.5] }")}, "both whole numbers"),
        ({"arms": grid("{ guide-start = [0], guide-duration = [5] }") + "\nflags = { guide_end = 9 }"},
         "\\[arms.A\\]: guide-duration and 'guide-end' say the same thing"),
        ({"arms": grid("{ eval_episodes = [1], eval-episodes = [2] }")}, "\\[arms.A\\] grid sets a flag in both spell"),
        ({"arms": grid("{ gamma = [1] }") + '\n[arms."A gamma=1"]\nscript = "rnd_sac.py"'},
         "two arms are called 'A gamma=1'"),
        ({"arms": '[arms."A gamma=1"]\nscript = "rnd_sac.py"\n' + grid("{ gamma = [1] }")},
         "two arms are called 'A gamma=1'"),
        ({"arms": grid("{ gamma = [1] }"), "quick": "[quick]\nseeds = [1]\nflags = {}\ngrid = { tau = [1] }"},
         "\\[quick\\] grid has values for 'tau', which is in no arm's grid"),
    ],
)  # fmt: skip
def test_a_bad_study_is_refused_with_its_reason(changes, message):
    with pytest.raises(StudyError, match=f"^study.toml: .*{message}") as error:
        load_study(write_study(**changes), quick=True)
    assert len(str(error.value).splitlines()) == 1


def test_bad_input_is_one_line():
    for arguments, message in (
        (["missing.toml"], "missing.toml: cannot be read as TOML"),
        ([write_study(), "--threads", "0"], "must be 1 or more"),
        ([write_study(), "--threads", "2"], "no run would ever start"),
        ([write_study(), "--ray-address", "127.0.0.1:1"], "--cores is for a local sweep"),
    ):
        status, output = run_sweep(*arguments)
        assert status == 1
        assert message in output.splitlines()[-1] and output.splitlines()[-1].startswith("sweep.py: error: ")
        assert "Traceback" not in output


def test_a_client_of_a_cluster_is_told_where_to_go():
    with pytest.raises(ValueError, match=r"^--ray-address is host:port; start the sweep on one of the cluster"):
        sweep.start_ray(Args([], ray_address="ray://127.0.0.1:1"))


@pytest.mark.parametrize("program", ["sweep.py", "results.py"])
def test_a_cluster_that_cannot_be_joined_is_one_line(program, tmp_path):
    """Somebody answers, but we have no token; nobody answers."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_TOKEN")}
    env |= {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    command = [sys.executable, str(ROOT / "benchmark" / program), write_study(), "--quick", "--ray-address"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        without_token = subprocess.run([*command, address], env=env, capture_output=True, text=True, timeout=240)
    unreachable = subprocess.run([*command, address], capture_output=True, text=True, timeout=60)
    for result, start, end in (
        (without_token, "Ray: ", "authentication token"),
        (unreachable, f"--ray-address {address} cannot be reached: ", "Connection refused"),
    ):
        assert result.returncode == 1 and "Traceback" not in result.stderr
        error = result.stderr.splitlines()[-1]
        assert error.startswith(f"{program}: error: {start}") and end in error


@pytest.mark.parametrize("error", [sweep.ray.exceptions.RpcError("gone\naway", 14), sweep.ray.exceptions.RayError()])
def test_what_ray_raises_is_said_in_one_line(error, tmp_path, monkeypatch):
    def fail(args: Args) -> None:
        raise error

    monkeypatch.setattr(sweep, "start_ray", fail)
    with pytest.raises(ConnectionError, match=r"^Ray: .+") as said:
        sweep.sweep([a_run(SCRIPT)], Args([], runs=tmp_path))
    assert len(str(said.value).splitlines()) == 1


# --- what makes a run the same run ---
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
    with pytest.raises(StudyError, match="not valid Python"):
        a_run(script)


def test_the_helpers_of_our_scripts_count():
    """The script's own modules are found by their imports."""
    source = SCRIPT.read_text() + (ROOT / "llm_supervisor.py").read_text()
    assert "from llm_supervisor import" in source and "from policy_sandbox import" in source
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
    for name in ("rnd_sac.py", "llm_supervisor.py", "policy_sandbox.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    prompts = tmp_path / "prompts" / "default"
    prompts.mkdir(parents=True)
    (prompts / "coder.md").write_text("write")
    settings = [{}, {"replay-frequency": 0, "capture-video": False}, {"replay-frequency": 5}, {"capture-video": True}]

    def hashes() -> list[str]:
        return [code_hash(tmp_path / "rnd_sac.py", "E-v0", flags) for flags in settings]

    before = hashes()
    (prompts / "coder.md").write_text("rewrite")
    assert hashes() == before
    for name in ("llm_supervisor.py", "policy_sandbox.py"):
        previous = hashes()
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\nx = 2\n")
        assert [a == b for a, b in zip(previous, hashes(), strict=True)] == [True, True, False, False], name
    (tmp_path / "rnd_sac.py").write_text((tmp_path / "rnd_sac.py").read_text() + "\nx = 2\n")
    assert not set(before) & set(hashes())


@pytest.mark.parametrize("script", sorted(ROOT.glob("*_sac*.py")), ids=lambda path: path.name)
def test_our_scripts_import_late_for_videos_alone(script):
    """What code_hash() leaves out of a run without videos stands below a condition on one of the flags for videos."""

    def late_imports(node: ast.AST, conditions: list[str]) -> Iterator[list[str]]:
        for child in ast.iter_child_nodes(node):
            late = isinstance(child, ast.ImportFrom | ast.Import) and not isinstance(node, ast.Module)
            if late and any(name in ast.unparse(child) for name in ("llm_supervisor", "policy_sandbox")):
                yield conditions
            inner = [ast.unparse(child.test)] if isinstance(child, ast.If) else []
            yield from late_imports(child, conditions + inner)

    found = list(late_imports(ast.parse(script.read_text()), []))
    assert found
    for conditions in found:
        assert {f"args.{name.replace('-', '_')}" for name in sweep.FILMING} & set(conditions), conditions


def test_code_changed_during_the_sweep_is_not_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print(1)\n")
    run = a_run(script)
    script.write_text("print(2)\n")
    outcome = sweep.execute(run, tmp_path, "")
    assert not outcome.succeeded and "changed during the sweep" in outcome.message
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_of_two_copies_of_a_run_the_first_counts(tmp_path):
    """Ray repeats a task when it loses sight of a machine: the late one leaves nothing behind."""
    script = tmp_path / "script.py"
    script.write_text("")
    first, second = (sweep.execute(a_run(script), tmp_path, commit) for commit in ("one", "two"))
    assert first.succeeded and second.succeeded
    assert json.loads((first.folder / "run.json").read_text())["commit"] == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([first.folder.name, "script.py"])


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another sweep is at work"):
        sweep.sweep([a_run(SCRIPT)], Args([], runs=tmp_path))


def test_what_a_cluster_does_wrong_is_said(tmp_path, monkeypatch, capsys):
    """A folder that the other machines do not share, and a task that Ray lost, are failures with their reason."""
    run = a_run(SCRIPT)
    monkeypatch.setattr(sweep.ray, "get", lambda ref: Outcome(run, True, 1.0, tmp_path / "elsewhere", ""))
    outcome = sweep.outcome_of(None, run, tmp_path)
    assert not outcome.succeeded and "--runs must be a folder that all machines share" in outcome.message

    def lost(ref):
        raise sweep.ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(sweep.ray, "get", lost)
    outcome = sweep.outcome_of(None, run, tmp_path)
    assert not outcome.succeeded and "worker died" in outcome.message and "\n" not in outcome.message
    (tmp_path / "log.txt").write_text("of something else\n")  # in the present folder
    sweep.report([outcome])
    assert "of something else" not in capsys.readouterr().out
    (tmp_path / f"{run.name}.abc.part").mkdir()
    (tmp_path / f"{run.name}.abc.part" / "log.txt").write_text("step 17\n")
    sweep.report([sweep.outcome_of(None, run, tmp_path)])
    assert "  | step 17\n" in capsys.readouterr().out

    def silent(ref):
        raise sweep.ray.exceptions.RayError

    monkeypatch.setattr(sweep.ray, "get", silent)
    assert sweep.outcome_of(None, run, tmp_path).message == "RayError"


def test_progress_by_hand():
    """Ten runs, two at a time: three over in 10 s each, two half done, five waiting: (7 − 1) · 10 / 2 = 30 s."""
    over = [Outcome(a_run(SCRIPT), succeeded, 10.0, Path(), "") for succeeded in (True, True, False)]
    assert sweep.progress(over, 7, 2) == "2 done, 2 running, 1 failed, 5 waiting, about 0:00:30 left"
    assert sweep.progress([], 7, 2) == "0 done, 2 running, 0 failed, 5 waiting"
    assert sweep.progress(over, 0, 0) == "2 done, 0 running, 1 failed, 0 waiting"


# --- sweeps of real runs ---
def test_failures_and_duplicates(tmp_path):
    """One run serves two arms; a failing one is listed with its log and makes the status 1; only it is redone."""
    failing = tmp_path / "failing.py"
    failing.write_text(
        "import os, sys\n"
        "print(*range(30), sep='\\n')\n"
        f"sys.exit(0 if os.path.exists({str(tmp_path / 'repaired')!r}) else 'the disk is full')\n"
    )
    study = write_study(
        flags="",
        arms="\n".join(f'[arms.{name}]\nscript = "guided_sac_continuous.py"\n'
                       f"flags = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in TINY.items())} }}"
                       for name in ("SAC", "twin")) + f'\n[arms.bad]\nscript = "{failing}"',
    )  # fmt: skip
    status, output = run_sweep(study)
    assert status == 1, output
    assert "2 runs, 0 of them done before" in output
    assert "1 done, 0 running, 1 failed, 0 waiting" in output
    assert "exit status 1" in output and "  | the disk is full" in output
    assert "  | 29\n" in output and "  | 16\n" in output and "  | 15\n" not in output  # 15 lines of 31
    folders = {arm: tmp_path / "runs" / "sweep" / run.name for arm, run in load_study(study).runs(1)}
    assert folders["SAC"] == folders["twin"] and folders["SAC"].is_dir() and not folders["bad"].exists()
    record = json.loads((folders["SAC"] / "run.json").read_text())
    assert record["threads"] == 1 and record["flags"] == TINY and record["versions"]["torch"]
    assert "cpu with 1 threads" in (folders["SAC"] / "log.txt").read_text()

    written = (folders["SAC"] / "run.json").stat().st_mtime_ns
    (tmp_path / "repaired").touch()
    status, output = run_sweep(study)
    assert status == 0, output
    assert "2 runs, 1 of them done before" in output
    assert (folders["SAC"] / "run.json").stat().st_mtime_ns == written
    assert sorted(p.name for p in (tmp_path / "runs" / "sweep").iterdir() if p.is_dir()) == sorted(
        {folder.name for folder in folders.values()}
    )
    assert run_sweep(study) == (0, "2 runs, 2 of them done before\n")


def test_goes_on_after_kill_9(tmp_path, monkeypatch):
    """The sweep is killed in its second run: that one is redone, with the numbers of a run by hand."""
    study = write_study(seeds="seeds = [1, 2]")
    first, second = (tmp_path / "runs" / "sweep" / run.name for _, run in load_study(study).runs(1))
    process = start_sweep(study)
    end = time.time() + 200
    while not (first.is_dir() and list(second.parent.glob(f"{second.name}.*.part"))):
        assert time.time() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (attempt,) = second.parent.glob(f"{second.name}.*.part")
    while any(p.info["cwd"] == str(attempt) for p in psutil.process_iter(["cwd"])):
        assert time.time() < end
        time.sleep(0.1)
    assert not second.exists()

    written = (first / "run.json").stat().st_mtime_ns
    status, output = run_sweep(study)
    assert status == 0, output
    assert "2 runs, 1 of them done before" in output
    assert (first / "run.json").stat().st_mtime_ns == written
    assert not list(second.parent.glob("*.part"))

    monkeypatch.chdir(second)
    (by_sweep,) = os.listdir("runs")
    swept = scalars(by_sweep)
    monkeypatch.chdir(tmp_path)
    result = run_process(*next(run.arguments for _, run in load_study(study).runs(1) if run.seed == 2))
    assert result.returncode == 0, result.stderr
    (by_hand,) = (path for path in os.listdir("runs") if path != "sweep")
    plain = scalars(by_hand)
    assert swept.keys() == plain.keys() and len(plain["eval/episodic_return"]) == 3
    assert all(swept[tag] == plain[tag] for tag in plain if tag != "charts/SPS")


def test_a_killed_sweeps_runs_end_with_it(tmp_path):
    """A run that would sleep for minutes is gone within 20 s of its sweep's kill -9."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}} ')\ntime.sleep(280)\n"
    )
    process = start_sweep(write_study(flags="", arms=f'[arms.A]\nscript = "{script}"'))
    end = time.time() + 200
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().endswith(" "):
        assert time.time() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    run = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs([run], timeout=20)
    assert not alive, "the killed sweep's run is still going"
