"""Checkpoints and resume, with real processes and real signals: a run goes on to the bit, or says why it does not."""

import json
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, Endpoint, comparable, events, needs_compiler, run_process, scalars, texts, unsupervised
from consultations import HARMFUL, INTERVENE, exchanges
from consultations import RULE as RIGHT
from processes import BRIEF, CAR, GUIDED, PLAIN, only_run, start, stop_at, wait_for
from rules import CONTENT

from benchmark.probes import kill_points
from guided_utils import checkpoint, console, evaluation
from guided_utils.interrupts import Interrupts
from guided_utils.log import RunLog


def weights(run) -> list[torch.Tensor]:
    return [p.detach().clone() for module in run.modules for p in module.parameters()]


MADE: dict[tuple[str, ...], Path] = {}  # folders of runs, by their flags


@pytest.fixture
def made_once(run_here, tmp_path_factory):
    """Makes a run with these flags where it is asked for first, and from then on copies of its folder."""

    def make(*flags: str) -> Path:
        if flags in MADE:
            return Path(shutil.copytree(MADE[flags], Path("runs", MADE[flags].name)))
        folder = Path("runs", run_here(*flags).run_name)
        MADE[flags] = Path(shutil.copytree(folder, tmp_path_factory.mktemp("made") / folder.name))
        return folder

    return make


# -- to the bit -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_moments_runs_end_as_if_they_had_not_been(capsys):
    """The short form of `python -m benchmark.probes.kill_points`."""
    args = kill_points.Args(kills=4, only=("guided, three cars", "blackjack"), steps=700, checkpoint_frequency=100)
    assert kill_points.main(args) == 0, capsys.readouterr().out
    assert re.search(r"\b[1-4] kills, all runs are the same", capsys.readouterr().out)  # it may be through before one


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("guided_sac_continuous.py", [*GUIDED, "--num-envs", "2"]),
        ("guided_sac_continuous.py", [*PLAIN, "--value-network", "--policy-frequency", "3"]),
        pytest.param("guided_sac_continuous.py", [*GUIDED, "--compile"], marks=needs_compiler),
        ("guided_sac_discrete.py", ["--env-id", "Taxi-v4", *GUIDED[2:]]),
        ("guided_sac_discrete.py", ["--env-id", "FrozenLake-v1", *GUIDED[2:], "--paper"]),
        ("rnd_sac.py", CAR),
        ("icm_sac.py", ["--env-id", "FrozenLake-v1", *CAR[2:], "--num-envs", "2"]),
        ("e3b_sac.py", ["--env-id", "FrozenLake-v1", *CAR[2:], "--num-envs", "2"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[10:14]),
)
def test_an_interrupted_run_goes_on_to_the_bit(script, flags, run_here, monkeypatch):
    """Interrupted at a step that is no checkpoint's, in the middle of episodes and of a guided window."""
    whole = run_here(*flags, script=ROOT / script)
    expected = comparable(whole.run_name), weights(whole)
    with monkeypatch.context() as patch:
        stop_at(patch, 172)
        with pytest.raises(SystemExit) as ended:
            run_here(*flags, script=ROOT / script)
    assert ended.value.code == 143
    (cut,) = [path.name for path in Path("runs").iterdir() if path.name != whole.run_name]
    again = run_here("--resume", f"runs/{cut}", script=ROOT / script)
    assert again.run_name == cut and again.global_step == whole.global_step
    assert set(again.resumed.state) == {"global_step"}  # not a second copy of the buffer, in memory or on the disk
    assert "step_000000" not in Path("/proc/self/maps").read_text()
    assert comparable(cut) == expected[0]
    assert all(torch.equal(a, b) for a, b in zip(weights(again), expected[1], strict=True))
    assert kill_points.report_of(Path(f"runs/{cut}")) == kill_points.report_of(Path(f"runs/{whole.run_name}"))
    assert Path(f"runs/{cut}/report.html").exists() == ("--guide-window" in flags)
    assert [path.name for path in Path(f"runs/{cut}/checkpoints").iterdir()] == ["step_000000300.pt"]


LINE = ["--env-id", "Line-v0", "--guide-window", "100", "--guide-end", "350", "--total-timesteps", "380",
        "--learning-starts", "50", "--batch-size", "8", "--replay-frames", "0"]  # fmt: skip


def cut_again_and_again(run_here, monkeypatch, capsys, flags: list[str], steps: tuple[int, ...]):
    """A run that is interrupted after each of these steps, and goes on from there; and its supervisor's state there."""
    before, states = {*Path("runs").iterdir()} if Path("runs").is_dir() else set(), {}
    capsys.readouterr()
    for step in steps:
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(SystemExit):
                run_here(*flags)
        (folder,) = {*Path("runs").iterdir()} - before
        (path,) = (folder / "checkpoints").iterdir()
        assert path.name == f"step_{step:09}.pt"
        states[step] = torch.load(path, weights_only=True)["parts"]["supervisor"]
        flags = ["--resume", f"runs/{folder.name}"]
    again = run_here(*flags)
    went_on = re.findall(rf"resume: goes on: {again.run_name} at step (\d+)\n", capsys.readouterr().out)
    assert went_on == [str(step) for step in steps]
    return again, states


def same(ours, theirs) -> None:
    assert comparable(ours.run_name) == comparable(theirs.run_name)
    assert all(torch.equal(a, b) for a, b in zip(weights(ours), weights(theirs), strict=True))
    records = [[e | {"time": "", "seconds": 0} for e in exchanges(run.run_name)] for run in (ours, theirs)]
    assert records[0] == records[1]
    pages = [kill_points.report_of(Path(f"runs/{run.run_name}")) for run in (ours, theirs)]
    page, other = (re.sub(r"127\.0\.0\.1:\d+", "", page) for page in pages)  # each run had a server of its own
    assert page == other and "Consultation 1 " in page


def test_supervision_goes_on_from_any_of_its_states(run_here, monkeypatch, capsys):
    """Under models: a harmful rule from step 10 on is ended at 70 and its coder told; the second is found good at 130;
    a third, harmful again, comes at 170 and gives way to it at 230.

    Interrupted seven times: while it waits for the first unguided stretch, in a trial, with the coder still to be told,
    told, with a good rule kept, in the trial of a new one beside it, and back at the good one.
    """
    codes = [HARMFUL, RIGHT, HARMFUL, RIGHT]

    def run_under_models(go):
        asked = iter(codes)
        with Endpoint(lambda body, n: next(asked) if body["model"] == "a-coder" else INTERVENE) as server:
            return go([*LINE, "--supervisor", "llm", "--advisor-model", "an-advisor", "--coder-model", "a-coder",
                       "--llm-base-url", server.url])  # fmt: skip

    whole = run_under_models(lambda flags: run_here(*flags))
    ended = [text for text in texts(whole.run_name, "supervisor/verdict") if "was ended" in text]
    assert len(ended) == 2 and ended[1].endswith("; the last good rule guides again")
    again, states = run_under_models(
        lambda flags: cut_again_and_again(run_here, monkeypatch, capsys, flags, (5, 33, 70, 74, 150, 205, 240))
    )
    same(again, whole)
    assert states[5]["waiting"] and states[5]["count"] == 0 and states[5]["rule"] is None
    assert states[33]["guiding"] and states[33]["guidance"]["trial"]["looked"] == 0
    assert states[70]["mend"] and states[70]["waiting"] and not states[70]["guiding"]
    assert states[74]["guiding"] and not states[74]["mend"] and states[74]["asked"] is None
    assert states[150]["good"]["source"] == states[150]["rule"]["source"]
    assert states[205]["good"]["source"] != states[205]["rule"]["source"]
    assert len(states[205]["guidance"]["trial"]["predecessor"]) >= 3
    assert states[240]["rule"]["source"] == states[150]["rule"]["source"] == states[240]["good"]["source"]
    assert states[240]["good_guides"] and not states[205]["good_guides"]


def test_a_rule_of_one_s_own_has_its_second_try_also_in_a_run_that_goes_on(run_here, monkeypatch, capsys):
    """Ended at 60 and at 160; interrupted in between, in the second try and behind it."""
    Path("rule.py").write_text(HARMFUL.removeprefix("```python\n").removesuffix("```"))
    flags = [*LINE, "--guide-policy", "rule.py"]
    whole = run_here(*flags)
    assert [step for step, _ in scalars(whole.run_name)["supervisor/trial_guided_return"]] == [60, 160]
    again, states = cut_again_and_again(run_here, monkeypatch, capsys, flags, (80, 125, 210))
    assert {step: state["ends"] for step, state in states.items()} == {80: 1, 125: 1, 210: 2}
    same(again, whole)


def test_a_fork_with_another_rule_is_guided_by_that_one(run_here, monkeypatch):
    """Also where the parent's rule was ended twice; the same rule's fork has the parent's history."""
    for name, code in (("harmful.py", HARMFUL), ("right.py", RIGHT)):
        Path(name).write_text(code.removeprefix("```python\n").removesuffix("```"))
    with monkeypatch.context() as patch:
        stop_at(patch, 260)
        with pytest.raises(SystemExit):
            run_here(*LINE, "--guide-policy", "harmful.py")
    parent = only_run()
    same_rule = run_here("--resume", f"runs/{parent}", "--tau", "0.1")
    assert texts(same_rule.run_name, "supervisor/code") == []
    assert same_rule.supervisor.consultations.ends == 2
    fork = run_here("--resume", f"runs/{parent}", "--guide-policy", "right.py")
    (code,) = texts(fork.run_name, "supervisor/code")
    assert Path("right.py").read_text().strip() in code
    assert scalars(fork.run_name)["supervisor/guided_steps"][-1][1] > 30


def test_a_longer_run_is_the_finished_one_gone_on(run_here):
    """A finished run with a larger --total-timesteps ends as one that was that long from the start."""
    longer = run_here(*PLAIN, "--total-timesteps", "300")
    run_here(*PLAIN, "--total-timesteps", "200")
    (short,) = [path.name for path in Path("runs").iterdir() if path.name != longer.run_name]
    again = run_here("--resume", f"runs/{short}", "--total-timesteps", "300")
    assert all(torch.equal(a, b) for a, b in zip(weights(longer), weights(again), strict=True))
    assert comparable(short) == comparable(longer.run_name)


EVALUATED = ["--env-id", "Pendulum-v1", "--max-episode-steps", "5", "--learning-starts", "500", "--eval-episodes", "1",
             "--checkpoint-frequency", "100"]  # fmt: skip


def test_a_longer_run_keeps_the_spacing_of_its_evaluations(run_here, monkeypatch):
    """Also where nobody asked for it; of a run too short to be evaluated there is none, and the longer one has its."""
    monkeypatch.setattr(evaluation, "LONG_RUN", 200)

    def steps(run) -> list[int]:
        return [step for step, _ in scalars(run.run_name).get("eval/episodic_return", [])]

    flags = [*EVALUATED, "--supervisor", "none", "--eval-sampled-episodes", "1", "--total-timesteps"]
    for total, before, after in ((200, 10, 10), (100, 0, 20)):
        first = run_here(*flags, str(total))
        shown = steps(first)
        assert shown == (list(range(0, total + 1, before)) if before else [])
        longer = run_here("--resume", f"runs/{first.run_name}", "--total-timesteps", "400")
        assert longer.run_name == first.run_name
        assert steps(longer) == [*shown, *range(total + after, 401, after)]


def test_a_longer_run_that_is_interrupted_goes_on_to_its_new_end(run_here, monkeypatch, capsys):
    """By the command that its last line says, and with the checkpoints that it was told to keep."""
    name = run_here(*PLAIN, "--total-timesteps", "100").run_name
    with monkeypatch.context() as patch:
        stop_at(patch, 220)
        with pytest.raises(SystemExit):
            run_here("--resume", f"runs/{name}", "--total-timesteps", "300", "--checkpoint-keep", "all")
    command = shlex.split(re.search("go on with: (.*)", capsys.readouterr().out)[1])
    again = run_here(*command[2:])
    assert again.run_name == name and again.global_step == 300
    assert steps_of_checkpoints(name) == [100, 200, 220, 300]


def steps_of_checkpoints(run: str) -> list[int]:
    return sorted(int(path.stem.removeprefix("step_")) for path in Path(f"runs/{run}/checkpoints").iterdir())


class Killed(BaseException):
    """Ends a run where it is, and nothing more of it is written."""


def killed(*args):
    raise Killed


def test_from_an_older_checkpoint_a_run_goes_on_without_the_newer_ones(run_here, monkeypatch):
    """They go when the first of its own is there, so that it can be interrupted again, and keeps what it should."""
    whole = run_here(*PLAIN, "--checkpoint-keep", "2", "--checkpoint-frequency", "50")
    name, path = whole.run_name, f"runs/{whole.run_name}/checkpoints/step_000000250.pt"
    assert steps_of_checkpoints(name) == [250, 300]
    expected = comparable(name)
    with monkeypatch.context() as patch:
        patch.setattr(console.Progress, "report", killed)
        with pytest.raises(Killed):
            run_here("--resume", path)
    assert steps_of_checkpoints(name) == [250, 300]
    with monkeypatch.context() as patch:
        stop_at(patch, 270)
        with pytest.raises(SystemExit):
            run_here("--resume", path)
    assert steps_of_checkpoints(name) == [250, 270]
    again = run_here("--resume", f"runs/{name}")
    assert steps_of_checkpoints(name) == [270, 300] and comparable(name) == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(whole), strict=True))
    run_here("--resume", f"runs/{name}/checkpoints/step_000000270.pt", "--total-timesteps", "290", "--q-lr", "0.1")
    assert steps_of_checkpoints(name) == [270, 300]  # a fork leaves its parent alone


@pytest.mark.parametrize(
    "script", ["guided_sac_continuous.py", "guided_sac_discrete.py", "rnd_sac.py", "icm_sac.py", "e3b_sac.py"]
)
def test_interrupted_before_its_first_step_a_run_is_not_evaluated_there_again(script, run_here, monkeypatch):
    flags = [*EVALUATED, "--total-timesteps", "20", "--eval-frequency", "10"]
    flags += ["--env-id", "FrozenLake-v1"] if "discrete" in script else []
    flags += unsupervised(script)
    whole = run_here(*flags, script=ROOT / script).run_name
    with monkeypatch.context() as patch:
        signalled(patch, evaluation.Evaluator, "run")
        with pytest.raises(SystemExit):
            run_here(*flags, script=ROOT / script)
    (cut,) = [path.name for path in Path("runs").iterdir() if path.name != whole]
    assert steps_of_checkpoints(cut) == [0]
    run_here("--resume", f"runs/{cut}", script=ROOT / script)
    assert comparable(cut) == comparable(whole)
    assert [step for step, _ in scalars(cut)["eval/episodic_return"]] == [0, 10, 20]


# -- the end ----------------------------------------------------------------------------------------------------------


def signalled(monkeypatch, owner: type, name: str, step: int = 0) -> None:
    """From here on a signal arrives in this method, if it is given a step not below this one."""
    method = getattr(owner, name)

    def noted(self, *args):
        if not step or step <= max(arg for arg in args if isinstance(arg, int)):
            monkeypatch.setattr(owner, name, method)
            signal.raise_signal(signal.SIGTERM)
        return method(self, *args)

    monkeypatch.setattr(owner, name, noted)


ENDS = [*GUIDED, "--save-model", "--eval-frequency", "300", "--eval-episodes", "1", "--max-episode-steps", "100"]


def files_of(run: str) -> set[str]:
    return {path.name for path in Path(f"runs/{run}").rglob("*") if "tfevents" not in path.name}


@pytest.mark.parametrize(
    ("owner", "method", "step"),
    [(evaluation.Evaluator, "run", 300), (console.Progress, "report", 300), (checkpoint.Checkpoints, "save", 300),
     (checkpoint.Checkpoints, "_save_model", 0), (evaluation.Evaluator, "close", 0), (RunLog, "close", 0)],
)  # fmt: skip
def test_a_signal_behind_the_last_step_changes_nothing(owner, method, step, run_here, made_once, monkeypatch, capsys):
    whole = made_once(*ENDS)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        if method == "_save_model":  # that of the end; the one at step 200 is not
            patch.setattr(checkpoint.Checkpoints, "save_if_due", lambda *args: None)
        signalled(patch, owner, method, step)
        run = run_here(*ENDS)
    said = capsys.readouterr().out
    assert "SIGTERM: " in said and "go on with" not in said and said.count("the guided time is over") == 1
    assert comparable(run.run_name) == comparable(whole.name) and files_of(run.run_name) == files_of(whole.name)
    assert kill_points.report_of(Path(f"runs/{run.run_name}")) == kill_points.report_of(whole)


def test_a_second_signal_behind_the_last_step_ends_a_run_at_once(monkeypatch):
    monkeypatch.setattr(os, "_exit", killed)
    interrupts = Interrupts()
    try:
        interrupts.last_step_done()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.received is None
        with pytest.raises(Killed):
            signal.raise_signal(signal.SIGINT)
    finally:
        interrupts.put_back()


def test_killed_behind_its_last_checkpoint_a_run_is_finished(run_here, monkeypatch, capsys):
    """Without a step or an evaluation more. Finishing it once more changes nothing either."""
    flags = [*ENDS, "--num-envs", "7"]  # it ends at step 301
    whole = run_here(*flags)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Evaluator, "close", killed)
        with pytest.raises(Killed):
            run_here(*flags)
    (cut,) = [path.name for path in Path("runs").iterdir() if path.name != whole.run_name]
    (model,) = Path(f"runs/{cut}").glob("*.cleanrl_model")
    model.unlink()
    for _ in range(2):
        capsys.readouterr()
        again = run_here("--resume", f"runs/{cut}")
        said = capsys.readouterr().out
        assert said.count(f"{cut} is at its end, step 301; a larger --total-timesteps lets it go on") == 1
        assert again.global_step == 301 and "step 301: greedy return" not in said and "goes on" not in said
        theirs = torch.load(f"runs/{whole.run_name}/{model.name}", weights_only=True)
        for ours, expected in zip(torch.load(model, weights_only=True), theirs, strict=True):
            assert all(torch.equal(ours[key], value) for key, value in expected.items())
        logged = comparable(cut)
        assert logged["eval/episodic_return"] == comparable(whole.run_name)["eval/episodic_return"]
        assert {tag: sorted({*points}) for tag, points in logged.items()} == {
            tag: sorted({*points}) for tag, points in comparable(whole.run_name).items()
        }
        assert files_of(cut) == files_of(whole.run_name)


def test_killed_before_its_first_checkpoint_a_run_begins_again_in_its_folder(run_here):
    flags = [*PLAIN, "--checkpoint-frequency", "90000", "--eval-frequency", "0"]
    process = start(*flags, "--total-timesteps", "100000")
    wait_for(process, "supervisor:")
    time.sleep(0.3)  # it trains by now
    process.kill()
    process.wait()
    name = only_run()
    again = run_here("--resume", f"runs/{name}", "--total-timesteps", "150")
    assert again.run_name == name and only_run() == name and again.resumed.state is None
    fresh = run_here(*flags, "--total-timesteps", "150")
    assert comparable(name) == comparable(fresh.run_name)
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(fresh), strict=True))
    assert len(texts(name, "hyperparameters")) == 1


# -- forks ------------------------------------------------------------------------------------------------------------


def test_a_fork_from_none_to_bundled_is_the_same_run_with_guidance_from_there(run_here, capsys):
    base = run_here(*PLAIN, "--total-timesteps", "200", "--checkpoint-keep", "all")
    path = f"runs/{base.run_name}/checkpoints/step_000000100.pt"
    fork = run_here("--resume", path, "--supervisor", "bundled", "--guide-window", "100")
    said = capsys.readouterr().out
    assert fork.run_name != base.run_name and f"a fork of {base.run_name} at step 100" in said
    assert "supervisor=bundled (was none)" in said
    settings = json.loads(Path(f"runs/{fork.run_name}/settings.json").read_text())
    assert settings["parent"] == {"run": base.run_name, "step": 100}
    ours, theirs = fork.rb.take(torch.arange(200)), base.rb.take(torch.arange(200))
    assert torch.equal(ours.actions[:100], theirs.actions[:100])
    assert not torch.equal(ours.actions[100:], theirs.actions[100:])
    assert scalars(fork.run_name)["charts/guidance_active"][:3] == [(0, 0.0), (99, 0.0), (100, 1.0)]
    same = run_here("--resume", path, "--total-timesteps", "200", "--q-lr", "0.001")
    assert same.q_optimizer.param_groups[0]["lr"] == 0.001  # a changed setting is in force, whatever was saved


@pytest.mark.parametrize("flag", ["--buffer-size=77", "--num-envs=2"])
def test_what_a_checkpoint_does_not_fit_is_one_line(flag, run_here, made_once):
    base = made_once(*PLAIN, "--total-timesteps", "110")
    with pytest.raises(SystemExit, match=r"does not fit") as ended:
        run_here("--resume", str(base), flag, "--total-timesteps", "120")
    assert "\n" not in str(ended.value.code)


@pytest.mark.parametrize("flag", ["--value-network", "--no-autotune"])
def test_what_a_checkpoint_lacks_or_has_too_much_of_does_not_hold_a_fork_up(flag, run_here, made_once):
    base = made_once(*PLAIN, "--total-timesteps", "110")
    run = run_here("--resume", str(base), flag, "--total-timesteps", "210")
    losses = scalars(run.run_name)["losses/qf_loss"]
    assert run.global_step == 210 and losses[-1][0] == 200 and np.isfinite(losses).all()


# -- what cannot be resumed -------------------------------------------------------------------------------------------


def damaged(kind: str, folder: Path) -> str:
    if kind == "none left":
        return str(folder)
    (path,) = (folder / "checkpoints").iterdir()
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "no checkpoint":
        path.write_text("hello")
    elif kind == "newer":
        torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)
    elif kind == "code in it":
        torch.save({"format": 1, "x": Hostile()}, path)
    elif kind == "missing":
        return f"{folder}/checkpoints/step_000000999.pt"
    elif kind == "no run":
        return str(folder.parent)
    return str(folder)


class Hostile:
    """Runs code where a pickle is loaded carelessly."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("behind the end", "a larger --total-timesteps"), ("a fork at its end", "a larger --total-timesteps"),
        ("cut off", "cannot be read"), ("no checkpoint", "cannot be read"),
        ("newer", "format 99"), ("code in it", "cannot be read"), ("missing", "cannot be read"),
        ("no run", "no run's folder"), ("none left", "the run is done and left no checkpoint"),
        ("another script", "a run of guided_sac_continuous.py"),
    ],
)  # fmt: skip
def test_what_cannot_go_on_is_one_line_and_nothing_is_touched(kind, said, run_here, made_once, tmp_path):
    frequency = "0" if kind == "none left" else "100"
    path = damaged(kind, made_once(*PLAIN, "--total-timesteps", "100", "--checkpoint-frequency", frequency))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    script = ROOT / ("rnd_sac.py" if kind == "another script" else "guided_sac_continuous.py")
    flags = {"behind the end": ["--total-timesteps", "99"], "a fork at its end": ["--q-lr", "0.1"]}
    with pytest.raises(SystemExit) as ended:
        run_here("--resume", path, *flags.get(kind, ["--total-timesteps", "200"]), script=script)
    assert said in str(ended.value.code) and "\n" not in str(ended.value.code)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert not Path("ran").exists()


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["plain", "after drawing"])
def test_a_signal_ends_a_run_with_a_checkpoint(number, how):
    """… in one line that says how it goes on; also where SDL has drawn, which takes signals for itself."""
    flags = PLAIN if how == "plain" else [*GUIDED, "--replay-frames", "2"]
    process = start(*flags, "--total-timesteps", "100000", "--checkpoint-frequency", "90000", "--eval-frequency", "20",
                    "--eval-episodes", "1", "--max-episode-steps", "20")  # fmt: skip
    wait_for(process, "step 20: greedy return")
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "go on with: " in line]
    command = shlex.split(line.partition("go on with: ")[2])
    assert command[:1] == ["python"] and command[2:] == ["--resume", f"runs/{only_run()}"]
    (path,) = Path(f"runs/{only_run()}/checkpoints").iterdir()
    assert torch.load(path, weights_only=True)["global_step"] > 0


def test_a_second_signal_ends_a_run_at_once(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nimport gymnasium as gym\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n"
        "class Slow(PendulumEnv):\n    def step(self, action):\n        time.sleep(60)\n"
        "        return super().step(action)\n"
        "gym.register('Slow-v0', entry_point=Slow, max_episode_steps=5)\n"
    )
    process = start("--env-id", "slow:Slow-v0", "--supervisor", "none", PYTHONPATH=str(tmp_path))
    wait_for(process, "supervisor:")
    time.sleep(1)
    process.terminate()
    time.sleep(1)
    assert process.poll() is None  # the step is not over
    began = time.monotonic()
    process.terminate()
    assert process.wait(timeout=10) == 143 and time.monotonic() - began < 5


def test_a_wait_for_a_model_does_not_hold_the_signal_up():
    """The server answers after a minute; the question is asked again when the run goes on, and was not logged twice."""

    def script(body, number):
        if number == 0:
            time.sleep(60)
        return CONTENT

    with Endpoint(script) as server:
        flags = [*CAR, *BRIEF, "--supervisor", "llm", "--llm-base-url", server.url, "--guide-window", "100"]
        process = start(*flags, "--total-timesteps", "60")
        wait_for(process, "supervisor:")
        while not server.requests:
            time.sleep(0.1)
        began = time.monotonic()
        process.terminate()
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 143 and time.monotonic() - began < 10, said
        done = run_process("--resume", f"runs/{only_run()}")
        assert done.returncode == 0, done.stderr
        assert scalars(only_run())["charts/guidance_active"] == [
            (0, 0.0),
            (10, 0.0),
            (60, 0.0),
        ]  # a tenth of a window behind the start
        assert len(list(Path(f"runs/{only_run()}/llm").glob("*.json"))) == 1


def test_handlers_are_put_back(run_here):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run_here(*PLAIN, "--total-timesteps", "5")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    with pytest.raises(SystemExit):
        run_here(*PLAIN, "--gamma", "7")
    with pytest.raises(SystemExit):
        run_here("--env-id", "CartPole-v1", "--supervisor", "none")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# -- answers that were paid for ---------------------------------------------------------------------------------------

# behind the start, and wherever a probe is longer than 8 steps, something new was seen: windows at 8, 88, 168 and 248
OFTEN = ["--guide-window", "80", "--trial-pairs", "0", "--probe-share", "0.5", "--max-episode-steps", "20"]
RULE = "```python\ndef policy(obs, t):\n    return 1.0 if obs[1] >= 0 else -1.0\n```"


def test_answers_behind_the_checkpoint_are_not_asked_for_again(run_here):
    """Killed after a consultation and before the next checkpoint: its two answers come from the record."""
    with Endpoint(lambda body, number: INTERVENE if body["model"] == "qwen3-vl-plus" else RULE) as server:
        flags = [*CAR, *BRIEF, "--supervisor", "llm", "--llm-base-url", server.url, *OFTEN,
                 "--checkpoint-frequency", "150", "--total-timesteps", "600"]  # fmt: skip
        whole = run_here(*flags)
        asked = len(server.requests)
        process = start(*flags)  # of the same length, of which the models are told
        wait_for(process, "step 168:")  # the third consultation, behind the checkpoint at step 150
        process.kill()
        process.wait()
        (cut,) = [path.name for path in Path("runs").iterdir() if path.name != whole.run_name]
        assert torch.load(next(Path(f"runs/{cut}/checkpoints").iterdir()), weights_only=True)["global_step"] == 150
        before = len(server.requests)
        again = run_here("--resume", f"runs/{cut}")
        assert len(server.requests) - before == asked - 6  # six of them had been answered
        assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
        assert comparable(cut) == comparable(whole.run_name)
        assert [path.name for path in sorted(Path(f"runs/{cut}/llm").glob("*.json"))] == [
            path.name for path in sorted(Path(f"runs/{whole.run_name}/llm").glob("*.json"))
        ]


def test_a_repeated_run_goes_on_in_its_record(run_here, monkeypatch):
    """--supervisor replay, interrupted within the second window and resumed: no question twice, none left out."""
    flags = [*CAR, *BRIEF, *OFTEN]
    with Endpoint(lambda body, number: (INTERVENE, RULE)[number % 2]) as server:
        first = run_here(*flags, "--supervisor", "llm", "--llm-base-url", server.url)
    flags += ["--supervisor", "replay", "--llm-log", f"runs/{first.run_name}/llm"]
    whole = run_here(*flags)
    with monkeypatch.context() as patch:
        stop_at(patch, 130)
        with pytest.raises(SystemExit):
            run_here(*flags)
    (cut,) = [path.name for path in Path("runs").iterdir() if path.name not in (first.run_name, whole.run_name)]
    again = run_here("--resume", f"runs/{cut}")
    assert comparable(cut) == comparable(whole.run_name)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    records = [sorted(path.name for path in Path(f"runs/{run}/llm").glob("*.json")) for run in (cut, first.run_name)]
    assert records[0] == records[1] and len(records[0]) == 8


def test_a_record_that_was_cut_off_gives_what_is_there(run_here, capsys):
    with Endpoint(lambda body, number: (INTERVENE, RULE)[number % 2]) as server:
        flags = [*CAR, *BRIEF, *OFTEN, "--total-timesteps", "200"]
        first = run_here(*flags, "--supervisor", "llm", "--llm-base-url", server.url)
    folder = Path(f"runs/{first.run_name}/llm")
    for path in sorted(folder.glob("*.json"))[3:]:
        path.unlink()
    capsys.readouterr()
    run = run_here(*flags, "--supervisor", "replay", "--llm-log", str(folder))
    said = capsys.readouterr().out
    assert run.global_step == 200
    assert said.count("no model is asked any more in this run") == 1 and "ends with question 3" in said
    assert [active for _, active in scalars(run.run_name)["charts/guidance_active"]] == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


# -- environments -----------------------------------------------------------------------------------------------------


class HiddenRandomness(gym.Env):
    """Observations from a generator that no seed reaches."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    hidden = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.hidden.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        return self.hidden.uniform(-1, 1, 2).astype(np.float32), 0.0, False, False, {}


gym.register("HiddenRandomness-v0", entry_point=HiddenRandomness, max_episode_steps=50)


def test_an_environment_that_does_not_come_back_begins_a_new_episode(run_here, monkeypatch, capsys):
    flags = ["--env-id", "HiddenRandomness-v0", "--supervisor", "none", "--learning-starts", "10", "--batch-size", "8",
             "--total-timesteps", "130"]  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(patch, 70)
        with pytest.raises(SystemExit):
            run_here(*flags)
    capsys.readouterr()
    run = run_here("--resume", f"runs/{only_run()}")
    assert capsys.readouterr().out.count("does not come back to its observation") == 1
    assert run.global_step == 130
    assert [step for step, _ in scalars(run.run_name)["charts/episodic_length"]] == [50, 120]


def test_videos_go_on_with_their_number(run_here, monkeypatch):
    flags = ["--env-id", "MountainCarContinuous-v0", "--max-episode-steps", "40", *PLAIN[2:], "--capture-video"]
    with monkeypatch.context() as patch:
        stop_at(patch, 100)
        with pytest.raises(SystemExit):
            run_here(*flags)
    run = run_here("--resume", f"runs/{only_run()}")
    assert run.envs.envs[0].get_wrapper_attr("episode_id") == 7  # of the episode that began at step 280


# -- what a run's folder holds ----------------------------------------------------------------------------------------


def test_the_key_is_in_no_checkpoint(run_here, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-a-test")
    with Endpoint(lambda body, number: CONTENT) as server:
        run = run_here(*CAR, "--supervisor", "llm", "--llm-base-url", server.url, "--replay-frames", "0",
                       "--total-timesteps", "110")  # fmt: skip
    files = [path for path in Path(f"runs/{run.run_name}").rglob("*") if path.is_file()]
    assert any(path.suffix == ".pt" for path in files)
    assert not any(b"sk-secret" in path.read_bytes() for path in files)


def test_a_secret_in_the_servers_address_is_in_no_file_and_is_asked_for_again(run_here, capsys):
    with Endpoint(lambda body, number: CONTENT) as server:
        url = server.url.replace("/v1", "/key-of-a-test-123/v1")
        run = run_here(*CAR, *BRIEF, "--supervisor", "llm", "--llm-base-url", url, "--total-timesteps", "110")
        files = [path for path in Path(f"runs/{run.run_name}").rglob("*") if path.is_file()]
        assert not any(b"key-of-a-test" in path.read_bytes() for path in files)
        assert "key-of-a-test" not in capsys.readouterr().out
        with pytest.raises(SystemExit, match="is masked: give the whole address"):
            run_here("--resume", f"runs/{run.run_name}", "--total-timesteps", "120")
        again = run_here("--resume", f"runs/{run.run_name}", "--total-timesteps", "120", "--llm-base-url", url)
        assert again.run_name == run.run_name and again.global_step == 120


def test_two_runs_of_one_second_have_folders_of_their_own():
    processes = [start(*PLAIN, "--total-timesteps", "30", "--save-model") for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    runs = list(Path("runs").iterdir())
    assert len(runs) == 4
    for run in runs:
        assert len(list(run.glob("*.cleanrl_model"))) == len(list(run.glob("events*"))) == 1
        events(run.name)
