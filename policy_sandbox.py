"""Run a rule-based policy that a language model (or a person) wrote, in a limited child process.

    with SandboxedPolicy(source, obs_shape=(47,), action_low=low, action_high=high) as policy:
        actions = policy(obs, t)  # obs (N, 47), t (N,) -> (N, *action shape) float64

The source defines `policy(obs, t)`. It is checked by `check_source`, travels to the child as text and is executed only
there: in the child an error is a message, an endless loop is a missed deadline and a crash is an end of file, and each
of them is a `PolicyError` here.

What confines the child: an empty environment, no inherited descriptors, a new session, an unlinked working directory,
limits on memory, processes and file size, no further open files, a small set of builtins, and imports of math and numpy
alone. There is no limit on CPU seconds: it would count over the child's whole life, so an honest long run would reach
any value of it; the deadline of each call bounds what a bad call can burn.
What does not confine it yet: system calls are not filtered, and whoever walks from numpy's attributes to `os` has them
all (a signal to another process of the same user, for one).

Messages, little-endian, strictly one request and then one answer; nothing is ever unpickled:
    request  kind u8, 3 zero bytes, rows u32, payload bytes u64, payload
             SETUP (rows 0): JSON with the source, the shapes and the limits
             STEP: episode steps, rows x i64, then observations, rows x obs_shape f64
    answer   status u8, 3 zero bytes, payload bytes u32, payload
             OK: nothing after SETUP, actions after STEP, rows x action shape f64
             ERROR: UTF-8 text
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import importlib
import json
import math
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable

import numpy as np

REQUEST = struct.Struct("<B3xIQ")
SETUP, STEP = 1, 2
ANSWER = struct.Struct("<B3xI")
OK, ERROR = 1, 2

SOURCE_NAME = "<policy>"
MAX_SOURCE_CHARS = 65_536
MAX_TEXT_CHARS = 2_000
MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS  # UTF-8 needs at most 4 bytes a character
FIRST_CALL_TIMEOUT = 2.0  # seconds; the first call may fill caches
PATIENCE = 2.0  # seconds beyond a deadline for a child that other processes keep from computing
TOLERANCE = 1e-6  # how far outside its bounds an action may lie before it is refused rather than clipped

ALLOWED_MODULES = ("math", "numpy")
ALLOWED_IMPORTS = (("math", None), ("numpy", None), ("numpy", "np"))  # (module, the name after `as`)
REFUSED_CALLS = "open exec eval compile __import__ input breakpoint globals locals vars getattr setattr delattr"
SAFE_BUILTINS = """
    abs all any bool callable complex dict divmod enumerate filter float frozenset hasattr int isinstance issubclass
    iter len list map max min next object pow range repr reversed round set slice sorted str sum tuple zip
    __build_class__
"""  # and the exceptions, all of them
CHILD_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class PolicyError(RuntimeError):
    """A policy was refused or misbehaved; `str(error)` is one clear message for a person or for the coder model."""


# --- the static check ---


def check_source(source: str) -> None:
    """Refuse source that is not a plain `policy(obs, t)`; nothing of it is executed.

    Raises PolicyError that names the lines: a syntax error; nothing in it; not exactly one top-level function `policy`
    with exactly two positional parameters; an import other than `import math`, `import numpy`, `import numpy as np` and
    `from math import ...`; a dunder name or attribute; a call of a builtin that reaches outside (open, eval, ...).
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise PolicyError(f"the source has {len(source)} characters, more than {MAX_SOURCE_CHARS}")
    try:
        tree = ast.parse(source, SOURCE_NAME)
    except SyntaxError as error:
        raise PolicyError(f"line {error.lineno or 1}: syntax error: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes and surrogates; too deeply nested
        raise PolicyError(f"the source cannot be parsed: {str(error) or 'it is nested too deeply'}") from None
    if not tree.body:
        raise PolicyError("the source is empty")

    refusals: list[tuple[int, str]] = []
    policies = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "policy"]
    if not policies:
        refusals.append((1, "there is no top-level function `def policy(obs, t)`"))
    for node in policies[1:]:
        refusals.append((node.lineno, f"`policy` is already defined in line {policies[0].lineno}"))
    for node in policies:
        a = node.args
        if len(a.posonlyargs) + len(a.args) != 2 or a.vararg or a.kwonlyargs or a.kwarg:
            refusals.append((node.lineno, "`policy` must take exactly two positional parameters, obs and t"))
    for node in ast.walk(tree):
        refusals += [(node.lineno, reason[:200]) for reason in _refusals(node)]
    if refusals:
        raise PolicyError("\n".join(f"line {line}: {reason}" for line, reason in sorted(refusals)[:5]))


def _refusals(node: ast.AST) -> list[str]:
    """Say what is refused about one node of the syntax tree, its children apart."""
    reasons = []
    if isinstance(node, ast.Import):
        for alias in node.names:
            if (alias.name, alias.asname) not in ALLOWED_IMPORTS:
                name = alias.name + (f" as {alias.asname}" if alias.asname else "")
                reasons.append(f"only `import math` and `import numpy as np` are allowed, not `import {name}`")
    elif isinstance(node, ast.ImportFrom) and (node.module != "math" or node.level):
        module = "." * node.level + (node.module or "")
        reasons.append(f"only `from math import ...` is allowed, not `from {module} import`")
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSED_CALLS.split():
        reasons.append(f"a call of `{node.func.id}` is refused")
    if not isinstance(node, ast.Constant):  # every other string in a tree is an identifier
        for _, value in ast.iter_fields(node):
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and name.startswith("__") and name.endswith("__"):
                    reasons.append(f"the dunder name `{name}` is refused")
    return reasons


# --- the parent's side ---


class SandboxedPolicy:
    """A policy that runs in a child process of its own; call it like a function, from one thread at a time.

    The child's `np.random` is seeded with `seed` before the source is loaded, and generators that the source makes
    without a seed are seeded from it too, so equal seeds and equal calls give equal actions. (The iteration order of a
    set of strings is not covered: Python draws it anew in each process.)

    Args:
        source: Python source that `check_source` accepts.
        obs_shape: shape of one observation.
        action_low: lower bounds, shape of one action; may be infinite.
        action_high: upper bounds, same shape.
        seed: 0 to 2**32 - 1.
        call_timeout: seconds per row that a call may take; the first one may take 2 s. Where a busy machine gave the
            child less CPU time than that, it may take up to 2 s more (on Linux).
        start_timeout: seconds for the child to start, import numpy and run the source's top level.
        memory_mb: address space of the child in MiB, Python and numpy included.

    Raises:
        PolicyError: the source is refused, or its top level fails. From a call: the policy raised, was late, died, or
            returned something other than finite numbers of the right shape within the bounds. After that the child is
            gone and the object closed.
        ValueError: an argument, of this constructor or of a call, has a wrong shape, type or range.
    """

    def __init__(
        self,
        source: str,
        *,
        obs_shape: tuple[int, ...],
        action_low: np.ndarray,
        action_high: np.ndarray,
        seed: int = 0,
        call_timeout: float = 0.05,
        start_timeout: float = 5.0,
        memory_mb: int = 1024,
    ) -> None:
        check_source(source)
        self.source = source
        self._obs_shape = tuple(int(size) for size in obs_shape)
        self._low = np.array(action_low, dtype=np.float64)
        self._high = np.array(action_high, dtype=np.float64)
        if self._low.shape != self._high.shape or not (self._low <= self._high).all():
            raise ValueError(f"action bounds need equal shapes and low <= high, got {action_low} and {action_high}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be within 0 and 2**32 - 1, got {seed}")
        # Clamped to the finite numbers, so that one comparison with them also refuses NaN and infinity.
        largest = np.finfo(np.float64).max
        self._least = np.maximum(self._low - TOLERANCE, -largest)
        self._most = np.minimum(self._high + TOLERANCE, largest)
        self._call_timeout = call_timeout
        self._called = False
        self._closed = ""  # why, once it is closed
        self._rows = 0
        self._answer = memoryview(bytearray(ANSWER.size + MAX_TEXT_BYTES))
        setup = json.dumps(
            {
                "source": source,
                "obs_shape": self._obs_shape,
                "action_shape": self._low.shape,
                "seed": int(seed),
                "memory_mb": int(memory_mb),
                # Linux ties the "parent died" signal to the thread that started the child: one started by a thread that
                # ends before the process does must not ask for it.
                "parent_pid": os.getpid() if threading.current_thread() is threading.main_thread() else None,
            }
        ).encode()

        # The folder is unlinked once the child runs in it: nothing can be created there any more, and nothing stays
        # behind however this process ends.
        with tempfile.TemporaryDirectory(prefix="policy_sandbox_", ignore_cleanup_errors=True) as folder:
            self._process = subprocess.Popen(
                [sys.executable, "-I", os.path.abspath(__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd=folder,
                env=CHILD_ENVIRONMENT,
                close_fds=True,
                start_new_session=True,
            )
            self._destroy = weakref.finalize(self, _destroy, self._process, os.getpid())
            try:
                self._to_child, self._from_child = self._process.stdin.fileno(), self._process.stdout.fileno()
                os.set_blocking(self._to_child, False)
                os.set_blocking(self._from_child, False)
                self._writable, self._readable = select.poll(), select.poll()
                self._writable.register(self._to_child, select.POLLOUT)
                self._readable.register(self._from_child, select.POLLIN)
                request = memoryview(REQUEST.pack(SETUP, 0, len(setup)) + setup)
                self._ask(request, 0, start_timeout, lambda: "loading the policy")
            except BaseException as error:  # Ctrl-C too: no half-started child may stay
                self._close(str(error))
                raise

    def __call__(self, obs: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the policy's actions, (N, *action shape) float64, clipped to the bounds.

        Args:
            obs: observations, (N, *obs_shape), any real dtype.
            t: steps of the current episodes, (N,), integers.
        """
        if self._closed:
            raise PolicyError(f"the policy is closed: {self._closed}")
        obs, t = np.asarray(obs), np.asarray(t)
        rows = t.size
        if t.shape != (rows,) or rows == 0 or t.dtype.kind not in "iu":
            raise ValueError(f"t must be integers of shape (N,), N > 0, got {t.dtype} of shape {t.shape}")
        if obs.shape != (rows, *self._obs_shape) or obs.dtype.kind not in "biuf":
            raise ValueError(
                f"obs must be real numbers of shape {(rows, *self._obs_shape)}, got {obs.dtype} of shape {obs.shape}"
            )
        if rows != self._rows:
            self._allocate(rows)
        self._t[...] = t
        self._obs[...] = obs
        seconds = rows * self._call_timeout if self._called else max(FIRST_CALL_TIMEOUT, rows * self._call_timeout)
        self._called = True
        try:
            self._ask(self._request, self._actions.nbytes, seconds, self._where)
            return self._checked(self._actions)
        except BaseException as error:  # Ctrl-C too: an answer that nobody read would be taken for the next one
            self._close(str(error))
            raise

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

    def _allocate(self, rows: int) -> None:
        """Lay out the request and answer buffers for this number of rows."""
        obs_size = math.prod(self._obs_shape)
        payload = 8 * rows * (1 + obs_size)
        request = bytearray(REQUEST.size + payload)
        REQUEST.pack_into(request, 0, STEP, rows, payload)
        answer = bytearray(ANSWER.size + max(8 * rows * self._low.size, MAX_TEXT_BYTES))
        shape = (rows, *self._low.shape)
        self._t = np.frombuffer(request, "<i8", rows, REQUEST.size)  # (N,)
        self._obs = np.frombuffer(request, "<f8", rows * obs_size, REQUEST.size + 8 * rows)
        self._obs = self._obs.reshape(rows, *self._obs_shape)
        self._actions = np.frombuffer(answer, "<f8", rows * self._low.size, ANSWER.size).reshape(shape)
        self._request, self._answer = memoryview(request), memoryview(answer)
        self._rows = rows

    def _ask(self, request: memoryview, expected: int, seconds: float, what: Callable[[], str]) -> None:
        """Make one round trip: afterwards the answer buffer holds an OK with a payload of `expected` bytes.

        Raises PolicyError; `what()` says what was asked for.
        """
        try:
            self._deadline = time.monotonic() + seconds
            self._cpu_deadline = _cpu_time(self._process.pid) + seconds
            self._last_deadline = self._deadline + PATIENCE
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
            missing = self._cpu_deadline - _cpu_time(self._process.pid)
            if missing <= 0 or self._deadline >= self._last_deadline:
                raise TimeoutError
            self._deadline = min(time.monotonic() + missing, self._last_deadline)

    def _where(self) -> str:
        steps = ", ".join(map(str, self._t[:5])) + (f", ... ({self._rows} rows)" if self._rows > 5 else "")
        return f"policy(obs, t) at t={steps}"

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions, (N, *action shape), clipped to the bounds, as a new array; PolicyError for a bad one."""
        good = (actions >= self._least) & (actions <= self._most)
        if not good.all():
            row, *index = np.argwhere(~good)[0].tolist()
            at = tuple(index)
            name = "action" + (f"[{', '.join(map(str, at))}]" if at else "")
            raise PolicyError(
                f"policy(obs, t) returned {name} = {float(actions[row][at])!r} at t={self._t[row]}; it must be finite "
                f"and within [{self._low[at]}, {self._high[at]}]"
            )
        return np.minimum(np.maximum(actions, self._low), self._high)


def _cpu_time(pid: int) -> float:
    """Return the CPU seconds of a child process, from an arbitrary origin; wall-clock seconds where nobody tells."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) does on Linux
    except OSError:
        return time.monotonic()


def _destroy(process: subprocess.Popen, owner: int) -> None:
    """End the child: kill its process group, close the pipes, reap it; in a forked copy of the owner close only."""
    mine = os.getpid() == owner
    if mine:  # not reaped before this, so its number cannot belong to anybody else
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS, where all of the group is dead already
            os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.stdout.close()
    if mine:
        process.wait()


# --- the child's side ---


def _child_main() -> None:
    """Take the setup from fd 0, confine this process, load the policy, then answer requests until the pipe ends."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)

    header = _read(requests, bytearray(REQUEST.size))
    kind, _, size = REQUEST.unpack(header)
    if kind != SETUP:
        raise ValueError(f"expected a setup, got a request of kind {kind}")
    setup = json.loads(_read(requests, bytearray(size)))
    warnings.simplefilter("ignore")
    # After _confine no file can be opened, so whatever honest code makes Python or numpy load lazily is loaded here:
    # unicodedata for names such as θ, the others for attributes of np.
    for name in ("unicodedata", "numpy.fft", "numpy.linalg", "numpy.ma", "numpy.polynomial", "numpy.random"):
        importlib.import_module(name)
    _confine(setup["memory_mb"], setup["parent_pid"], files=max(requests, answers) + 1)

    np.random.seed(setup["seed"])
    # Where numpy's generators take their entropy from when the policy gives them no seed.
    np.random.bit_generator.randbits = random.Random(setup["seed"]).getrandbits
    source = setup["source"]
    try:
        policy = _load(source)
    except BaseException as error:  # on purpose: a policy may raise SystemExit or worse
        _answer_error(answers, _describe(error, "the top level of the source", source))
        return
    _write(answers, memoryview(ANSWER.pack(OK, 0)))
    _serve(policy, source, requests, answers, tuple(setup["obs_shape"]), tuple(setup["action_shape"]))


def _confine(memory_mb: int, parent_pid: int | None, files: int) -> None:
    """Give up what a policy does not need; `files` is the number of descriptors in use, so that no more can be opened.

    Exits when the parent, whose death is to end this process, is dead already.
    """
    if sys.platform == "linux" and parent_pid is not None:
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        arguments = [ctypes.c_ulong(value) for value in (signal.SIGKILL, 0, 0, 0)]
        if ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, *arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent_pid:
            os._exit(0)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: files,
        resource.RLIMIT_NPROC: 0,  # root is exempt
    }
    if sys.platform == "linux":  # macOS refuses a limit on address space
        limits[resource.RLIMIT_AS] = memory_mb * 2**20
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _load(source: str) -> Callable[[np.ndarray, int], object]:
    """Execute the source with few builtins and return its `policy`; raises whatever the source raises."""
    allowed = {name: getattr(builtins, name) for name in SAFE_BUILTINS.split()}
    for name, value in vars(builtins).items():
        if isinstance(value, type) and issubclass(value, BaseException):
            allowed[name] = value
    allowed["print"] = lambda *values, **options: None
    allowed["__import__"] = _import
    scope = {"__builtins__": allowed, "__name__": "policy", "np": np, "math": math}
    exec(compile(source, SOURCE_NAME, "exec"), scope)
    policy = scope.get("policy")
    if not callable(policy):
        raise PolicyError("leaves something in `policy` that cannot be called")
    return policy


def _import(name: str, scope=None, local_scope=None, wanted=(), level: int = 0) -> object:
    """Import math or numpy and nothing else."""
    # Submodules too, which check_source refuses: numpy's C code imports its helpers by way of the caller's builtins.
    if level or name.partition(".")[0] not in ALLOWED_MODULES:
        raise ImportError(f"import of {name!r} is refused: only math and numpy are allowed")
    return __import__(name, scope, local_scope, wanted, level)


def _serve(
    policy: Callable[[np.ndarray, int], object],
    source: str,
    requests: int,
    answers: int,
    obs_shape: tuple[int, ...],
    action_shape: tuple[int, ...],
) -> None:
    """Answer step requests for ever; EOFError when the parent has closed the pipe."""
    header, payload = bytearray(REQUEST.size), bytearray()
    known_rows, steps, obs, actions, answer = 0, None, None, None, None
    while True:
        _read(requests, header)
        kind, rows, size = REQUEST.unpack(header)
        if rows != known_rows:
            obs_size, action_size = math.prod(obs_shape), math.prod(action_shape)
            payload = bytearray(8 * rows * (1 + obs_size))
            steps = np.frombuffer(payload, "<i8", rows)  # (N,)
            obs = np.frombuffer(payload, "<f8", rows * obs_size, 8 * rows).reshape(rows, *obs_shape)
            reply = bytearray(ANSWER.size + 8 * rows * action_size)
            ANSWER.pack_into(reply, 0, OK, 8 * rows * action_size)
            actions = np.frombuffer(reply, "<f8", rows * action_size, ANSWER.size).reshape(rows, *action_shape)
            answer = memoryview(reply)
            known_rows = rows
        if kind != STEP or size != len(payload):
            raise ValueError(f"malformed request: kind {kind}, {rows} rows, {size} bytes")
        _read(requests, payload)
        row = 0
        try:
            for row in range(rows):
                result = policy(np.array(obs[row]), int(steps[row]))
                actions[row] = _as_action(result, action_shape)
        except BaseException as error:  # on purpose: a policy may raise SystemExit or worse
            _answer_error(answers, _describe(error, f"policy(obs, t) at t={steps[row]}", source))
        else:
            _write(answers, answer)


def _as_action(result: object, shape: tuple[int, ...]) -> np.ndarray:
    """Return a policy's result as real numbers of this shape, or of shape () for (1,); PolicyError otherwise."""
    try:
        action = np.asarray(result)
    except ValueError as error:  # lists of unequal lengths
        raise PolicyError(f"returned a {type(result).__name__} that is no array: {error}") from None
    if action.dtype.kind not in "biuf":  # also keeps numpy from reading numbers out of strings and NaN out of None
        raise PolicyError(f"returned a {type(result).__name__}, expected an array of real numbers of shape {shape}")
    if action.shape != shape and (action.shape, shape) != ((), (1,)):
        raise PolicyError(f"returned shape {action.shape}, expected {shape}")
    return action


def _describe(error: BaseException, where: str, source: str) -> str:
    """Say what a policy did, with the lines of its source that its traceback passed through."""
    try:
        if type(error) is PolicyError:
            return f"{where} {error}"
        text = f"{where} raised {type(error).__name__[:100]}: {str(error)[:500]}".rstrip(": ")
        lines = source.split("\n")
        passed = [
            f"  line {number}, in {frame.f_code.co_name[:50]}: {lines[number - 1].strip()[:120]}"
            for frame, number in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_filename == SOURCE_NAME
        ]
        if len(passed) > 6:
            passed[3:-3] = [f"  ... {len(passed) - 6} more ..."]
        return "\n".join([text, *passed])
    except BaseException:  # on purpose: str(error) may be the policy's own code
        return f"{where} raised an error that cannot be shown"


def _answer_error(answers: int, text: str) -> None:
    payload = text[:MAX_TEXT_CHARS].encode("utf-8", "replace")
    _write(answers, memoryview(ANSWER.pack(ERROR, len(payload)) + payload))


def _read(descriptor: int, buffer: bytearray) -> bytearray:
    """Fill the buffer and return it; EOFError when the pipe ends first."""
    view = memoryview(buffer)
    while view:
        count = os.readv(descriptor, [view])
        if not count:
            raise EOFError
        view = view[count:]
    return buffer


def _write(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    try:
        _child_main()
    except EOFError:  # the parent is gone
        os._exit(0)
