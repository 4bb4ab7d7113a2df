"""benchmark/sweeps/sweep.py: a sweep survives what happens to sweeps, and says what failed."""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, run_process, scalars
from filelock import FileLock
from handmade import SCRIPT, TINY, a_run, anywhere, command, write_study

from benchmark.figures.analysis import origin
from benchmark.figures.table import read_sweep
from benchmark.sweeps import sweep
from benchmark.sweeps.studies import Run, load_study
from benchmark.sweeps.sweep import Args, Outcome
from guided_utils.checkpoint import machine


def start_sweep(*arguments: str | Path) -> subprocess.Popen:
    return subprocess.Popen(
        command("sweeps.sweep", *arguments, "--cores", "1"),
        env=anywhere(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run_sweep(*arguments: str | Path) -> tuple[int, str]:
    process = start_sweep(*arguments)
    output, _ = process.communicate(timeout=840)
    return process.returncode, output


def until(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for what a sweep comes to."""
    end = time.time() + 600
    while not reached():
        assert time.time() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def test_bad_input_is_one_line(monkeypatch):
    for arguments, message in (
        (["missing.toml"], "missing.toml: cannot be read as TOML"),
        ([write_study(), "--threads", "0"], "must be 1 or more"),
        ([write_study(), "--threads", "2"], "no run would ever start"),
        ([write_study(), "--ray-address", "127.0.0.1:1"], "--cores is for a local sweep"),
    ):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, arguments), "--cores", "1"])
        with pytest.raises(SystemExit) as ended:  # its text goes to stderr, with exit status 1
            runpy.run_path(sweep.__file__, run_name="__main__")
        said = str(ended.value.code)
        assert said.startswith("sweep.py: error: ") and message in said and "\n" not in said


def test_a_client_of_a_cluster_is_told_where_to_go():
    with pytest.raises(ValueError, match=r"^--ray-address is host:port; start the sweep on one of the cluster"):
        sweep.start_ray(Args([], ray_address="ray://127.0.0.1:1"))


def test_a_cluster_that_cannot_be_joined_is_one_line(tmp_path):
    """Somebody answers, but we have no token."""
    env = {name: value for name, value in anywhere().items() if not name.startswith("RAY_AUTH_TOKEN")}
    env |= {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    begin = command("sweeps.sweep", write_study(), "--quick", "--ray-address")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        result = subprocess.run([*begin, address], env=env, capture_output=True, text=True, timeout=840)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    error = result.stderr.splitlines()[-1]
    assert error.startswith("sweep.py: error: Ray: ") and "authentication token" in error


def test_a_cluster_where_nobody_answers_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=rf"^--ray-address {address} cannot be reached: .*Connection refused"):
        sweep.sweep([a_run(SCRIPT)], Args([], runs=tmp_path, ray_address=address))


@pytest.mark.parametrize("error", [sweep.ray.exceptions.RpcError("gone\naway", 14), sweep.ray.exceptions.RayError()])
def test_what_ray_raises_is_said_in_one_line(error, tmp_path, monkeypatch):
    def fail(args: Args) -> None:
        raise error

    monkeypatch.setattr(sweep, "start_ray", fail)
    with pytest.raises(ConnectionError, match=r"^Ray: .+") as said:
        sweep.sweep([a_run(SCRIPT)], Args([], runs=tmp_path))
    assert len(str(said.value).splitlines()) == 1
    monkeypatch.setattr(sys, "argv", ["results.py", str(write_study()), "--quick", "--runs", str(tmp_path / "runs")])
    with pytest.raises(SystemExit, match=r"^results\.py: error: Ray: .+") as ended:
        runpy.run_path(str(ROOT / "benchmark" / "results.py"), run_name="__main__")
    assert len(str(ended.value).splitlines()) == 1


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


def test_a_commit_is_dirty_where_code_was_changed_not_by_the_tables_before(tmp_path):
    assert sweep.git_commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    code, made = tmp_path / "code.py", tmp_path / "benchmark" / "results" / "study.csv"
    made.parent.mkdir(parents=True)
    for path in (code, made):
        path.write_text("1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    made.write_text("2\n")
    assert sweep.git_commit(tmp_path) == commit
    code.write_text("2\n")
    assert sweep.git_commit(tmp_path) == f"{commit}-dirty"


@pytest.mark.slow
def test_failures_and_duplicates_and_kill_9(tmp_path):
    """One run serves two arms. The sweep is killed in the other one, which would sleep for minutes: it is gone within
    20 s. It fails in the next sweep, is listed with its log and makes the status 1; only it is redone.
    """
    failing, pid = tmp_path / "failing.py", tmp_path / "pid"
    failing.write_text(
        "import os, sys, time\n"
        f"if not os.path.exists({str(pid)!r}):\n"
        f"    open({str(pid)!r}, 'w').write(f'{{os.getpid()}} ')\n"
        "    time.sleep(280)\n"
        "print(*range(30), sep='\\n')\n"
        f"sys.exit(0 if os.path.exists({str(tmp_path / 'repaired')!r}) else 'the disk is full')\n"
    )
    study = write_study(
        flags="",
        arms="\n".join(f'[arms.{name}]\nscript = "guided_sac_continuous.py"\n'
                       f"flags = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in TINY.items())} }}"
                       for name in ("SAC", "twin")) + f'\n[arms.bad]\nscript = "{failing}"',
    )  # fmt: skip
    folder = tmp_path / "runs" / "sweep"
    done = {arm: folder / run.name for arm, run in load_study(study).runs(1)}
    assert done["SAC"] == done["twin"]

    process = start_sweep(study)
    until(lambda: pid.is_file() and pid.read_text().endswith(" "), process)
    run = psutil.Process(int(pid.read_text()))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs([run], timeout=20)
    assert not alive, "the killed sweep's run is still going"
    assert done["SAC"].is_dir() and len(list(folder.glob(f"{done['bad'].name}.*.part"))) == 1
    written = (done["SAC"] / "run.json").stat().st_mtime_ns
    record = json.loads((done["SAC"] / "run.json").read_text())
    assert record["threads"] == 1 and record["flags"] == TINY and record["versions"]["torch"]
    assert record["processor"] == machine()["processor"]
    assert "cpu with 1 threads" in (done["SAC"] / "log.txt").read_text()

    status, output = run_sweep(study)
    assert status == 1, output
    assert "2 runs, 1 of them done before" in output
    assert "0 done, 0 running, 1 failed, 0 waiting" in output
    assert "exit status 1" in output and "  | the disk is full" in output
    assert "  | 29\n" in output and "  | 16\n" in output and "  | 15\n" not in output  # 15 lines of 31
    assert not done["bad"].exists() and not list(folder.glob("*.part"))

    (tmp_path / "repaired").touch()
    status, output = run_sweep(study)
    assert status == 0, output
    assert "2 runs, 1 of them done before" in output
    assert (done["SAC"] / "run.json").stat().st_mtime_ns == written
    assert {path for path in folder.iterdir() if path.is_dir()} == set(done.values())
    assert run_sweep(study) == (0, "2 runs, 2 of them done before\n")


LONG = TINY | {"total-timesteps": 600, "checkpoint-frequency": 100, "eval-frequency": 300, "max-episode-steps": 100}


def killed_after_its_first_checkpoint(run: Run, folder: Path) -> Path:
    """The folder of an attempt, as a sweep that was killed leaves it."""
    attempt = folder / f"{run.name}.abc.part"
    attempt.mkdir()
    with (attempt / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, str(run.script), *run.arguments], cwd=attempt, stdout=log,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
    end = time.time() + 600
    while not sweep.checkpoints(attempt):
        assert time.time() < end and process.poll() is None, (attempt / "log.txt").read_text()
        time.sleep(0.02)
    process.kill()
    process.wait()
    return attempt


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    """From its checkpoint, to the numbers of a run by hand; its record says where, and that the processor changed."""
    study = write_study(flags="[flags]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in LONG.items()))
    ((_, run),) = load_study(study).runs(1)
    folder = tmp_path / "runs" / "sweep"
    folder.mkdir(parents=True)
    attempt = killed_after_its_first_checkpoint(run, folder)
    (settings,) = attempt.glob("runs/*/settings.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"processor": "an abacus"}))
    sweep.set_aside(folder, {run.name})
    assert sweep.execute(run, folder, "").succeeded
    record = json.loads((folder / run.name / "run.json").read_text())
    assert len(record["resumed_at"]) == 1 and record["resumed_at"][0] % 100 == 0 < record["resumed_at"][0] < 600
    assert record["resumed_with_another"] == ["processor"]
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [run.name]
    assert not list((folder / run.name).rglob("*.pt"))
    table = read_sweep(load_study(study), folder, threads=1)
    assert origin(table).endswith("SAC on MountainCarContinuous-v0, seed 1, was resumed with another processor: "
                                  "its last bits may differ.")  # fmt: skip

    monkeypatch.chdir(folder / run.name)
    (by_sweep,) = os.listdir("runs")
    swept = scalars(by_sweep)
    monkeypatch.chdir(tmp_path)
    result = run_process(*run.arguments, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    (by_hand,) = (path for path in os.listdir("runs") if path != "sweep")
    plain = scalars(by_hand)
    assert swept.keys() == plain.keys() and [step for step, _ in plain["eval/episodic_return"]] == [0, 300, 600]
    assert all(swept[tag] == plain[tag] for tag in plain if tag != "charts/SPS")


@pytest.mark.slow
def test_a_sweep_that_is_told_to_end_loses_no_step(tmp_path):
    """SIGTERM: the run leaves a checkpoint, the one that waits does not begin; the same command does the rest."""
    flags = LONG | {"total-timesteps": 1_000, "checkpoint-frequency": 100_000}
    (tmp_path / "script.py").touch()
    study = write_study(
        flags="[flags]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in flags.items()),
        arms=f'[arms.SAC]\nscript = "guided_sac_continuous.py"\n[arms.B]\nscript = "{tmp_path / "script.py"}"',
    )
    folder = tmp_path / "runs" / "sweep"
    process = start_sweep(study)
    until(lambda: any("step 0:" in path.read_text() for path in folder.glob("*.part/log.txt")), process)
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert output.splitlines()[-2:] == [
        "interrupted: runs end with a checkpoint, within 120 s (once more: at once)",
        "sweep.py: interrupted; the same command goes on from here",
    ]
    (cut,) = (path for path in folder.iterdir() if path.is_dir())
    (checkpoint,) = sweep.checkpoints(cut)
    step = int(checkpoint.stem.removeprefix("step_"))
    first = json.loads((cut / "run.json").read_text())
    assert cut.suffix == ".cut" and 0 <= step < 1_000 and first["status"] == 143
    assert [path.name for path in folder.iterdir() if path.is_file()] == [sweep.LOCK]

    status, output = run_sweep(study)
    assert status == 0, output
    records = [json.loads(path.read_text()) for path in folder.glob("*/run.json")]
    assert sorted(record["resumed_at"] for record in records) == [[], [step]]
    (record,) = (record for record in records if record["resumed_at"])
    assert record["started"] == first["started"] and record["seconds"] > first["seconds"] > 1
    assert record["seconds"] < time.time() - first["started"]


def test_results_that_are_told_twice_to_end_wait_for_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('deaf', flush=True))\n"
        "print('process', os.getpid(), flush=True)\n"
        "for _ in range(2800):\n"
        "    time.sleep(0.1)\n"
    )
    study = write_study(flags="", arms=f'[arms.A]\nscript = "{script}"')
    process = subprocess.Popen(command("results", study, "--quick", "--cores", "1"), env=anywhere(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    logs = tmp_path / "runs" / "sweep"
    until(lambda: any("process" in path.read_text() for path in logs.glob("*.part/log.txt")), process)
    (log,) = logs.glob("*.part/log.txt")
    script_process = psutil.Process(int(log.read_text().split()[1]))
    process.terminate()
    until(lambda: "deaf" in log.read_text(), process)
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert output.splitlines()[-1] == "results.py: interrupted; the same command goes on from here"
    _, alive = psutil.wait_procs([script_process], timeout=20)
    assert not alive and log.read_text().count("deaf") == 1
    assert not list(tmp_path.glob("runs/quick/*"))


def test_a_run_without_a_usable_checkpoint_starts_anew(tmp_path):
    run = a_run(SCRIPT, env="MountainCarContinuous-v0", flags=LONG | {"checkpoint-keep": 1})
    attempt = killed_after_its_first_checkpoint(run, tmp_path)
    for path in sweep.checkpoints(attempt):
        path.write_bytes(path.read_bytes()[:1000])
    outcome = sweep.execute(run, tmp_path, "")
    assert outcome.succeeded and outcome.folder == tmp_path / run.name
    record = json.loads((outcome.folder / "run.json").read_text())
    assert record["resumed_at"] == [] and record["resumed_with_another"] == [] and record["status"] == 0
    assert len(sweep.checkpoints(outcome.folder)) == 1  # a study that says how many keeps them
    assert os.listdir(tmp_path) == [run.name]


def test_an_attempt_at_which_somebody_works_is_left_alone(tmp_path, capsys):
    """A process that outlived its sweep holds the lock; one that is cut off leaves a folder to go on from."""
    script = tmp_path / "script.py"
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    run = a_run(script)
    attempt = tmp_path / f"{run.name}.abc.part"
    (attempt / "runs" / "x" / "checkpoints").mkdir(parents=True)
    (attempt / "runs" / "x" / "checkpoints" / "step_000000001.pt").touch()
    with sweep.locked(attempt):
        outcome = sweep.execute(run, tmp_path, "")
        assert attempt.is_dir()
    assert not outcome.succeeded and outcome.message == "interrupted (exit status -15)"
    assert outcome.folder.suffix == ".cut" and outcome.folder.is_dir()
    sweep.set_aside(tmp_path, {run.name})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["script.py", f"{run.name}.abc.cut"])
    assert capsys.readouterr().out == ""
    sweep.set_aside(tmp_path, set())  # a sweep of another study, or of the same one after a change of code
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["script.py", f"{run.name}.abc.cut"])
    assert capsys.readouterr().out == f"1 other interrupted runs, such as of other studies, lie in {tmp_path}\n"
    (tmp_path / run.name).mkdir()  # it is done
    sweep.set_aside(tmp_path, set())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["script.py", run.name])
