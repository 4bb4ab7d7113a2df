"""The command watch of llm_supervisor.py, on runs that really trained."""

import json
import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from conftest import ROOT
from PIL import Image
from rules import PUSH

import llm_supervisor as sup
from guided_utils.evaluation import evaluate
from supervision import watch

CAR = [
    "--env-id",
    "MountainCarContinuous-v0",
    "--max-episode-steps",
    "300",
    "--replay-frames",
    "0",
    "--batch-size",
    "8",
]
LAKE = ["--env-id", "FrozenLake-v1", "--supervisor", "bundled", "--replay-frames", "0", "--batch-size", "8"]
DISCRETE = ROOT / "guided_sac_discrete.py"


def played(capsys, *words: str) -> tuple[list[float], list[int], str]:
    """Returns and lengths that a command printed, and all that it said."""
    capsys.readouterr()
    assert sup.main(["watch", *words]) == 0
    said = capsys.readouterr().out
    found = re.findall(r"^episode \d+: return (\S+), (\S+) steps$", said, flags=re.MULTILINE)
    returns, lengths = [float(r) for r, _ in found], [int(n.replace(",", "")) for _, n in found]
    mean = re.search(r"^mean: return (\S+), (\S+) steps$", said, flags=re.MULTILINE)
    assert float(mean[1]) == pytest.approx(sum(returns) / len(returns), abs=0.01)
    assert float(mean[2].replace(",", "")) == pytest.approx(sum(lengths) / len(lengths), abs=0.06)
    return returns, lengths, said


@pytest.fixture
def no_screen(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)


def test_a_saved_model_with_and_without_its_rule(run_here, capsys, no_screen):
    """The returns are `evaluate`'s; with the bundled rule the car gets there, and the video shows every step."""
    run = run_here(*CAR, "--supervisor", "bundled", "--total-timesteps", "200", "--save-model", "--guide-end", "100")
    folder = f"runs/{run.run_name}"
    returns, lengths, said = played(capsys, folder, "--seed", "0", "--episodes", "2")
    assert "returns only, no window: there is no display; --video FILE.mp4" in said and "saved model" in said
    make_env = partial(run.make_env, max_episode_steps=300)
    model = f"{folder}/guided_sac_continuous_bundled.cleanrl_model"
    exact = evaluate(model, make_env, "MountainCarContinuous-v0", 2, "x", run.Actor)
    assert returns == [round(r, 2) for r in exact] and lengths == [300, 300]

    returns, lengths, said = played(capsys, folder, "--guided", "--episodes", "2", "--video", "new/car.mp4")
    assert min(returns) > 85 and max(lengths) < 200
    assert "MountainCarContinuous-v0/bundled_policy.py\n" in said and said.endswith("video: new/car.mp4\n")
    frames = imageio_ffmpeg.read_frames("new/car.mp4")
    assert next(frames)["size"] == (600, 400)
    pictures = list(frames)
    assert len(pictures) == sum(lengths) and len(set(pictures)) > 50
    lengths = played(capsys, folder, "--guided", "--episodes", "1", "--video", "car.gif")[1]
    with Image.open("car.gif") as gif:
        assert gif.size == (240, 160) and gif.n_frames == -(-lengths[0] // 2)


def test_checkpoints_of_both_kinds_of_discrete_policies(run_here, capsys, no_screen):
    """The newest, or the one that is named; the rule is the checkpoint's; a newer model takes its place."""
    for flag, name in (("--exact-improvement", "qf"), ("--no-exact-improvement", "actor")):
        run = run_here(*LAKE, flag, "--total-timesteps", "300", "--checkpoint-frequency", "100", "--save-model",
                       "--checkpoint-keep", "all", script=DISCRETE)  # fmt: skip
        folder = Path("runs", run.run_name)
        first, last = folder / "checkpoints/step_000000100.pt", folder / "checkpoints/step_000000300.pt"
        (model,) = folder.glob("*.cleanrl_model")
        os.utime(model, (1, 1))
        assert "checkpoint of step 300" in played(capsys, str(folder))[2]
        returns, lengths, said = played(capsys, str(first), "--episodes", "4")
        assert "checkpoint of step 100" in said and all(n <= 100 for n in lengths)
        policy = run.Actor(run.envs) if name == "actor" else run.DiscreteSoftQNetwork(run.envs)
        policy.load_state_dict(torch.load(first, weights_only=True)["parts"][name])
        torch.save((policy.state_dict(),), "model")
        assert returns == evaluate("model", run.make_env, "FrozenLake-v1", 5, "x", type(policy))[1:]
        assert f"guided by the rule of {last}\n" in played(capsys, str(folder), "--guided")[2]
        os.utime(model)
        assert "saved model" in played(capsys, str(folder))[2]
        assert "saved model" in played(capsys, str(model))[2]


def test_a_rule_on_record(run_here, capsys, no_screen):
    """Without a checkpoint: the last code that was accepted; it must pass the sandbox."""
    run = run_here(*CAR, "--supervisor", "none", "--total-timesteps", "20", "--save-model")
    folder = Path("runs", run.run_name)
    assert sup.main(["watch", str(folder), "--guided"]) == 1
    assert "has no rule: none is in its checkpoint, its record or its settings\n" in capsys.readouterr().err
    (folder / "llm").mkdir()
    for number, role, answer, verdict in (
        (0, "coder", "nonsense", "guiding"), (1, "advisor", "{}", "intervene"),
        (10, "coder", PUSH, "guiding"), (11, "coder", "nonsense", "refused: because"),
        (12, "coder", "", None),
    ):  # fmt: skip
        record = {"role": role, "answer": answer, "verdict": verdict}
        (folder / "llm" / f"{number:04d}-{role}.json").write_text(json.dumps(record))
    returns, _, said = played(capsys, str(folder), "--guided")
    assert "llm/0010-coder.json\n" in said and min(returns) > 85
    (folder / "llm" / "0010-coder.json").unlink()
    assert sup.main(["watch", str(folder), "--guided"]) == 1
    assert re.search(r"error: the rule of .*0000-coder.json fails: .*\n$", capsys.readouterr().err)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CliffWalking-v1"])
def test_a_baseline(env_id, run_here, capsys, no_screen):
    run = run_here("--env-id", env_id, "--total-timesteps", "60", "--learning-starts", "20", "--batch-size", "8",
                   "--checkpoint-frequency", "50", script=ROOT / "rnd_sac.py")  # fmt: skip
    _, lengths, said = played(capsys, f"runs/{run.run_name}", "--episodes", "2")
    assert "checkpoint of step 60" in said and lengths == [200, 200]
    assert sup.main(["watch", f"runs/{run.run_name}", "--guided"]) == 1
    assert capsys.readouterr().err == "llm_supervisor.py: error: --guided: rnd_sac.py guides nobody\n"


def test_a_window(run_here, capsys, monkeypatch):
    """SDL's dummy screen takes its place; each step is drawn there, by the environment itself."""
    run = run_here(*CAR, "--supervisor", "none", "--total-timesteps", "20", "--save-model")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    modes, opened = [], watch.open_window
    monkeypatch.setattr(watch, "open_window", lambda env_fn: modes.append(opened(env_fn)) or modes[0])
    _, _, said = played(capsys, f"runs/{run.run_name}", "--episodes", "1")
    assert "no window" not in said and modes[0][0].render_mode == "human"


@pytest.mark.skipif(sys.platform != "linux", reason="X11")
def test_a_display_that_does_not_answer(run_here, capsys, monkeypatch, no_screen):
    """GLFW would end the whole process there."""
    run = run_here("--env-id", "InvertedPendulum-v5", "--supervisor", "none", "--total-timesteps", "20",
                   "--save-model")  # fmt: skip
    monkeypatch.setenv("DISPLAY", ":99")
    said = played(capsys, f"runs/{run.run_name}", "--episodes", "1")[2]
    assert "returns only, no window: no window can be opened on the display; --video FILE.mp4" in said


def test_ctrl_c_ends_the_playing(run_here, capsys, monkeypatch, no_screen):
    run = run_here(*CAR, "--supervisor", "none", "--total-timesteps", "20", "--save-model")
    play, calls = watch.episode, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return play(*args)

    monkeypatch.setattr(watch, "episode", interrupted)
    assert len(played(capsys, f"runs/{run.run_name}")[0]) == 1


def test_bad_input_is_one_line_and_status_1(run_here, capsys, no_screen):
    run = run_here("--env-id", "Counter-v0", "--supervisor", "none", "--total-timesteps", "30", "--batch-size", "8",
                   "--checkpoint-frequency", "20")  # fmt: skip
    folder = Path("runs", run.run_name)
    assert played(capsys, str(folder), "--episodes", "2")[1] == [5, 7]
    bare, foreign, other = (Path("runs", name) for name in ("bare", "foreign", "other"))
    for copy in (bare, foreign, other):
        shutil.copytree(folder, copy)
    shutil.rmtree(bare / "checkpoints")
    settings = json.loads((folder / "settings.json").read_text())
    (foreign / "settings.json").write_text(json.dumps(settings | {"script": "../evil.py"}))
    torch.save({"parts": {}, "global_step": 1}, "runs/other/checkpoints/step_000000099.pt")
    Path("empty").mkdir()
    damaged = folder / "checkpoints" / "step_000000999.pt"
    damaged.write_bytes(b"x" * 100)
    for words, message in (
        (["runs/none"], "there is no run runs/none"),
        (["empty"], "empty is no run's folder and no checkpoint of one: FileNotFoundError"),
        (["runs/bare"], "neither a saved model .* nor a checkpoint"),
        (["runs/foreign"], "evil.py"),
        (["runs/other"], "does not hold the policy of guided_sac_continuous.py"),
        ([str(damaged)], "step_000000999.pt cannot be read"),
        ([str(folder), "--episodes", "0"], "--episodes must be at least 1"),
        ([str(folder), "--video", "x.avi"], "its name must end in .mp4 or .gif"),
        ([str(folder), "--video", "x.mp4"], "nothing can be rendered: the environment has no render mode rgb_array"),
    ):
        assert sup.main(["watch", *words]) == 1, words
        assert re.fullmatch(rf"llm_supervisor.py: error: .*{message}.*\n", capsys.readouterr().err), words
    assert not Path("x.mp4").exists()
