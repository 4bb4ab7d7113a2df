"""The parent's end of the sandbox: a rule that a language model (or a person) wrote, run in a limited child process.

    with SandboxedPolicy(source, observation=Observation("floats", (47,)), action=BoxAction(low, high)) as policy:
        actions = policy(obs, t)  # obs (N, 47), t (N,) -> (N, *action shape) float64
    with SandboxedPolicy(source, observation=Observation("int"), action=DiscreteAction(6)) as policy:
        actions = policy(obs, t)  # obs (N, 1) int64, t (N,) -> (N,) int64

The source defines `policy(obs, t)`. Two layers stand between it and the machine, the language (language.py, numeric.py)
and the operating system (confinement.py). docs/sandbox.md says what each of them promises. The source travels as text
to a process of its own and is executed only there; that process starts clean: `-I`, an environment of ours, no
inherited descriptors, a new session, an empty folder that is unlinked at once. The form of the messages is in wire.py.
"""

from __future__ import annotations

import math
import operator
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from supervision.sandbox import confinement
from supervision.sandbox.language import check_source
from supervision.sandbox.memory import MEMORY, Episode, Episodes
from supervision.sandbox.messages import (
    FIRST_CALL_TIMEOUT,
    PATIENCE,
    RENEW_AFTER,
    BoxAction,
    DiscreteAction,
    Observation,
    PolicyError,
    SandboxError,
)
from supervision.sandbox.process import (
    Budget,
    cpu_time,
    destroy,
    getcpu,
    lifeline_pipe,
    limit_cpu_time,
    request_of,
)
from supervision.sandbox.state import keeps_state, uses_random
from supervision.sandbox.wire import ANSWER, ERROR, LOAD, MAX_TEXT_BYTES, MAX_TEXT_CHARS, OK, REQUEST, SETUP, STEP

CHILD = Path(__file__).resolve().with_name("child.py")
CHILD_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# of these the child has what the trainer has: the kernels that NumPy chooses decide the last bits of a rule's products
KERNELS = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES",
)  # fmt: skip
ROWS_AT_ONCE = 256  # when a policy is restored
STARTING = 60.0  # seconds for the child to load its own files: a disk may be slow, and no rule is there yet
TOLERANCE = 1e-6  # how far outside its bounds an action may lie before it is refused rather than clipped

LAYERS = ("language", "limits", "landlock", "seccomp")
_switched_off: tuple[str, ...] = ()  # set by tests alone, to see that each layer holds without the others


class SandboxedPolicy:
    """A policy that runs in a child process of its own; call it like a function, from one thread at a time.

    Each environment ("lane") has its own copy of the rule's globals, made anew at the start of each of its episodes.
    `np.random`, and generators that the source makes without a seed, are seeded from `seed`, the lane and the number of
    its episode, so equal seeds and equal calls give equal actions, in whatever order the lanes come.

    Args:
        source: Python source that `check_source` accepts.
        observation: what the policy is given.
        action: what it must return.
        seed: 0 to 2**32 - 1.
        call_timeout: seconds per row that a call may take; the first one may take 2 s. Where a busy machine gave the
            child less CPU time than that, it may take up to 2 s more (on Linux).
        start_timeout: seconds for the source's top level. Before it, Python and numpy have STARTING to be loaded.
        memory_mb: address space of the child in MiB, Python and numpy included.
        strict: refuse to run where this machine cannot enforce all of the operating system's layer; otherwise what is
            missing is printed once.
        cpu_budget: seconds of its own CPU time that the child may take a row, on average of 200 calls; None: any.
        warn_when_slow: say once that the budget is exceeded, and go on.

    Raises:
        SandboxError: the child could not be started: no room, no numpy, no confinement. The source was not tried.
        PolicyError: the source is refused, or its top level fails. From a call: the policy raised, was late, died, or
            returned something other than an action (finite numbers of the right shape within the bounds, or an
            integer of the range). After that the child is gone and the object closed.
        ValueError: an argument, of this constructor or of a call, has a wrong shape, type or range; `strict` cannot be.
    """

    def __init__(
        self,
        source: str,
        *,
        observation: Observation,
        action: BoxAction | DiscreteAction,
        seed: int = 0,
        call_timeout: float = 0.05,
        start_timeout: float = 5.0,
        memory_mb: int = 1024,
        strict: bool = False,
        cpu_budget: float | None = None,
        warn_when_slow: bool = False,
    ) -> None:
        confinement.check_platform(strict)
        self.keeps_state = draws = True
        if "language" not in _switched_off:
            tree = check_source(source)
            self.keeps_state, draws = keeps_state(tree), uses_random(tree)
        self.source = source
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be within 0 and 2**32 - 1, got {seed}")
        self._observation = observation
        self._discrete = isinstance(action, DiscreteAction)
        if self._discrete:
            first, last = int(action.start), int(action.start + action.n - 1)
            if not -(2**63) <= first <= last < 2**63:
                raise ValueError(f"discrete actions need n >= 1 and 64-bit numbers, got {action}")
            self._low = self._least = np.array(first, dtype=np.int64)
            self._high = self._most = np.array(last, dtype=np.int64)
            expected = f"an int or a NumPy integer from {first} to {last}"
        else:
            self._low, self._high = (np.array(bound, dtype=np.float64) for bound in action)
            if self._low.shape != self._high.shape or not (self._low <= self._high).all():
                raise ValueError(f"action bounds need equal shapes and low <= high, got {action.low} and {action.high}")
            # Clamped to the finite numbers, so that one comparison with them also refuses NaN and infinity.
            largest = np.finfo(np.float64).max
            self._least = np.maximum(self._low - TOLERANCE, -largest)
            self._most = np.minimum(self._high + TOLERANCE, largest)
            expected = f"an array of real numbers of shape {self._low.shape}"
        self._call_timeout = call_timeout
        self._budget: Budget | None = None
        self._limit_until, self._granted = -math.inf, 0.0  # the limit of CPU time: until when it stands, for how much
        self._called = False
        self._processor = -1  # where the child was last put
        self._closed = ""  # why, once it is closed
        self._rows = 0
        self._episodes = Episodes()
        self._answer = memoryview(bytearray(ANSWER.size + MAX_TEXT_BYTES))
        settings = {
            "observation": observation,
            "action_shape": None if self._discrete else self._low.shape,
            "expected": expected,
            "seed": int(seed),
            "memory_mb": int(memory_mb),
            "start_timeout": start_timeout,
            "call_timeout": call_timeout,
            "layers": [layer for layer in LAYERS if layer not in (*_switched_off, *confinement.missing_layers())],
        }
        self._limited = "limits" in settings["layers"] and sys.platform == "linux"
        try:
            setup = self._start_process(settings)
        except OSError as error:
            raise SandboxError(f"a rule's process could not be started: {error}") from None
        self._destroy = weakref.finalize(self, destroy, self._process, self._lifeline, os.getpid())
        try:
            self._to_child, self._from_child = self._process.stdin.fileno(), self._process.stdout.fileno()
            os.set_blocking(self._to_child, False)
            os.set_blocking(self._from_child, False)
            self._writable, self._readable = select.poll(), select.poll()
            self._writable.register(self._to_child, select.POLLOUT)
            self._readable.register(self._from_child, select.POLLIN)
            try:
                self._ask(request_of(SETUP, setup), 0, STARTING, lambda: "loading Python and numpy")
            except PolicyError as error:  # the rule is not there yet
                reason = " ".join(str(error).split())[:500]
                raise SandboxError(f"a rule's process could not be started: {reason}") from None
            load = {"source": source, "keeps_state": self.keeps_state, "draws": draws}
            started = time.monotonic()
            self._ask(request_of(LOAD, load), 0, start_timeout, lambda: "loading the policy")
            if cpu_budget is not None and sys.platform == "linux":  # elsewhere nobody tells
                self._budget = Budget(self._process.pid, cpu_budget, warn_when_slow)
            self._load_seconds = min(time.monotonic() - started, 0.25)
        except BaseException as error:  # Ctrl-C too: no half-started child may stay
            self._close(str(error))
            raise

    def _start_process(self, settings: dict[str, object]) -> dict[str, object]:
        """Start the child and its lifeline; return the whole setup, which tells it where this process finds modules."""
        lifeline, self._lifeline = lifeline_pipe()
        try:
            path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]  # "": the working folder
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd=tempfile.gettempdir(),
                env=CHILD_ENVIRONMENT | {name: os.environ[name] for name in KERNELS if name in os.environ},
                close_fds=True,
                pass_fds=[lifeline.fileno()],
                start_new_session=True,
            )
            return {**settings, "lifeline": lifeline.fileno(), "path": path}
        except BaseException:
            self._lifeline.close()
            raise
        finally:
            lifeline.close()

    def __call__(self, obs: np.ndarray, t: np.ndarray, lanes: np.ndarray | None = None) -> np.ndarray:
        """Return the policy's actions: (N, *action shape) float64, clipped to the bounds; discrete ones (N,) int64.

        Args:
            obs: observations, (N, *row shape) as `Observation` has it, of any real or integer dtype.
            t: steps of the current episodes, (N,), integers. 0 begins an episode of the row's lane.
            lanes: which environment each row belongs to, (N,), integers from 0; None: 0 to N - 1. From `TRIAL_LANES`
                on they are of trials, which training's do not notice and of which nothing is remembered.
        """
        if self._closed:
            raise PolicyError(f"the policy is closed: {self._closed}")
        obs, t = np.asarray(obs), np.asarray(t)
        rows = t.size
        if t.shape != (rows,) or rows == 0 or t.dtype.kind not in "iu":
            raise ValueError(f"t must be integers of shape (N,), N > 0, got {t.dtype} of shape {t.shape}")
        if rows != self._rows:
            self._allocate(rows)
        floats = self._observation.kind == "floats"
        if obs.shape != self._obs.shape or obs.dtype.kind not in ("biuf" if floats else "iu"):
            numbers = "real numbers" if floats else "integers"
            raise ValueError(f"obs must be {numbers} of shape {self._obs.shape}, got {obs.dtype} of shape {obs.shape}")
        if lanes is not None:
            lanes = np.asarray(lanes)
            if lanes.shape != t.shape or lanes.dtype.kind not in "iu" or lanes.min() < 0:
                raise ValueError(f"lanes must be integers of shape {t.shape}, none below 0, got {lanes!r:.200}")
        self._t[...] = t
        self._obs[...] = obs
        seconds = rows * self._call_timeout
        if self.keeps_state:  # else all lanes have one copy
            self._lanes[...] = self._first_lanes if lanes is None else lanes
            self._numbers[...], begun = self._episodes.advance(self._lanes.tolist(), self._t.tolist(), self._obs)
            seconds += begun * 2 * self._load_seconds  # the top level is executed again
        if not self._called:
            seconds = max(FIRST_CALL_TIMEOUT, seconds)
        self._called = True
        allowed = () if getcpu is None else os.sched_getaffinity(0)
        several = len(allowed) > 1
        try:
            try:
                if allowed:
                    self._meet_on_one_processor(several)
                self._ask(self._request, self._actions.nbytes, seconds, self._where)
            finally:
                # Without a call of our own, at which a second Ctrl-C could come in: a thread that is left on one
                # processor would slow the learner for good.
                if several:
                    try:  # noqa: SIM105
                        os.sched_setaffinity(0, allowed)
                    except OSError:
                        pass
            if self._budget is not None:
                self._budget.count(rows)
            return self._checked(self._actions)
        except BaseException as error:  # Ctrl-C too: an answer that nobody read would be taken for the next one
            self._close(str(error))
            raise

    def forget(self, lanes: Iterable[int] | None = None) -> None:
        """End the current episodes of these lanes, or of all: the next row of each begins one, whatever its step."""
        self._episodes.forget(None if lanes is None else [int(lane) for lane in lanes])

    def memory(self) -> dict[str, list[Any]]:
        """Return plain data (lists of ints and of arrays) from which `restore` brings another process to this state.

        For each lane that is not of a trial: how many episodes it began, and the rows of the current one. A rule that
        can keep nothing from call to call leaves the lists empty.
        """
        return self._episodes.memory()

    def restore(self, memory: dict[str, list[Any]]) -> None:
        """Bring this policy, which was not called yet, to the state in which `memory` was taken.

        Raises:
            ValueError: it was called already.
            PolicyError: the rule fails on rows on which it did not fail.
        """
        if self._called:
            raise ValueError("a policy that was called already cannot be restored")
        if not self.keeps_state:
            return
        for lane, episode, steps, obs in zip(*(memory[key] for key in MEMORY), strict=True):
            self._episodes.lanes[int(lane)] = Episode(int(episode) - (len(steps) > 0))
            for first in range(0, len(steps), ROWS_AT_ONCE):
                rows = slice(first, first + ROWS_AT_ONCE)
                self(np.asarray(obs)[rows], np.asarray(steps)[rows], np.full(len(steps[rows]), lane))

    def close(self) -> None:
        """Kill the child and what it started, reap it, close the pipes; any number of times."""
        self._close("close() was called")

    def __enter__(self) -> SandboxedPolicy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _close(self, why: str) -> None:
        self._closed = self._closed or why or "interrupted"
        self._destroy()

    def _meet_on_one_processor(self, several: bool) -> None:
        """Put this thread (where it has several to choose from) and the child on the processor where this thread is.

        They take turns, so they lose nothing by it, and neither has to wake another processor from its sleep: on an
        otherwise idle virtual machine that takes several times as long as the policy.
        """
        here = getcpu()
        try:
            if several:
                os.sched_setaffinity(0, {here})  # of this thread alone, not of the learner's others
            if here != self._processor:
                self._processor = here
                os.sched_setaffinity(self._process.pid, {here})
        except OSError:  # not ours to choose here, or no child: the exchange reports that
            pass

    def _allocate(self, rows: int) -> None:
        """Lay out the request and answer buffers for this number of rows."""
        row_shape = self._observation.row_shape
        obs_size = math.prod(row_shape)
        payload = 8 * rows * (3 + obs_size)
        request = bytearray(REQUEST.size + payload)
        REQUEST.pack_into(request, 0, STEP, rows, payload)
        answer = bytearray(ANSWER.size + max(8 * rows * self._low.size, MAX_TEXT_BYTES))
        shape = (rows, *self._low.shape)
        heads = np.frombuffer(request, "<i8", 3 * rows, REQUEST.size).reshape(3, rows)
        self._lanes, self._numbers, self._t = heads  # (N,) each
        self._first_lanes = np.arange(rows)
        self._obs = np.frombuffer(request, self._observation.dtype, rows * obs_size, REQUEST.size + 24 * rows)
        self._obs = self._obs.reshape(rows, *row_shape)
        self._actions = np.frombuffer(answer, self._low.dtype.newbyteorder("<"), rows * self._low.size, ANSWER.size)
        self._actions = self._actions.reshape(shape)
        # No lower than low and no higher than high, and finite: what needs no clipping.
        self._lows = rows * np.maximum(self._low, self._least).ravel().tolist()
        self._highs = rows * np.minimum(self._high, self._most).ravel().tolist()
        self._request, self._answer = memoryview(request), memoryview(answer)
        self._rows = rows

    def _ask(self, request: memoryview, expected: int, seconds: float, what: Callable[[], str]) -> None:
        """Make one round trip: afterwards the answer buffer holds an OK with a payload of `expected` bytes.

        Raises PolicyError; `what()` says what was asked for.
        """
        try:
            self._deadline = time.monotonic() + seconds
            self._cpu_deadline = cpu_time(self._process.pid) + seconds
            if self._limited and (self._deadline - seconds >= self._limit_until or seconds != self._granted):
                self._limit_until, self._granted = self._deadline - seconds + RENEW_AFTER, seconds
                limit_cpu_time(self._process.pid, seconds)  # not at every call: it takes a system call
            self._patience = PATIENCE
            status, size = self._exchange(request)
        except TimeoutError:
            raise PolicyError(f"{what()} took longer than {seconds:g} s") from None
        except (EOFError, BrokenPipeError):
            self._destroy()
            code = self._process.returncode
            how = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
            raise PolicyError(f"{what()} ended the policy's process: {how}") from None
        if status == ERROR:
            text = bytes(self._answer[ANSWER.size : ANSWER.size + size]).decode("utf-8", "replace")[:MAX_TEXT_CHARS]
            # Written by hostile code: no terminal escapes in a log.
            raise PolicyError("".join(c if c.isprintable() or c == "\n" else "?" for c in text))
        if size != expected:
            raise PolicyError(f"{what()} gave {size} bytes instead of {expected}")

    def _exchange(self, request: memoryview) -> tuple[int, int]:
        """Send a request and read one whole answer; return its status and the number of payload bytes.

        Raises TimeoutError; EOFError or BrokenPipeError where the child is gone; PolicyError for a malformed answer.
        """
        while request:
            try:
                request = request[os.write(self._to_child, request) :]
            except BlockingIOError:
                self._wait(self._writable)
        answer, got, whole = self._answer, 0, ANSWER.size
        while got < whole:
            self._wait(self._readable)
            count = os.readv(self._from_child, [answer[got:] if got else answer])
            if not count:
                raise EOFError
            got += count
            if got >= ANSWER.size:
                status, size = ANSWER.unpack_from(answer)
                whole = ANSWER.size + size
                if status not in (OK, ERROR) or whole > len(answer) or (status == ERROR and size > MAX_TEXT_BYTES):
                    raise PolicyError(f"the policy's process sent a malformed answer: status {status}, {size} bytes")
        if got > whole:
            raise PolicyError(f"the policy's process sent {got - whole} bytes more than it announced")
        return status, size

    def _wait(self, poller: select.poll) -> None:
        """Wait until the poller's descriptor is ready or its other end closed; TimeoutError after the deadlines."""
        # Polled at least once: an answer that is there counts, however late this process itself comes to read it.
        while not poller.poll(max(0, math.ceil(1e3 * (self._deadline - time.monotonic())))):
            # A stall of a busy machine must not end a training run's guidance: what counts is the child's own time.
            missing = self._cpu_deadline - cpu_time(self._process.pid)
            if missing <= 0 or self._patience <= 0:
                raise TimeoutError
            # Counted as it is spent: while this process itself stood still, as by Ctrl-Z, the child had no chance.
            granted = min(missing, self._patience)
            self._patience -= granted
            self._deadline = time.monotonic() + granted

    def _where(self) -> str:
        steps = ", ".join(map(str, self._t[:5])) + (f", ... ({self._rows} rows)" if self._rows > 5 else "")
        return f"policy(obs, t) at t={steps}"

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions, clipped to the bounds, as a new array; PolicyError for a bad one."""
        # The usual case first, in numbers of Python: processes that take turns find their caches cold, and then numpy's
        # comparisons cost more than a loop over a few numbers.
        values = actions.ravel().tolist()
        if all(map(operator.le, self._lows, values)) and all(map(operator.le, values, self._highs)):
            return actions.copy()
        good = (actions >= self._least) & (actions <= self._most)
        if not good.all():
            row, *index = np.argwhere(~good)[0].tolist()
            at = tuple(index)
            name = "action" + (f"[{', '.join(map(str, at))}]" if at else "")
            allowed = "an integer from {} to {}" if self._discrete else "finite and within [{}, {}]"
            raise PolicyError(
                f"policy(obs, t) returned {name} = {actions[row][at].item()!r} at t={self._t[row]}; it must be "
                + allowed.format(self._low[at], self._high[at])
            )
        return np.minimum(np.maximum(actions, self._low), self._high)


def check_start(strict: bool = False) -> None:
    """Start a trivial policy's process and end it.

    Raises:
        SandboxError: no policy's process can be started here.
    """
    source, action = "def policy(obs, t):\n    return 0\n", DiscreteAction(1)
    SandboxedPolicy(source, observation=Observation("int"), action=action, strict=strict).close()
