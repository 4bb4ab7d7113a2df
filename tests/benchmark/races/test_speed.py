"""benchmark/races/: an update's matrix products, the protocol with a contestant, the race, its table."""

import json
import os
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, needs_compiler

from benchmark.probes import added_cost
from benchmark.races import discrete_speed, scaling, speed, speed_peer
from benchmark.races.speed import Args, Contestant, commands, products


def test_products_are_those_of_one_update():
    """By hand, multiplications per transition of the batch: forward ones, then gradients."""
    obs, act, hidden = 348, 17, 256
    actor = obs * hidden + hidden * hidden + hidden * 2 * act
    critics = 2 * ((obs + act) * hidden + hidden * hidden + hidden)
    through_critics = 2 * (hidden * hidden + hidden)
    expected = 2 * actor + 3 * critics  # π(s), π(s'); Q̄(s', a'), Q(s, a), Q(s, π(s))
    expected += critics + through_critics  # the critics' step
    expected += through_critics + 2 * act * hidden  # from the actor's loss to the actions
    expected += actor + hidden * hidden + 2 * act * hidden  # the actor's step
    ours = sum(times * rows * inner * columns for times, rows, inner, columns in products(obs, act, batch=256))
    assert ours == 256 * expected


CONTESTANTS = {
    **commands(Args(), "MountainCarContinuous-v0"),
    **{f"discrete: {name}": discrete_speed.command(discrete_speed.Args(), name) for name in discrete_speed.FLAGS},
}
TRIED = (  # every flag of the others is among these, or in the scripts' own tests
    "ours", "ours, --compile", "Stable-Baselines3", "discrete: ours, guided, without the conservative term",
    "discrete: ours, guided, with an actor network", "discrete: plain",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_compiler) if "--compile" in name else name for name in TRIED]
)
def test_a_contestant_answers_each_block_with_its_seconds(name, tmp_path):
    env = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS", "PATH")}
    peer = Contestant(name, CONTESTANTS[name], str(tmp_path), env)
    try:
        seconds = [peer.run(110), peer.run(5), peer.run(50)]
        assert all(s is not None for s in seconds), peer.error
        assert 0 < seconds[1] < seconds[2]
    finally:
        peer.process.kill()
        peer.process.wait()
    assert peer.run(5) is None and peer.error


class Recorder:
    """In a contestant's place: notes what it was started with, and has run two blocks."""

    started: list[dict[str, str]]

    def __init__(self, name: str, command: list[str], folder: str, env: dict[str, str]):
        self.name, self.seconds, self.error = name, [1.0, 2.0], ""
        self.started.append(env)


@pytest.fixture
def started(monkeypatch) -> list[dict[str, str]]:
    """The environment variables of every contestant that a program starts; none of them runs."""
    Recorder.started = []
    for module in (speed, discrete_speed, added_cost, scaling):
        monkeypatch.setattr(module, "Contestant", Recorder)
        monkeypatch.setattr(module, "take_turns", lambda *args, **options: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return Recorder.started


RACES = {
    "speed": lambda: speed.race(Args(), "MountainCarContinuous-v0", "."),
    "discrete_speed": lambda: discrete_speed.race(discrete_speed.Args(), "."),
    "added_cost": lambda: added_cost.race(added_cost.Args()),
    "scaling": lambda: scaling.measure("batch size", scaling.Args()),
}


@pytest.mark.parametrize("program", RACES)
def test_no_contestant_sees_a_gpu_by_default(program, started, monkeypatch):
    monkeypatch.setattr(scaling, "floor", lambda panel, value: 1.0)
    RACES[program]()
    assert started
    assert all((env["CUDA_VISIBLE_DEVICES"], env["JAX_PLATFORMS"]) == ("", "cpu") for env in started)


def test_every_contestant_sees_the_gpu_when_asked(started):
    contestants, floors = speed.race(Args(device="cuda", leanrl="x"), "MountainCarContinuous-v0", ".")
    assert {*speed.LEANRL, "ours", "ours, --precision bf16"} <= {c.name for c in contestants}
    assert all((env["CUDA_VISIBLE_DEVICES"], env["JAX_PLATFORMS"]) == ("0", "cuda") for env in started)
    assert floors == {}


def test_no_library_is_tied_to_a_device(monkeypatch):
    """Stable-Baselines3's own default is the GPU where it sees one."""
    library, options = pytest.importorskip("stable_baselines3"), []

    class SAC:
        replay_buffer = SimpleNamespace()

        def __init__(self, policy: str, env_id: str, **given):
            options.append(given)

        def learn(self, steps: int) -> None:
            pass

    monkeypatch.setattr(library, "SAC", SAC)
    speed_peer.library("stable_baselines3", "MountainCarContinuous-v0", fill=True)
    assert [set(given) for given in options] == [{"learning_starts", "seed"}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speed.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(speed.__file__, run_name="__main__")
    assert re.fullmatch(r"error: --device cuda: torch \S+ of \S+ finds no GPU", ended.value.code)
    assert capsys.readouterr() == ("", "")


def test_device_and_script_stand_above_the_tables():
    assert ", device cpu, OMP_NUM_THREADS=3, 5 blocks of 200 steps" in speed.title(Args(threads=3))
    assert "\nours: rnd_sac.py" in speed.title(Args(script="rnd_sac.py"))


def test_leanrl_takes_part_eager_and_with_its_own_flags(tmp_path):
    args = Args(leanrl=str(tmp_path), leanrl_python="/other/python", device="cuda")
    peers = {name: command for name, command in commands(args, "HalfCheetah-v5").items() if name in speed.LEANRL}
    script = str(tmp_path / "leanrl" / "sac_continuous_action_torchcompile.py")
    eager = ["/other/python", str(speed.PEER), "script", script, "HalfCheetah-v5"]
    assert peers.pop("LeanRL's copy of CleanRL")[3] == script.replace("_torchcompile", "")
    assert peers == {"LeanRL": eager, speed.LEANRL_GRAPHS: [*eager, "--compile", "--cudagraphs"]}
    args.device = "cpu"
    assert speed.LEANRL_GRAPHS not in commands(args, "HalfCheetah-v5")


def test_an_interpreter_is_found_from_the_contestants_folder():
    """Relative to where the race was started, and through the link by which a virtual environment is known."""
    Path("sbx").mkdir()
    Path("sbx/python").symlink_to(sys.executable)
    args = Args(sbx_python="sbx/python", rltools_python="sbx/python", leanrl="x", leanrl_python="sbx/python")
    peers = commands(args, "HalfCheetah-v5")
    interpreters = {peers[name][0] for name in ("SBX", "RLtools", "LeanRL")}
    assert interpreters == {str(Path.cwd() / "sbx" / "python")}


def test_rltools_has_the_threads_of_the_others(monkeypatch):
    """Left alone, it would have its products computed by one thread."""
    assert speed.environment("cpu", 2)["MKL_NUM_THREADS"] == "2"
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert speed.environment()["MKL_NUM_THREADS"] == "7"


def test_rltools_runs_its_own_loop_of_the_same_sizes(tmp_path):
    """A stand-in for the package, which notes its settings and steps the environment as the C++ does."""
    (tmp_path / "rltools.py").write_text(
        "import json\n"
        "class SAC:\n"
        "    def __init__(self, make, **settings):\n"
        "        self.env = make()\n"
        "        json.dump(settings, open('settings.json', 'w'))\n"
        "    def State(self, seed):\n"
        "        return self\n"
        "    def step(self):\n"
        "        observation, _, terminated, truncated, _ = self.env.step(self.env.action_space.high)\n"
        "        assert observation.shape == (2,) and not terminated\n"
    )
    env = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, str(speed.PEER), "rltools", "MountainCarContinuous-v0"]
    peer = Contestant("RLtools", command, str(tmp_path), env)
    try:
        assert peer.run(5) > 0 and peer.run(5) > 0
    finally:
        peer.process.kill()
        peer.process.wait()
    settings = json.loads((tmp_path / "settings.json").read_text())
    for name in ("ACTOR", "CRITIC"):
        assert (settings[f"{name}_BATCH_SIZE"], settings[f"{name}_HIDDEN_DIM"], settings[f"{name}_NUM_LAYERS"]) == (
            256, 256, 3,  # of which the last gives the output
        )  # fmt: skip
    assert not settings["enable_evaluation"] and not settings["COLLECT_EPISODE_STATS"]


def test_leanrls_gain_stands_beside_its_published_one():
    """By hand: 600 / 120 and 600 / 100 here; 725 / 127 = 5.71 and 725 / 130 = 5.58 in its README."""
    rates = {"LeanRL's copy of CleanRL": [120.0], "LeanRL": [90.0, 100.0, 300.0], speed.LEANRL_GRAPHS: [600.0]}
    copy, eager = speed.against_leanrl(rates)
    assert "copy of CleanRL: 5.00 × here, 5.7 × published" in copy
    assert "to LeanRL: 6.00 × here, 5.6 × published" in eager
    assert speed.against_leanrl(rates | {"ours": [150.0]})[:2] == [
        "ours to LeanRL's copy of CleanRL: 1.25 ×", "ours to LeanRL: 1.50 ×"
    ]  # fmt: skip
    assert speed.against_leanrl({"ours": [150.0], "SBX": [100.0]}) == []


def test_a_package_that_is_missing_is_left_out(monkeypatch):
    have = speed.versions(sys.executable, "torch", "no-such-package", "gymnasium")
    assert re.fullmatch(r"Python [\d.]+, torch \S+, gymnasium \S+", have)
    assert "not installed" not in speed.title(Args())
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    assert "Stable-Baselines3" not in commands(Args(), "MountainCarContinuous-v0")
    assert speed.title(Args()).splitlines()[-1].startswith("Stable-Baselines3 is not installed and left out: pip")


def test_the_discrete_race_says_nothing_of_stable_baselines(started, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["discrete_speed.py"])
    runpy.run_path(discrete_speed.__file__, run_name="__main__")
    about, machine, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Python [\d.]+, torch \S+, gymnasium \S+", about)
    assert ", device cpu, " in machine
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(discrete_speed.FLAGS)


def test_the_discrete_race_has_ours_with_the_plain_ones_work(run_here):
    def networks(name: str) -> int:
        flags = ["--env-id", "Taxi-v4", "--total-timesteps", "3", *discrete_speed.FLAGS[name]]
        return len(run_here(*flags, script=ROOT / "guided_sac_discrete.py").modules)

    assert (networks("ours"), networks("ours, with an actor network")) == (1, 2)


def test_a_race_outlives_a_contestant_and_takes_floors_between_its_rounds(monkeypatch, tmp_path):
    """A contestant that answers everything, one that ends after its first block, one that never begins."""
    loop = "import sys\nfor line in sys.stdin:\n    print(int(line) / 100, flush=True)"
    peers = {"ours": loop, "short": f"{loop}\n    if line == '7\\n':\n        raise KeyError('final')", "none": "0 / 0"}
    events = []

    def run(self, steps: int):
        events.append(f"{self.name} {steps}")
        return ordered(self, steps)

    def floor_of(shapes, dtype):
        events.append(str(dtype))
        return 0.5 if dtype == torch.float32 else 0.25

    ordered = Contestant.run
    monkeypatch.setattr(Contestant, "run", run)
    monkeypatch.setattr(speed, "floor_of", floor_of)
    monkeypatch.setattr(speed, "commands", lambda args, env_id: {
        name: [sys.executable, "-c", program] for name, program in peers.items()
    })  # fmt: skip
    args = Args(blocks=2, steps=7, warm_up=3)
    contestants, floors = speed.race(args, "MountainCarContinuous-v0", str(tmp_path))
    round_of = ["torch.float32", "torch.bfloat16", "ours 7", "short 7", "none 7"]
    assert events == ["ours 3", "short 3", "none 3", *round_of, *round_of]
    assert floors == {"fp32": [0.5, 0.5], "bf16": [0.25, 0.25]}
    assert [c.seconds for c in contestants] == [[0.07, 0.07], [0.07], []]
    assert [c.error for c in contestants] == ["", "KeyError: 'final'", "ZeroDivisionError: division by zero"]
    rows = speed.table("E", contestants, floors, args.steps, gflop=1.0)
    assert rows[1].startswith("| E | short; stopped: KeyError: 'final' | 100.0 | 100.0 | 100.0 |")
    assert rows[2] == "| E | none | none: ZeroDivisionError: division by zero | | | | |"


def test_a_floor_is_of_products_in_its_own_precision(monkeypatch):
    seen = set()
    monkeypatch.setattr(torch, "bmm", lambda x, w: seen.add((x.dtype, w.dtype, tuple(x.shape), tuple(w.shape))))
    assert speed.floor_of([(2, 3, 4, 5)], torch.bfloat16) > 0
    assert seen == {(torch.bfloat16, torch.bfloat16, (2, 3, 4), (2, 4, 5))}
    assert speed.gflop_of([(2, 3, 4, 5), (1, 10, 10, 10)]) == pytest.approx(2.24e-6)


def test_the_table_is_worked_out_as_by_hand():
    """Blocks of 100 steps. Floors: 5 and 2 ms in the median, so 200 and 500 updates per second. Best library: 50."""
    contestants = [
        SimpleNamespace(name="ours", seconds=[1.0, 2.0, 0.5], error=""),  # 100, 50, 200
        SimpleNamespace(name="ours, --precision bf16", seconds=[0.5, 0.4, 1.0, 0.5], error=""),  # 200, 250, 100, 200
        SimpleNamespace(name="Stable-Baselines3", seconds=[2.0, 4.0, 1.0], error=""),  # 50, 25, 100
        SimpleNamespace(name="SBX", seconds=[2.5, 2.5, 0.1], error=""),  # 40, 40, 1000
    ]
    floors = {"fp32": [0.005, 0.004, 0.008], "bf16": [0.002, 0.001, 0.004]}
    assert speed.table("E", contestants, floors, steps=100, gflop=1.08) == [
        "| E | ours | 100.0 | 50.0 | 200.0 | 50% | 2.00 × |",
        "| E | ours, --precision bf16 | 200.0 | 100.0 | 250.0 | 40% | 4.00 × |",
        "| E | Stable-Baselines3 | 50.0 | 25.0 | 100.0 | 25% | 1.00 × |",
        "| E | SBX | 40.0 | 40.0 | 1000.0 | 20% | 0.80 × |",
        "| E | *matrix products alone, fp32: 1.08 GFLOP* | 200.0 | 125.0 | 250.0 | 100% | |",
        "| E | *matrix products alone, bf16: 1.08 GFLOP* | 500.0 | 250.0 | 1000.0 | 100% | |",
    ]
    alone = speed.table("E", contestants[:1], {}, steps=100, gflop=1.08)  # on a GPU, and no library
    assert alone == ["| E | ours | 100.0 | 50.0 | 200.0 |  |  |"]


def test_filling_the_buffer_counts_in_peak_memory(tmp_path):
    def peak(*flags: str) -> float:
        command = [*commands(Args(), "MountainCarContinuous-v0")["ours"], *flags]
        return 1e9 * speed.peak_memory(command, str(tmp_path))

    each = 4 * (2 + 1 + 1 + 1) + 8 * 2  # observation, action, reward, termination; two numbers of places
    grown = peak("--buffer-size", "5000000") - peak("--buffer-size", "1000")
    assert grown == pytest.approx(5e6 * each, rel=0.05)


def test_filling_the_buffer_of_stable_baselines_counts_in_peak_memory(tmp_path, monkeypatch):
    """Its buffer of a million holds s and s': 17 numbers each in float32, where MountainCar has 2 of them."""
    pytest.importorskip("stable_baselines3")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def peak(env_id: str) -> float:
        return speed.peak_memory(commands(Args(), env_id)["Stable-Baselines3"], str(tmp_path))

    grown = peak("benchmark.races.wide_env:Wide-v0") - peak("MountainCarContinuous-v0")
    assert grown == pytest.approx(1e-3 * 4 * (2 * (17 - 2) + 6 - 1), rel=0.1)  # GB; six actions, and one
