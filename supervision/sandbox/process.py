"""A rule's process as its parent holds it: its pipes, its lifeline, its CPU time and its end."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import math
import os
import resource
import signal
import subprocess
import time
import weakref
from collections.abc import Callable

from supervision.sandbox.messages import CALLS_OF_A_BUDGET, PATIENCE, RENEW_AFTER, PolicyError
from supervision.sandbox.wire import REQUEST

# The child is killed by the kernel when the last copy of its lifeline's write end is closed; a forked copy of this
# process (a vector environment's worker, say) must not keep it alive.
_lifelines: weakref.WeakSet[io.FileIO] = weakref.WeakSet()


def _drop_lifelines() -> None:
    for lifeline in list(_lifelines):
        lifeline.close()


os.register_at_fork(after_in_child=_drop_lifelines)


# sched_getcpu(3): the number of the processor that the caller runs on; macOS has none.
getcpu: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)


def cpu_time(pid: int) -> float:
    """Return the CPU seconds of a child process, from an arbitrary origin; wall-clock seconds where nobody tells."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) does on Linux
    except OSError:
        return time.monotonic()


def limit_cpu_time(pid: int, seconds: float) -> None:
    """Have the kernel end a child when it computes for this long, and some more, without another call; Linux only.

    The deadline comes first; this holds where this process stands still. The child cannot change it. It counts the CPU
    time of the whole life, so it has to be moved on.
    """
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(cpu_time(pid) + seconds + RENEW_AFTER + PATIENCE)
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    with contextlib.suppress(ProcessLookupError):  # gone: the exchange reports that
        resource.prlimit(pid, resource.RLIMIT_CPU, (soft, hard))


class Budget:
    """The CPU time that a child takes a row, on average of 200 calls and more; Linux only.

    Args:
        pid: the child's.
        seconds: of CPU time that a row may take.
        warn: say once that it took more, and go on.
    """

    def __init__(self, pid: int, seconds: float, warn: bool):
        self.pid, self.seconds, self.warn = pid, seconds, warn
        self.calls = self.rows = 0
        self.begun = 0.0  # the child's CPU time before these calls

    def count(self, rows: int) -> None:
        """Count a call; PolicyError (or a warning) when the calls since the last look took too much."""
        if self.calls == 0:  # not counted: the first of all may fill caches
            self.begun = cpu_time(self.pid)
        else:
            self.rows += rows
        self.calls += 1
        if self.calls <= CALLS_OF_A_BUDGET:
            return
        mean = (cpu_time(self.pid) - self.begun) / self.rows
        if mean > self.seconds:
            text = (
                f"policy(obs, t) took longer than {1e3 * self.seconds:g} ms of CPU time a row: {1e3 * mean:.3g} ms on "
                f"average of {self.rows} rows; it slows training down, so compute less at each call"
            )
            if not self.warn:
                raise PolicyError(text)
            print(f"policy sandbox: {text}", flush=True)
            self.seconds = math.inf
        self.calls = self.rows = 0


def request_of(kind: int, content: object) -> memoryview:
    """Return a request whose payload is JSON."""
    payload = json.dumps(content).encode()
    return memoryview(REQUEST.pack(kind, 0, len(payload)) + payload)


def lifeline_pipe() -> tuple[io.FileIO, io.FileIO]:
    """Return the two ends of a new pipe, to read and to write; forked copies of this process drop the second."""
    read_end, write_end = (os.fdopen(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    _lifelines.add(write_end)
    return read_end, write_end


def destroy(process: subprocess.Popen, lifeline: io.FileIO, owner: int) -> None:
    """End the child: kill its process group, close the pipes, reap it; in a forked copy of the owner close only."""
    mine = os.getpid() == owner
    if mine:  # not reaped before this, so its number cannot belong to anybody else
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS, where all of the group is dead already
            os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.stdout.close()
    lifeline.close()
    if mine:
        process.wait()
