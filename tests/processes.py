"""Runs that are cut off: as processes of their own, read and sent signals while they go on, and in this one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT, SECRETS

CAR = ["--env-id", "MountainCarContinuous-v0", "--total-timesteps", "300", "--checkpoint-frequency", "100",
       "--seed", "4", "--batch-size", "32", "--buffer-size", "5000"]  # fmt: skip
BRIEF = ["--replay-frames", "0"]
PLAIN = [*CAR, "--supervisor", "none"]
GUIDED = [*CAR, *BRIEF, "--supervisor", "bundled", "--guide-window", "80", "--trial-pairs", "0"]


def start(*flags: str, script: str = "guided_sac_continuous.py", **env: str) -> subprocess.Popen:
    """A run in the present folder, on one thread, in a process group of its own."""
    clean = {k: v for k, v in os.environ.items() if k not in SECRETS}
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *flags], env={**clean, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen, text: str) -> str:
    """Read what a process prints until a line holds the text."""
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was never said:\n{said}")


def wait_for_checkpoint(process: subprocess.Popen) -> None:
    """Wait until a run in the present folder has written its first checkpoint."""
    while not list(Path("runs").glob("*/checkpoints/step_*.pt")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def only_run() -> str:
    (folder,) = Path("runs").iterdir()
    return folder.name


def stop_at(monkeypatch, step: int) -> None:
    """From here on a run in this process gets a signal behind the first step not below this one, and ends there."""
    from guided_utils import console

    report = console.Progress.report

    def stopping(self, global_step, *args):
        report(self, global_step, *args)
        if global_step >= step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(console.Progress, "report", stopping)
