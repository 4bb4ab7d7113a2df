"""CleanRL's own scripts and tools beside ours, in a checkout of CleanRL: docs/cleanrl.md.

    CLEANRL=path/to/cleanrl python -m pytest tests/test_cleanrl.py

Without a checkout only what its tools demand is tested.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, scalars, texts

CHECKOUT = Path(os.environ.get("CLEANRL", "/nowhere")).resolve()
needs_cleanrl = pytest.mark.skipif(
    not (CHECKOUT / "cleanrl_utils" / "tuner.py").is_file(), reason="CLEANRL is not the folder of a CleanRL checkout"
)
SHORT = ["--env-id", "InvertedPendulum-v5", "--total-timesteps", "220", "--learning-starts", "90"]  # falls, and soon


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The present folder with CleanRL's SAC and tools in it, and ours copied beside."""
    shutil.copytree(CHECKOUT / "cleanrl_utils", tmp_path / "cleanrl_utils")
    (tmp_path / "cleanrl").mkdir()
    shutil.copy(CHECKOUT / "cleanrl" / "sac_continuous_action.py", tmp_path / "cleanrl")
    shutil.copy(ROOT / "guided_sac_continuous.py", tmp_path / "cleanrl")
    return tmp_path


def call(*arguments: str) -> subprocess.CompletedProcess:
    """Python in the present folder, with this project installed and the folder's packages in reach."""
    paths = {
        "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{ROOT}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return subprocess.run([sys.executable, *arguments], env=os.environ | paths | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=840)  # fmt: skip


def the_run(pattern: str) -> str:
    (path,) = Path("runs").glob(pattern)
    return path.name


@pytest.mark.parametrize("first", ["--exp-name=tuned", "--q-lr=0.5"])
def test_the_first_flag_of_cleanrls_tuner_is_lost(first, monkeypatch):
    """Its sys.argv has no script's name: runpy puts one in the first flag's place. The others arrive."""
    flags = ["--q-lr=0.25", "--env-id=MountainCarContinuous-v0", "--seed=3", "--total-timesteps=3", "--supervisor=none"]
    monkeypatch.setattr(sys, "argv", [first, *flags] if "exp-name" in first else [first, *flags[1:]])
    run = runpy.run_path(str(ROOT / "guided_sac_continuous.py"), run_name="__main__")
    assert run["args"].q_lr == (0.25 if "exp-name" in first else run["Args"]().q_lr)
    assert re.fullmatch(r"MountainCarContinuous-v0__guided_sac_continuous_none__3__\d+", run["run_name"])


def test_a_switch_cannot_be_written_as_a_value(run_here, capsys):
    """As CleanRL's tuner would write it, and as that of its release 1.2.0 does."""
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", "MountainCarContinuous-v0", "--track=False")
    assert ended.value.code == 2 and "Unrecognized options: False" in capsys.readouterr().err
    assert not Path("runs").exists()


@needs_cleanrl
def test_ours_and_theirs_lie_in_one_tensorboard(checkout):
    """Copied into cleanrl/, ours logs each of their tags under the same name, and its losses at the same steps."""
    for script, flags in (("sac_continuous_action", []), ("guided_sac_continuous", ["--supervisor", "none"])):
        done = call(f"cleanrl/{script}.py", *SHORT, *flags)
        assert done.returncode == 0, done.stderr
    theirs, ours = scalars(the_run("*__sac_continuous_action__*")), scalars(the_run("*__guided_sac_continuous_none__*"))
    assert set(theirs) < set(ours) and "losses/qf1_loss" in theirs
    assert "charts/episodic_return" in ours
    assert "charts/episodic_return" not in theirs  # with Gymnasium ≥ 1
    assert {step for step, _ in theirs["losses/qf1_loss"]} == {step for step, _ in ours["losses/qf1_loss"]}


@needs_cleanrl
def test_theirs_ends_at_its_first_truncation_and_ours_goes_on(checkout):
    flags = ["--env-id", "MountainCarContinuous-v0", "--total-timesteps", "1005", "--learning-starts", "1004"]
    theirs = call("cleanrl/sac_continuous_action.py", *flags)
    assert theirs.returncode == 1 and theirs.stderr.endswith("KeyError: 'final_observation'\n")
    ours = call("cleanrl/guided_sac_continuous.py", *flags, "--supervisor", "none")
    assert ours.returncode == 0, ours.stderr
    (episode,) = scalars(the_run("*__guided_sac_continuous_none__*"))["charts/episodic_return"]
    assert episode[0] == 999


@needs_cleanrl
def test_their_benchmark_tool_runs_each_seed(checkout):
    command = "python cleanrl/guided_sac_continuous.py --exp-name 'an arm' --supervisor bundled --total-timesteps 20"
    done = call("-m", "cleanrl_utils.benchmark", "--env-ids", "MountainCarContinuous-v0", "--num-seeds", "2",
                "--start-seed", "5", "--workers", "1", "--no-auto-tag", "--command", command)  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.rsplit("__", 1)[0] for path in Path("runs").iterdir())
    assert names == ["MountainCarContinuous-v0__an arm__5", "MountainCarContinuous-v0__an arm__6"]

    refused = command.replace("--supervisor bundled", "--env-kwargs nonsense")
    done = call("-m", "cleanrl_utils.benchmark", "--env-ids", "MountainCarContinuous-v0", "--num-seeds", "1",
                "--workers", "1", "--no-auto-tag", "--command", refused)  # fmt: skip
    assert done.returncode == 0 and "env-kwargs must" not in done.stdout + done.stderr  # nothing is said of it


@needs_cleanrl
def test_their_tuner_tunes_as_the_page_says(checkout):
    """The page's program with two trials of one seed: the tuned setting is another in each, the first flag is lost."""
    for package in ("optuna", "rich", "wandb"):
        pytest.importorskip(package)
    (program,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "cleanrl.md").read_text(), re.DOTALL | re.MULTILINE
    )
    shorter = {"num_trials=10, num_seeds=2": "num_trials=2, num_seeds=1", "5_000": "200", '500,\n': '100,\n',
               '"guided_sac_continuous.py"': '"cleanrl/guided_sac_continuous.py"'}  # fmt: skip
    for old, new in shorter.items():
        assert program.count(old) == 1, old
        program = program.replace(old, new)
    Path("tune.py").write_text(program)
    done = call("tune.py")
    assert done.returncode == 0, done.stderr
    runs = [path.name for path in Path("runs").iterdir()]
    assert len(runs) == 2 and all("__guided_sac_continuous" in name for name in runs)
    settings = [texts(name, "hyperparameters")[0] for name in runs]
    assert len({re.search(r"\|q_lr\|([^|]+)\|", text)[1] for text in settings}) == 2
