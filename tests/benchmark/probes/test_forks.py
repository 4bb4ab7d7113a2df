"""Forks of a real run are measured beside it; with a script that stands in: what runs when, stays, and goes on."""

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from benchmark.figures.models import Gait
from benchmark.figures.paper import Walk
from benchmark.probes import forks
from benchmark.sweeps.sweep import locked


def test_a_fork_is_measured_beside_the_run_it_comes_from(tmp_path, monkeypatch):
    """It is guided to its end, though the run that it comes from has its `--guide-end` before."""
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return [2.0]\n")
    base_flags = "--learning-starts 10 --batch-size 8 --max-episode-steps 10 --guide-end 30"
    args = forks.Args(
        folder=tmp_path / "forks", csv=tmp_path / "forks.csv", picture=tmp_path / "forks.png", env_id="Pendulum-v1",
        seed=3, total_timesteps=70, every=40, steps=(20,), base_flags=base_flags,
        flags=f"--guide-policy {tmp_path / 'rule.py'} --supervisor bundled --probe-share 0.5", name="push", episodes=2,
    )  # fmt: skip
    forks.main(args)
    table = pd.read_csv(args.csv)
    assert table[["fork", "step"]].drop_duplicates().values.tolist() == [[40, 60]]
    assert table.arm.tolist() == ["push", "unguided"] * 2 and table.actions.tolist() == ["greedy"] * 2 + ["sampled"] * 2
    assert (table.steps == 10).all() and table.episodic_return.between(-170, 0).all()
    assert table.episodic_return.nunique() == 4  # guided steps made it another policy
    assert table.guided_steps.tolist() == [10, 0] * 2  # one of two episodes
    assert list(forks.checkpoints(tmp_path / "forks" / "base")) == [40, 60, 70]  # not 20
    assert list(forks.checkpoints(tmp_path / "forks" / "push_40_20")) == [60]

    def never(*_):
        raise AssertionError("it was run before")

    monkeypatch.setattr(forks, "start", never)
    forks.main(args)  # measured again: the same numbers, and no row twice
    pd.testing.assert_frame_equal(pd.read_csv(args.csv), table)
    assert Image.open(args.picture).size[0] > 1_000


STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
saved, settings, source = Path("runs/x/checkpoints"), Path("runs/x/settings.json"), Path(flags.get("--resume", "none"))
saved.mkdir(parents=True, exist_ok=True)
begin = int(source.stem[5:]) if source.is_file() else max((int(path.stem[5:]) for path in saved.iterdir()), default=0)
flags = (json.loads(settings.read_text()) if settings.is_file() else {}) | flags
settings.write_text(json.dumps(flags))
Path("runs/x/events.out.tfevents.1").touch()
start, end, every = time.time(), int(flags["--total-timesteps"]), int(flags.get("--checkpoint-frequency", 1000))
for step in range(begin + 1, end + 1):
    time.sleep(0.01)
    while os.path.exists("../../hold") and step == (60 if begin else 100) and not told:
        time.sleep(0.01)
    if told or step == end or step % every == 0:
        Path(saved, f"step_{step:09d}.pt").touch()
    if told:
        break
with open("../times.jsonl", "a") as file:
    row = [os.path.basename(os.getcwd()), begin, step, start, time.time(), os.environ["OMP_NUM_THREADS"]]
    file.write(json.dumps(row) + "\\n")
sys.exit(143 if told else 0)
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the program with a script that does nothing, 100 steps a second, and a measure without meaning."""
    (tmp_path / "script.py").write_text(STAND_IN)
    monkeypatch.setattr(forks, "SCRIPT", tmp_path / "script.py")
    monkeypatch.setattr(forks, "PAUSE", 0.05)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(forks, "measured", lambda args, path: {"greedy": Walk(Gait(0, 0, 0, 0, 0), 1.0, 1.0, 1.0)})
    monkeypatch.setattr(forks.drawing, "save", lambda figure, path: None)
    same = dict(folder=tmp_path / "forks", csv=tmp_path / "forks.csv", picture=tmp_path / "forks.png",
                total_timesteps=200, every=50, base_flags="")  # fmt: skip
    return lambda **changes: forks.main(forks.Args(**same | changes))


def times(folder: Path) -> dict[str, list]:
    """Of each run that ended: first and last step, start and end in seconds, threads."""
    return {name: row for name, *row in map(json.loads, (folder / "forks" / "times.jsonl").read_text().splitlines())}


def test_forks_run_beside_their_run_and_of_several_lengths(call, tmp_path):
    call(steps=(20, 30))
    ran, base = times(tmp_path), tmp_path / "forks" / "base"
    assert {name: row[:2] for name, row in ran.items() if name != "base"} == {
        f"bundled_{begin}_{steps}": [begin, begin + steps] for begin in (50, 100, 150) for steps in (20, 30)
    }
    assert ran["bundled_50_20"][2] < ran["base"][3] - 0.5  # it began long before the run's end
    moments = [row[2] for row in ran.values()]
    assert max(sum(row[2] <= moment < row[3] for row in ran.values()) for moment in moments) == 2  # --jobs
    assert {row[4] for row in ran.values()} == {"1"}
    assert list(forks.checkpoints(base)) == [50, 70, 80, 100, 120, 130, 150, 170, 180, 200]
    settings = json.loads((tmp_path / "forks" / "bundled_50_20" / "runs" / "x" / "settings.json").read_text())
    assert settings["--guide-end"] == "70"

    call(steps=(100,), forks=(50, 100))
    assert times(tmp_path)["bundled_100_100"][:2] == [100, 200]
    assert list(forks.checkpoints(base)) == [50, 70, 80, 100, 120, 130, 150, 170, 180, 200]
    table = pd.read_csv(tmp_path / "forks.csv")[["fork", "step"]].drop_duplicates().to_numpy().tolist()
    assert table == [[50, 70], [50, 80], [50, 150], [100, 120], [100, 130], [100, 200], [150, 170], [150, 180]]
    with pytest.raises(ValueError, match=r"base has no checkpoint of step 75, 125, 175 and will have none: "):
        call(steps=(25,))
    assert not list((tmp_path / "forks").glob("*_25"))


def test_another_seed_has_rows_and_a_picture_of_its_own(call, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(forks.drawing, "forks", lambda table, panels: drawn.append((*table.seed.unique(), len(table))))
    csv = tmp_path / "new" / "forks.csv"
    for seed in (100, 101):
        call(seed=seed, folder=tmp_path / str(seed), csv=csv, total_timesteps=70, forks=(50,), steps=(20,))
    assert drawn == [(100, 2), (101, 2)]
    assert pd.read_csv(csv).groupby("seed").size().to_dict() == {100: 2, 101: 2}
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_interrupted_goes_on(whole, call, tmp_path, monkeypatch, capsys):
    """The program, as by Ctrl-C, or the run alone; a call with another length then keeps what the first one needs."""
    base, begun, start, hold = tmp_path / "forks" / "base", {}, forks.start, tmp_path / "hold"
    hold.touch()  # until it is interrupted nothing ends, the fork begins in any case
    monkeypatch.setattr(forks, "start", lambda folder, *rest: begun.setdefault(folder.name, start(folder, *rest)))

    def interrupt() -> None:
        while 70 not in forks.checkpoints(base) or len(begun) < 2:
            time.sleep(0.01)
        process = begun["base"]
        while process.poll() is None:  # Python loses an interrupt that comes while it collects garbage
            os.kill(os.getpid() if whole else process.pid, signal.SIGINT if whole else signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        hold.unlink()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        call(steps=(20,))
    output = capsys.readouterr().out
    assert f"{base}: interrupted (exit status 143)" in output and ("2 runs end with a checkpoint" in output) == whole
    assert all(process.poll() is not None for process in begun.values())
    _, last, *_ = times(tmp_path)["base"]
    assert 70 <= last < 200 and max(forks.checkpoints(base)) == last
    assert (tmp_path / "forks" / "bundled_50_20" / "done").exists() != whole  # it was left to itself
    begun.clear()

    call(steps=(35,), forks=(100,))  # every 5 steps from here on
    assert times(tmp_path)["base"][:2] == [last, 200] and list(begun) == ["base", "bundled_100_35"]
    assert {50, 70, 100, 120, 135, 150, 170, 200} <= set(forks.checkpoints(base)) <= {*range(50, 201, 50), 70, 120, 170,
                                                                                      85, 135, 185, 200}  # fmt: skip
    call(steps=(20,))
    assert times(tmp_path)["bundled_50_20"][1] == 70
    assert len(pd.read_csv(tmp_path / "forks.csv")) == 2 * 4


def test_failures_and_what_does_not_fit_are_one_line(call, tmp_path):
    with pytest.raises(ValueError, match=r"^--forks 60 is no multiple of --every 50$"):
        call(forks=(60,))
    with pytest.raises(ValueError, match=r"^a fork to step 210 is longer than --total-timesteps 200$"):
        call(steps=(60,), forks=(150,))
    with pytest.raises(ValueError, match=r"must be 1 or more$"):
        call(steps=())
    (tmp_path / "forks").mkdir()
    with locked(tmp_path / "forks"), pytest.raises(ValueError, match=r"is at work in .*forks"):
        call()
    (tmp_path / "script.py").write_text("raise SystemExit('no')")
    with pytest.raises(ChildProcessError, match=r"^1 runs failed: see .*base/log.txt$"):
        call()
    assert (tmp_path / "forks" / "base" / "log.txt").read_text() == "no\n"
