"""The run's log: what a failing disk does to it, with real limits on a real process, and what stops a run."""

import math
import resource
import shutil
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, Endpoint, events_in, scalars, unsupervised
from processes import GUIDED, PLAIN, only_run, start, wait_for, wait_for_checkpoint
from rules import CONTENT

from guided_utils.log import RunLog

LONG = [*PLAIN, "--total-timesteps", "750", "--checkpoint-frequency", "150"]


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events_in(folder).Scalars(tag)]


def limit(pid: int, which: int, value: int) -> None:
    hard = resource.prlimit(pid, which)[1]
    resource.prlimit(pid, which, (value, hard))


def test_points_wait_while_the_disk_is_full_and_none_is_lost_or_doubled(tmp_path, capsys):
    log = RunLog(str(tmp_path / "run"))
    log.add_scalar("x", 0.0, 0)
    log.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        (path,) = (tmp_path / "run").iterdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, before[1]))  # in the middle of a record
        for step in range(1, 50):
            log.add_scalar("x", float(step), step)
        log.flush()
        log.flush()
        assert list(log.unwritten.missing) == ["TensorBoard's log"]
        assert points(tmp_path / "run", "x") == [(0, 0.0)]  # what was complete stays complete
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert capsys.readouterr().out.count("not written: TensorBoard's log") == 1
    log.close()
    assert log.unwritten.missing == {}
    assert points(tmp_path / "run", "x") == [(step, float(step)) for step in range(50)]


def test_a_run_goes_on_while_nothing_can_be_written_and_says_at_the_end_what_is_missing():
    """All files are limited to what they have; the limit stays, so the log and the checkpoints are missing."""
    process = start(*LONG, "--save-model")
    wait_for_checkpoint(process)
    limit(process.pid, resource.RLIMIT_FSIZE, 2_000)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in said, said
    assert "step 750/750" in said
    for what in ("TensorBoard's log", "a checkpoint", "the model"):
        assert said.count(f"not written: {what}: ") == 1 and f"missing: {what} could not be written" in said
    assert not list(Path("runs").rglob("*.part"))


@pytest.mark.parametrize("trouble", ["disk", "descriptors"])
def test_a_trouble_that_passes_leaves_nothing_out(trouble):
    which, value = {"disk": (resource.RLIMIT_FSIZE, 500), "descriptors": (resource.RLIMIT_NOFILE, 3)}[trouble]
    process = start(*LONG, "--total-timesteps", "1500", "--learning-starts", "100")
    wait_for_checkpoint(process)
    usual = resource.prlimit(process.pid, which)[0]
    limit(process.pid, which, value)
    said = wait_for(process, "not written")
    limit(process.pid, which, usual)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "missing" not in rest and "Traceback" not in said + rest
    logged = [step for step, _ in scalars(only_run())["losses/alpha"]]
    assert logged == list(range(200, 1501, 100))
    assert [path.name for path in Path(f"runs/{only_run()}/checkpoints").iterdir()] == ["step_000001500.pt"]


def test_a_run_whose_folder_is_removed_goes_on_and_says_so():
    process = start(*LONG)
    wait_for_checkpoint(process)
    shutil.rmtree(f"runs/{only_run()}")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in said
    assert "missing: what was logged before" in said
    assert scalars(only_run())["losses/alpha"]


class Broken(gym.Env):
    """A value that is no number, or one that no float32 square holds, at step 25."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, what: str = "reward", value: float = math.nan, render_mode: str | None = None):
        self.what, self.value = what, value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3), {}

    def step(self, action):
        self.t += 1
        now = self.t == 25
        obs = np.array([0.0, self.value if now and self.what == "observation" else 0.1 * self.t, 1.0])
        return obs, self.value if now and self.what == "reward" else 1.0, False, False, {}


gym.register("Broken-v0", entry_point=Broken, max_episode_steps=200)


@pytest.mark.parametrize("script", ["guided_sac_continuous.py", "rnd_sac.py"])
@pytest.mark.parametrize(("what", "value"), [("reward", "NaN"), ("observation", "NaN"), ("observation", "1e20"),
                                             ("reward", "-Infinity")])  # fmt: skip
def test_a_number_that_is_none_ends_the_run_where_it_arises(what, value, script, run_here):
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", "Broken-v0", "--env-kwargs", f'{{"what": "{what}", "value": {value}}}', "--num-envs", "2",
                 "--total-timesteps", "100", "--learning-starts", "10", "--batch-size", "8", "--save-model",
                 "--checkpoint-frequency", "20", "--buffer-size", "500", *unsupervised(script),
                 script=ROOT / script)  # fmt: skip
    said = str(ended.value.code)
    assert "\n" not in said and said.startswith("error: step 50: ") and what in said and "environment 0" in said
    assert [path.name for path in Path(f"runs/{only_run()}/checkpoints").iterdir()] == ["step_000000040.pt"]


def test_losses_that_are_no_numbers_end_the_run(run_here):
    """Where the environment does not care for the actions, the losses are the first to tell."""
    with pytest.raises(SystemExit, match=r"step 1\d\d: losses/\w+ is (nan|inf|-inf)"):
        run_here("--env-id", "Broken-v0", "--env-kwargs", '{"value": 0}', "--supervisor", "none", "--q-lr", "1e30",
                 "--learning-starts", "5", "--batch-size", "8", "--total-timesteps", "300")  # fmt: skip


def test_a_run_that_ends_before_its_first_update_says_so(run_here, capsys):
    run_here(*PLAIN, "--total-timesteps", "30", "--learning-starts", "30")
    assert "nothing was learned" in capsys.readouterr().out
    run_here(*PLAIN, "--total-timesteps", "40", "--learning-starts", "30")
    assert "nothing was learned" not in capsys.readouterr().out


def test_a_lost_temporary_folder_costs_no_run(tmp_path):
    (tmp_path / "tmp").mkdir()
    process = start(*GUIDED, "--total-timesteps", "200", TMPDIR=str(tmp_path / "tmp"))
    wait_for(process, "step 0: supervisor")
    shutil.rmtree(tmp_path / "tmp")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in said, said


def test_videos_and_exchanges_that_cannot_be_written_end_no_run():
    """Videos of training, of replays, and records of questions, on a disk without room for any of them."""
    with Endpoint(lambda body, number: CONTENT) as server:
        flags = [*PLAIN, "--total-timesteps", "900", "--learning-starts", "600", "--supervisor", "llm",
                 "--llm-base-url", server.url, "--capture-video", "--guide-window", "300",
                 "--max-episode-steps", "100"]  # fmt: skip
        process = start(*flags)
        said = wait_for(process, "supervisor: llm")
        limit(process.pid, resource.RLIMIT_FSIZE, 100)
        rest, _ = process.communicate(timeout=200)
    said += rest
    assert process.returncode == 1 and "Traceback" not in said, said
    assert "step 900/900" in said
    for what in ("videos", "replay videos", "exchanges with models"):
        assert said.count(f"not written: {what}: ") == 1 and f"missing: {what} could not be written" in said
    assert not list(Path("runs").rglob("*.part"))
