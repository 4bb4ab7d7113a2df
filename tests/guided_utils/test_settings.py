"""The command line: groups of --help, terminals that cannot show every character, and where a value came from."""

import os
import re
import subprocess
import sys

import gymnasium as gym
import pytest
from conftest import ROOT, texts, unsupervised

from supervision.arguments import SupervisorArgs


class Steering(gym.Env):
    def __init__(self):
        raise ValueError("\x1b[2Jstep 5: fine")


gym.register("Steering-v0", entry_point=Steering)
SCRIPTS = ["guided_sac_continuous.py", "guided_sac_discrete.py", "rnd_sac.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_groups_with_the_environment_and_the_algorithm_first(script, run_here, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as ended:
        run_here("--help", script=ROOT / script)
    assert ended.value.code == 0
    shown = capfd.readouterr().out
    groups = re.findall(r"╭─ ([\w-]+) options ─", shown)
    assert groups == ["environment-and-algorithm", "experiment", *["supervision"] * ("guided" in script)]
    parts = re.split(r"╭─ [\w-]+ options ─", shown)[1:]
    for flag, group in (("--env-id", 0), ("--gamma", 0), ("--seed", 1), ("--exp-name", 1), ("--resume", 1),
                        *((("--supervisor", 2), ("--guide-window", 2)) if "guided" in script else ())):  # fmt: skip
        assert [i for i, part in enumerate(parts) if re.search(rf"^│ {flag}\b", part, flags=re.MULTILINE)] == [group], (
            flag
        )


# as two processes, one behind the other: what the first call made of its standard output, the second does not find
HELP_AND_RUN = """
import runpy, sys
script, *flags = sys.argv[1:]
for words in (["--help"], flags):
    sys.stdout.reconfigure(errors="strict")
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code or words != ["--help"]:
            raise
    print("END OF", *words)
"""


@pytest.mark.parametrize(("script", "encoding"), [*zip(SCRIPTS, ["ascii", "latin-1", "ascii"], strict=True)])
def test_a_terminal_of_few_characters_ends_no_run(script, encoding):
    """Neither its help nor a run."""
    short = ["--total-timesteps", "20", "--learning-starts", "5", "--batch-size", "4", "--eval-frequency", "10",
             "--eval-episodes", "1", "--max-episode-steps", "20", *unsupervised(script)]  # fmt: skip
    terminal = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", HELP_AND_RUN, str(ROOT / script), *short]
    environment = {**os.environ, **terminal, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=environment, capture_output=True, encoding=encoding)
    assert process.returncode == 0, process.stderr[-500:]
    shown, run = process.stdout.split("END OF --help\n")
    assert "--total-timesteps" in shown and "greedy return" in run and run.endswith(f"END OF {' '.join(short)}\n")


def test_a_foreign_error_cannot_steer_the_terminal(run_here):
    """What an environment's constructor says is one line of printable characters."""
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", "Steering-v0", "--supervisor", "none")
    assert str(ended.value.code).isprintable() and "ValueError: ?[2Jstep 5: fine" in str(ended.value.code)


SHORT = ["--total-timesteps", "2", "--replay-frames", "0", "--guide-start", "1"]


def arm(run) -> str:
    """The part of a run's name that tells its arm; model and table of settings have the same."""
    name = run.run_name.split("__")[1]
    assert run.args.exp_name == name
    assert f"|exp_name|{name}|" in texts(run.run_name, "hyperparameters")[0]
    return name


def test_a_run_s_name_tells_who_supervises(run_here, monkeypatch):
    """CleanRL's pattern stays; a name that is given is kept, also where it is the script's own."""
    assert arm(run_here(*SHORT)) == "guided_sac_continuous_bundled"
    assert arm(run_here(*SHORT, "--supervisor", "none")) == "guided_sac_continuous_none"
    assert arm(run_here(*SHORT, "--exp-name", "mine")) == "mine"
    assert arm(run_here(*SHORT, "--exp_name=guided_sac_continuous")) == "guided_sac_continuous"
    discrete = run_here(*SHORT, "--supervisor", "none", script=ROOT / "guided_sac_discrete.py")
    assert arm(discrete) == "guided_sac_discrete_none"
    assert arm(run_here("--total-timesteps", "2", script=ROOT / "rnd_sac.py")) == "rnd_sac"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    assert arm(run_here(*SHORT)) == "guided_sac_continuous_llm"
    replay = SupervisorArgs(supervisor="replay", llm_log="runs/x/llm")
    replay.env_id = "MountainCarContinuous-v0"
    assert replay.arm(env_kwargs_given=False) == "replay"


def test_a_run_that_goes_on_keeps_its_name_and_a_fork_is_named_anew(run_here, monkeypatch):
    """Also where `auto` means somebody else by now."""
    run = run_here(*SHORT, "--checkpoint-frequency", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    again = run_here("--resume", f"runs/{run.run_name}", "--total-timesteps", "3", "--guide-start", "1")
    assert again.run_name == run.run_name and arm(again) == "guided_sac_continuous_bundled"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # a run forgets it
    fork = run_here("--resume", f"runs/{run.run_name}", "--total-timesteps", "4", "--supervisor", "none")
    assert arm(fork) == "guided_sac_continuous_none"
    named = run_here("--resume", f"runs/{run.run_name}", "--total-timesteps", "4", "--gamma", "0.5", "--exp-name", "x")
    assert arm(named) == "x"
