"""The key of a model server: where it is read from, and how it is kept from everything but the server."""

import ctypes
import os
import re
import resource
from pathlib import Path

VARIABLE, FILE = "OPENAI_API_KEY", "OPENAI_API_KEY_FILE"
KEPT_FROM_CHILDREN = (VARIABLE, FILE)


def key_is_given() -> bool:
    """Whether the environment holds a key or names a file with one."""
    return any(os.environ.get(name, "").strip() for name in (VARIABLE, FILE))


def read_key() -> str:
    """The key, or "" where none is given. While a process holds one, it writes no core dump.

    Raises:
        ValueError: a key that no header can hold, a file that cannot be read or that others may read, or both.
    """
    key, path = os.environ.get(VARIABLE, "").strip(), os.environ.get(FILE, "").strip()
    if key and path:
        raise ValueError(f"{VARIABLE} and {FILE} are both set: unset one of them")
    if path:
        key = _read_file(Path(path).expanduser())
    if not re.fullmatch(r"[!-~]*", key):
        raise ValueError(f"{FILE if path else VARIABLE} must be one word of ASCII characters; it holds a space or "
                         "another sign")  # fmt: skip
    if key:
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        # 1: too little for a file, and where the kernel pipes dumps to a program, its sign that there shall be none
        resource.setrlimit(resource.RLIMIT_CORE, (1 if most == resource.RLIM_INFINITY else min(1, most), most))
    return key


def _read_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise ValueError(f"{FILE} {path} may be read by others (mode {mode:o}): chmod 600 {path}")
            key = file.read(10_000).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{FILE} {path} cannot be read: {reason}") from None
    if not key:
        raise ValueError(f"{FILE} {path} is empty: write the key to it")
    return key


def forget_key() -> None:
    """Take the key out of the environment, and out of /proc/<pid>/environ, which a removal from os.environ leaves."""
    key = os.environ.get(VARIABLE)
    if key is None:
        return
    entry = os.fsencode(f"{VARIABLE}={key}")
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    if address := getenv(os.fsencode(VARIABLE)):
        ctypes.memset(address, 0, len(os.fsencode(key)))
    _overwrite_initial(entry)
    os.environ.pop(VARIABLE, None)


def _overwrite_initial(entry: bytes) -> None:
    """Overwrite a variable where the kernel put it at the start; getenv may know of a copy only.

    Linux alone shows that place to others; elsewhere there is nothing to do.
    """
    try:
        shown = Path("/proc/self/environ").read_bytes()
        start = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[47])  # env_start, man 5 proc
    except (OSError, ValueError, IndexError):
        return
    position = 0 if shown.startswith(entry + b"\0") else shown.find(b"\0" + entry + b"\0") + 1
    found = shown.startswith(entry + b"\0") or position > 0
    if found and start and ctypes.string_at(start + position, len(entry)) == entry:
        name = entry.index(b"=") + 1
        ctypes.memset(start + position + name, 0, len(entry) - name)
