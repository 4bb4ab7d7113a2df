"""`--track` without a network: what of a run arrives in wandb's own file, which is read back record by record."""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run_process, scalars
from processes import PLAIN, only_run

FLAGS = [*PLAIN, "--track", "--capture-video", "--max-episode-steps", "60", "--learning-starts", "50",
         "--total-timesteps", "400", "--checkpoint-frequency", "200", "--eval-frequency", "400", "--eval-episodes",
         "1"]  # fmt: skip
CLOCK = "charts/SPS"


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, in blocks of 32 KiB behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2  # here, since wandb is slow to load

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


class Offline:
    """What wandb's file of a run holds."""

    def __init__(self, folder: Path):
        (path,) = folder.glob("*.wandb")
        found = list(records(path))
        self.folder, self.id = folder, next(r.run.run_id for r in found if r.HasField("run"))
        self.rows = [
            {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for record in found
            if record.HasField("history")
        ]

    def points(self, tag: str) -> list[tuple[int, float]]:
        """(global step, value) of a tag."""
        return [(row["global_step"], row[tag]) for row in self.rows if tag in row]


def runs() -> list[Offline]:
    return [Offline(path) for path in sorted(Path("wandb").glob("offline-run-*"))]


def assert_has(run: Offline, logged: dict[str, list[tuple[int, float]]], first: int) -> None:
    """All that TensorBoard has from this step on, and nothing before or twice."""
    assert {"charts/episodic_return", "losses/alpha", "eval/episodic_return"} <= set(logged)
    for tag, points in logged.items():
        expected = [(step, pytest.approx(value, rel=1e-5)) for step, value in points if step >= first]
        assert tag == CLOCK or run.points(tag) == expected, tag


def test_scalars_and_videos_arrive_also_of_a_run_that_goes_on():
    """Episodes of 60 steps; of 0 and 1 there are videos (the cubes), and of the one that is cut at the end of none."""
    first = run_process(*FLAGS, WANDB_MODE="offline", WANDB_SILENT="true")
    assert first.returncode == 0 and "Traceback" not in first.stderr, first.stderr
    name = only_run()
    (run,) = runs()
    assert run.id == json.loads(Path(f"runs/{name}/settings.json").read_text())["wandb_id"]
    assert_has(run, scalars(name), 0)
    assert run.points("videos/training.sha256") == [
        (60 * (episode + 1), hashlib.sha256(Path(f"videos/{name}/rl-video-episode-{episode}.mp4").read_bytes())
         .hexdigest()) for episode in (0, 1)
    ]  # fmt: skip
    assert all((run.folder / "files" / path).is_file() for _, path in run.points("videos/training.path"))

    again = run_process("--resume", f"runs/{name}", "--total-timesteps", "700", WANDB_MODE="offline",
                        WANDB_SILENT="true")  # fmt: skip
    assert again.returncode == 0 and "Traceback" not in again.stderr, again.stderr
    before, after = runs()
    assert after.id == before.id and only_run() == name
    assert_has(after, scalars(name), 401)
    assert [step for step, _ in after.points("videos/training.sha256")] == [540]  # episode 8


def test_a_video_that_wandb_does_not_take_ends_no_run():
    process = run_process(*FLAGS, WANDB_MODE="offline", WANDB_SILENT="true", PYTHONPATH=str(
        _broken_video()))  # fmt: skip
    assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
    assert process.stdout.count("not written: videos for wandb: OSError: no room; ") == 1
    assert "missing: videos for wandb could not be written: OSError: no room" in process.stdout
    assert "step 400/400" in process.stdout


def _broken_video() -> Path:
    """A folder whose sitecustomize makes wandb.Video fail as it does on a full disk."""
    folder = Path("broken").resolve()
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import wandb\n"
        "def fail(*args, **options):\n"
        "    raise OSError('no room')\n"
        "wandb.Video = fail\n"
    )  # fmt: skip
    return folder
