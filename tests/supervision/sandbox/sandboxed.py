"""What the sandbox's tests share: policies with real child processes, and what there is to be seen of these."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from supervision.sandbox.messages import BoxAction, DiscreteAction, Observation
from supervision.sandbox.policy import SandboxedPolicy

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

HARMLESS = "def policy(obs, t):\n    return [0.0, 0.0]\n"


def make(source: str, obs_shape=(3,), low=(-1.0, -1.0), high=(1.0, 1.0), **options) -> SandboxedPolicy:
    action = BoxAction(np.array(low), np.array(high))
    return SandboxedPolicy(source, observation=Observation("floats", obs_shape), action=action, **options)


def body(text: str) -> str:
    """A policy with this body, which starts in line 2."""
    return "def policy(obs, t):\n" + textwrap.indent(textwrap.dedent(text).strip(), "    ") + "\n"


def call(policy: SandboxedPolicy, *steps: int) -> np.ndarray:
    return policy(np.zeros((len(steps), 3)), np.array(steps))


ONE_INT = Observation("int")


def make_discrete(source: str, observation: Observation = ONE_INT, n: int = 4, start: int = 0) -> SandboxedPolicy:
    return SandboxedPolicy(source, observation=observation, action=DiscreteAction(n, start))


def call_discrete(policy: SandboxedPolicy, *numbers: int) -> np.ndarray:
    """Call with Discrete observations, one a row."""
    return policy(np.array(numbers)[:, None], np.arange(len(numbers)))


def pid_of(policy: SandboxedPolicy) -> int:
    return policy._process.pid


def stat_of(pid: int | str) -> list[str] | None:
    """State, parent's pid and what follows them in /proc/<pid>/stat; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def children() -> set[str]:
    """The pids of this process's children, zombies included."""
    stats = {pid: stat_of(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    return {pid for pid, stat in stats.items() if stat and stat[1] == str(os.getpid())}


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def wait_for(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def dead(pid: int) -> bool:
    """Gone, or (where the machine's init is slow to reap orphans) a zombie."""
    stat = stat_of(pid)
    return stat is None or stat[0] == "Z"


def run_parent(script: str) -> subprocess.Popen:
    """Start a parent of its own; it prints its child's pid first."""
    header = "import os, signal, sys, numpy as np\n"
    header += "from supervision.sandbox.messages import *\nfrom supervision.sandbox.policy import *\n"
    header += (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell put us in the background
    )
    options = "observation=Observation('floats', (3,)), action=BoxAction(-np.ones(2), np.ones(2))"
    options += ", call_timeout=call_timeout"
    maker = f"def make(source, call_timeout=60.0): return SandboxedPolicy(source, {options})\n"
    script = header + maker + textwrap.dedent(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """No test leaves a child (zombies count), a descriptor or a temporary folder behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = children(), descriptors()
    yield folder
    assert children() == before[0]
    assert descriptors().items() <= before[1].items()  # a server of an earlier test may close its own meanwhile
    assert list(folder.iterdir()) == []
