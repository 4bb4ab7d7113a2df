"""The form of the messages between a rule's process and its parent.

Little-endian, strictly one request and then one answer; nothing is ever unpickled:
    request  kind u8, 3 zero bytes, rows u32, payload bytes u64, payload
             SETUP (rows 0): JSON with where modules are, the spaces and the limits
             LOAD (rows 0): JSON with the source and what the parent found out about it
             STEP: lanes, episodes' numbers and episodes' steps, rows x i64 each, then observations, rows x row shape,
             f64 or (discrete) i64
    answer   status u8, 3 zero bytes, payload bytes u32, payload
             OK: nothing after SETUP and LOAD, actions after STEP, rows x action shape f64 or (discrete) rows x i64
             ERROR: UTF-8 text
"""

import json
import os
import struct

REQUEST = struct.Struct("<B3xIQ")
SETUP, LOAD, STEP = 1, 2, 3
ANSWER = struct.Struct("<B3xI")
OK, ERROR = 1, 2
MAX_TEXT_CHARS = 2_000
MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS  # UTF-8 needs at most 4 bytes a character


def receive(descriptor: int, expected: int) -> object:
    """Read a request whose payload is JSON.

    Raises:
        EOFError: the pipe ended.
        ValueError: it is a request of another kind.
    """
    header = bytearray(REQUEST.size)
    read(descriptor, header)
    kind, _, size = REQUEST.unpack(header)
    if kind != expected:
        raise ValueError(f"expected a request of kind {expected}, got {kind}")
    payload = bytearray(size)
    read(descriptor, payload)
    return json.loads(payload)


def answer_ok(answers: int) -> None:
    """Answer a request that asked for nothing but its success."""
    write(answers, memoryview(ANSWER.pack(OK, 0)))


def answer_error(answers: int, text: str) -> None:
    """Answer with what went wrong, cut to its largest length."""
    payload = text[:MAX_TEXT_CHARS].encode("utf-8", "replace")
    write(answers, memoryview(ANSWER.pack(ERROR, len(payload)) + payload))


def read(descriptor: int, buffer: bytearray, filled: int = 0, least: int | None = None) -> int:
    """Go on filling the buffer until at least `least` bytes (all, by default) are there; return how many are.

    EOFError when the pipe ends first.
    """
    view, least = memoryview(buffer), len(buffer) if least is None else least
    while filled < least:
        count = os.readv(descriptor, [view[filled:]])
        if not count:
            raise EOFError
        filled += count
    return filled


def write(descriptor: int, view: memoryview) -> None:
    """Write all of it."""
    while view:
        view = view[os.write(descriptor, view) :]
