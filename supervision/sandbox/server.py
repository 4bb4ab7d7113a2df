"""A rule's process once it can import: it gives up what a rule does not need, loads the rule and answers requests.

Here an error is a message, an endless loop is a missed deadline and a crash is an end of file; each of them is an error
in the parent (policy.py).
"""

from __future__ import annotations

import math
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from supervision.sandbox import confinement
from supervision.sandbox.lanes import Lanes
from supervision.sandbox.language import SOURCE_NAME
from supervision.sandbox.messages import FIRST_CALL_TIMEOUT, PATIENCE, RENEW_AFTER, Observation, PolicyError
from supervision.sandbox.wire import (
    ANSWER,
    LOAD,
    OK,
    REQUEST,
    STEP,
    answer_error,
    answer_ok,
    read,
    receive,
    write,
)


def confine(setup: dict[str, Any], requests: int, answers: int) -> None:
    """Seed numpy, and give up for good what a policy does not need.

    Raises:
        RuntimeError: the kernel refuses a layer of the confinement.
    """
    np.random.seed(setup["seed"])
    # Where numpy's generators take their entropy from when the policy gives them no seed.
    np.random.bit_generator.randbits = random.Random(setup["seed"]).getrandbits
    for number in (signal.SIGPROF, signal.SIGXCPU):  # the parent may have left them ignored or blocked
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        if sys.platform == "linux":
            confinement.die_with_parent(setup["lifeline"])
        files = max(requests, answers, setup["lifeline"]) + 1
        confinement.confine(setup["layers"], setup["memory_mb"], files=files)
    except (OSError, ValueError) as error:  # ValueError: from setrlimit
        raise RuntimeError(f"it could not be confined: {error}") from None


def serve(setup: dict[str, Any], requests: int, answers: int) -> None:
    """Load the policy and answer step requests for ever; EOFError when the parent has closed the pipe."""
    layers = setup["layers"]
    renewal, granted, timer = -math.inf, 0.0, "limits" in layers and sys.platform != "linux"

    def cpu_limit(seconds: float) -> None:
        """Have the kernel end this process when it computes for this long, and some more, without an answer.

        The parent's deadline comes first; this one holds where the parent is gone. On Linux the parent sees to it.
        """
        nonlocal renewal, granted
        now = time.monotonic()
        if timer and (now >= renewal or seconds != granted):  # not at every call: it takes a system call
            renewal, granted = now + RENEW_AFTER, seconds
            signal.setitimer(signal.ITIMER_PROF, seconds + RENEW_AFTER + PATIENCE)

    load = receive(requests, LOAD)
    source = load["source"]
    cpu_limit(setup["start_timeout"])
    try:
        lanes = Lanes(source, setup["seed"], "language" in layers, load["keeps_state"], load["draws"])
    except BaseException as error:  # on purpose: a policy may raise SystemExit or worse
        answer_error(answers, _describe(error, "the top level of the source", source))
        return
    answer_ok(answers)
    _answer_steps(
        lanes, source, requests, answers, Observation(*setup["observation"]), setup["action_shape"], setup["expected"],
        lambda rows: cpu_limit(max(FIRST_CALL_TIMEOUT, rows * setup["call_timeout"])),
    )  # fmt: skip


def _answer_steps(
    lanes: Lanes,
    source: str,
    requests: int,
    answers: int,
    observation: Observation,
    action_shape: list[int] | None,
    expected: str,
    cpu_limit: Callable[[int], None],
) -> None:
    """Answer step requests for ever; EOFError when the parent has closed the pipe.

    Args:
        action_shape: shape of an action; None: a discrete one.
        expected: what an action must be, for messages.
        cpu_limit: called before the rows of a request are computed, with their number.
    """
    request = bytearray(REQUEST.size)
    known_rows, heads, obs, actions, answer = 0, None, None, None, None
    row_shape, discrete, shape = observation.row_shape, action_shape is None, tuple(action_shape or ())
    obs_size, action_size = math.prod(row_shape), math.prod(shape)
    while True:
        got = read(requests, request, least=REQUEST.size)  # all of it at once, where the last one had as many rows
        kind, rows, size = REQUEST.unpack_from(request)
        if rows != known_rows:
            begun = request[:got]
            request = bytearray(REQUEST.size + 8 * rows * (3 + obs_size))
            request[:got] = begun
            heads = np.frombuffer(request, "<i8", 3 * rows, REQUEST.size).reshape(3, rows)  # lanes, episodes, steps
            obs = np.frombuffer(request, observation.dtype, rows * obs_size, REQUEST.size + 24 * rows)
            obs = obs.reshape(rows, *row_shape)
            reply = bytearray(ANSWER.size + 8 * rows * action_size)
            ANSWER.pack_into(reply, 0, OK, 8 * rows * action_size)
            actions = np.frombuffer(reply, "<i8" if discrete else "<f8", rows * action_size, ANSWER.size)
            actions = actions.reshape(rows, *shape)
            answer = memoryview(reply)
            known_rows = rows
        if kind != STEP or size != len(request) - REQUEST.size:
            raise ValueError(f"malformed request: kind {kind}, {rows} rows, {size} bytes")
        read(requests, request, got)
        cpu_limit(rows)
        step = 0
        try:
            for row, (lane, episode, step) in enumerate(heads.T.tolist()):
                rule = lanes.rule(lane, episode)
                result = rule(observation.own(obs[row]), step)
                actions[row] = _as_integer(result, expected) if discrete else _as_array(result, shape, expected)
        except BaseException as error:  # on purpose: a policy may raise SystemExit or worse
            answer_error(answers, _describe(error, f"policy(obs, t) at t={step}", source))
        else:
            write(answers, answer)


def _as_integer(result: object, expected: str) -> int:
    """Return a policy's result as an integer of 64 bits; PolicyError for anything else, floats and bools among it."""
    if type(result) is not int:
        array = isinstance(result, np.ndarray | np.generic)
        if not array or result.shape != () or result.dtype.kind not in "iu":
            what = f"{result.dtype} of shape {result.shape}" if array else f"a {type(result).__name__}"
            raise PolicyError(f"returned {what}, expected {expected}")
        result = int(result)
    if not -(2**63) <= result < 2**63:
        raise PolicyError(f"returned an integer of more than 64 bits, expected {expected}")
    return result


def _as_array(result: object, shape: tuple[int, ...], expected: str) -> np.ndarray:
    """Return a policy's result as real numbers of this shape, or of shape () for (1,); PolicyError otherwise."""
    try:
        action = np.asarray(result)
    except ValueError as error:  # lists of unequal lengths
        raise PolicyError(f"returned a {type(result).__name__} that is no array: {error}") from None
    if action.dtype.kind not in "biuf":  # also keeps numpy from reading numbers out of strings and NaN out of None
        raise PolicyError(f"returned a {type(result).__name__}, expected {expected}")
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
