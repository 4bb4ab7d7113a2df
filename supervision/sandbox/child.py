"""A rule's process, from its start as a file (`python -I child.py`) until it is ready to be confined.

With `-I` neither this file's folder nor what PYTHONPATH names is importable: until the first message has told where the
parent finds its modules, there is the standard library and nothing else. So the form of the messages stands here.

Messages, little-endian, strictly one request and then one answer; nothing is ever unpickled:
    request  kind u8, 3 zero bytes, rows u32, payload bytes u64, payload
             SETUP (rows 0): JSON with where modules are, the spaces and the limits
             LOAD (rows 0): JSON with the source and what the parent found out about it
             STEP: lanes, episodes' numbers and episodes' steps, rows x i64 each, then observations, rows x row shape,
             f64 or (discrete) i64
    answer   status u8, 3 zero bytes, payload bytes u32, payload
             OK: nothing after SETUP and LOAD, actions after STEP, rows x action shape f64 or (discrete) rows x i64
             ERROR: UTF-8 text
"""

import importlib
import json
import os
import struct
import sys
import tempfile
import warnings
from types import ModuleType

REQUEST = struct.Struct("<B3xIQ")
SETUP, LOAD, STEP = 1, 2, 3
ANSWER = struct.Struct("<B3xI")
OK, ERROR = 1, 2
MAX_TEXT_CHARS = 2_000
MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS  # UTF-8 needs at most 4 bytes a character


def main() -> None:
    """Do as the setup on fd 0 says, load the policy, then answer requests on fd 1 until the pipe ends."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    setup = receive(requests, SETUP)
    warnings.simplefilter("ignore")
    try:
        _leave_every_folder()
        server = _import_server(setup["path"], setup["package"])
        server.confine(setup, requests, answers)
    except Exception as error:  # on purpose: whatever keeps this process from its start, the parent must be told
        answer_error(answers, str(error) or type(error).__name__)
        return
    answer_ok(answers)
    server.serve(setup, requests, answers)


def _leave_every_folder() -> None:
    """Go to an empty folder that is unlinked: nothing can be created in it, and nothing stays, whoever is killed."""
    folder = tempfile.mkdtemp(prefix="policy_sandbox_", dir=os.getcwd())
    os.chdir(folder)
    os.rmdir(folder)


def _import_server(path: list[str], package: str) -> ModuleType:
    """Import what will be needed, as the parent would; once this process is confined it can open no file.

    Args:
        path: the parent's `sys.path`, of absolute folders.
        package: the folder in which this package lies; it need not be on the path.
    """
    sys.path[:] = path
    # what honest code makes Python or numpy load lazily: unicodedata for names such as θ, numpy.ma for np.median
    for name in ("unicodedata", "numpy", "numpy.ma", "numpy.random"):
        importlib.import_module(name)
    sys.path.insert(0, package)  # only now, lest it change which numpy is found
    server = importlib.import_module("supervision.sandbox.server")
    del sys.path[0]
    return server


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


if __name__ == "__main__":
    try:
        main()
    except EOFError:  # the parent is gone
        os._exit(0)
