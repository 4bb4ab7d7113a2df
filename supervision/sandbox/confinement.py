"""Layer 2 of the sandbox: what the operating system takes from a rule's process, docs/sandbox.md.

Limits on memory, file size, open files and processes; on Linux no capabilities, no new privileges, Landlock without a
single rule, and a seccomp filter that leaves the system calls that computing takes. The CPU time is limited by the
parent (policy.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import resource
import select
import signal
import struct
import sys

# From the kernel's headers (linux/seccomp.h, linux/filter.h, linux/audit.h, linux/landlock.h, linux/prctl.h).
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
SECCOMP_SET_FILTER, SECCOMP_ACTION_AVAILABLE = 1, 2
SECCOMP_ALL_THREADS = 1
SECCOMP_KILL, SECCOMP_ALLOW, SECCOMP_FAIL = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
LOAD, IF_EQUAL, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # the four instructions used of the filter's machine
NUMBER, ARCHITECTURE, THIRD = 0, 4, 32  # offsets in struct seccomp_data: nr, arch, low half of args[2]
PROT_EXEC = 4
# What malloc and numpy ask for: DONTNEED, FREE, HUGEPAGE. Not what shares memory, keeps it from forks or poisons it.
ADVICE = (4, 8, 14)
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, LANDLOCK_VERSION = 444, 446, 1
SYSTEM_CALLS = {  # what computing takes: memory, the two pipes, the clock, the end
    "x86_64": {
        "architecture": 0xC000003E,
        "seccomp": 317,
        "allowed": {
            "write": 1, "munmap": 11, "brk": 12, "rt_sigreturn": 15, "readv": 19, "sched_yield": 24, "mremap": 25,
            "futex": 202, "clock_gettime": 228, "exit_group": 231,
        },
        "allowed with some advice": {"madvise": 28},
        "allowed unless executable": {"mmap": 9, "mprotect": 10},
    },
    "aarch64": {
        "architecture": 0xC00000B7,
        "seccomp": 277,
        "allowed": {
            "write": 64, "munmap": 215, "brk": 214, "rt_sigreturn": 139, "readv": 65, "sched_yield": 124, "mremap": 216,
            "futex": 98, "clock_gettime": 113, "exit_group": 94,
        },
        "allowed with some advice": {"madvise": 233},
        "allowed unless executable": {"mmap": 222, "mprotect": 226},
    },
}  # fmt: skip


@functools.cache
def missing_layers() -> dict[str, str]:
    """Return what this machine cannot enforce of the operating system's layer, with the reason; it changes nothing."""
    if sys.platform != "linux":
        reason = f"{sys.platform} does not offer it"
        return {"address space": "it has no limit", "landlock": reason, "seccomp": reason}
    missing = {}
    if _libc().syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION) < 1:
        missing["landlock"] = f"the kernel refuses it: {os.strerror(ctypes.get_errno())}"
    machine = os.uname().machine
    if machine not in SYSTEM_CALLS or sys.maxsize < 2**32:
        missing["seccomp"] = f"no filter is written for {machine} with {sys.maxsize.bit_length() + 1}-bit Python"
    elif _libc().syscall(
        SYSTEM_CALLS[machine]["seccomp"], SECCOMP_ACTION_AVAILABLE, 0, ctypes.byref(ctypes.c_uint32(SECCOMP_KILL))
    ):
        missing["seccomp"] = f"the kernel refuses it: {os.strerror(ctypes.get_errno())}"
    return missing


def check_platform(strict: bool) -> None:
    """Say, once in a process, what this machine cannot enforce; with `strict` raise a ValueError instead.

    Raises:
        ValueError: NumPy is older than the one whose names the rules' language has.
    """
    import numpy as np  # here: the rule's process imports it later, when it is confined

    if int(np.__version__.partition(".")[0]) < 2:
        raise ValueError(
            f"rules need NumPy 2 or newer, and this is {np.__version__}, as another package may ask for: "
            "pip install --upgrade numpy; --supervisor none trains without rules"
        )
    missing = "; ".join(f"{layer}: {reason}" for layer, reason in missing_layers().items())
    if missing and strict:
        raise ValueError(f"the strict sandbox needs what this machine lacks ({missing}); use auto to run without it")
    if missing:
        _say_once(f"policy sandbox: this machine lacks a part of the confinement ({missing}); see docs/sandbox.md")


def check_model_rules(sandbox: str) -> None:
    """Refuse to run rules that a model writes where the filter of system calls is missing, which carries this layer.

    Raises:
        ValueError: it is missing, and `sandbox` does not accept that.
    """
    reason = missing_layers().get("seccomp")
    if reason and sandbox != "weak":
        raise ValueError(
            f"this machine cannot confine a rule's process (seccomp: {reason}), so no rule that a model wrote is run "
            "here unread. --sandbox weak accepts that risk; --supervisor bundled and --guide-policy FILE run rules "
            "that people have read"
        )


@functools.cache
def _say_once(text: str) -> None:
    print(text, flush=True)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def confine(layers: list[str], memory_mb: int, files: int) -> None:
    """Give up for good what a policy does not need; OSError where the kernel refuses.

    Args:
        files: the number of descriptors in use, so that no more can be opened.
    """
    if "limits" in layers and sys.platform == "linux":
        # Where memory runs out, the kernel is to end this process and not the trainer. /proc may be read-only.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjustment:
            adjustment.write("1000")
    if "landlock" in layers:
        _deny_files_and_signals()
    if "limits" in layers:
        limits = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NOFILE: files,
            resource.RLIMIT_NPROC: 0,  # root is exempt
            resource.RLIMIT_AS: memory_mb * 2**20,
        }
        if sys.platform != "linux":  # macOS refuses it
            del limits[resource.RLIMIT_AS]
        for which, value in limits.items():
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        if sys.platform == "linux":
            _drop_capabilities()
    if "seccomp" in layers:
        _filter_system_calls()


def _require(result: int, what: str) -> int:
    """Pass a system call's result on; OSError where it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _no_new_privileges() -> None:
    arguments = [ctypes.c_ulong(value) for value in (1, 0, 0, 0)]
    _require(_libc().prctl(PR_SET_NO_NEW_PRIVS, *arguments), "no_new_privs")


def _drop_capabilities() -> None:
    """Give up what root may do, now and after any change of the program; for all others there is nothing to give up."""
    for capability in range(64):
        _libc().prctl(PR_CAPBSET_DROP, *[ctypes.c_ulong(value) for value in (capability, 0, 0, 0)])  # some do not exist
    _libc().prctl(PR_CAP_AMBIENT, *[ctypes.c_ulong(value) for value in (PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)])
    header, none = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)  # effective, permitted, inheritable, twice
    _require(_libc().capset(header, none), "capabilities")


def _deny_files_and_signals() -> None:
    """Landlock: a ruleset that handles everything this kernel knows about and allows nothing of it."""
    _no_new_privileges()
    version = _libc().syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    files = 2 ** {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16) - 1  # kinds of access to files and folders
    network = 0b11 if version >= 4 else 0  # TCP: bind, connect
    scoped = 0b11 if version >= 6 else 0  # abstract UNIX sockets, signals to processes outside
    attributes = struct.pack("=QQQ", files, network, scoped)  # an older kernel accepts a longer one that ends in zeros
    ruleset = _require(_libc().syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0), "Landlock's ruleset")
    _require(_libc().syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _filter_system_calls() -> None:
    """seccomp: fail every system call but a few with EPERM, in all threads and for good.

    The filter is a program for the kernel's classic BPF machine; it sees the number and the raw arguments of a call.
    """
    calls = SYSTEM_CALLS[os.uname().machine]

    def instruction(code: int, value: int, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, skip_if_true, skip_if_false, value)

    program = [
        instruction(LOAD, ARCHITECTURE),  # numbers mean other calls in the 32-bit tables
        instruction(IF_EQUAL, calls["architecture"], skip_if_true=1),
        instruction(RETURN, SECCOMP_KILL),
        instruction(LOAD, NUMBER),
    ]
    for number in calls["allowed"].values():
        program += [instruction(IF_EQUAL, number, skip_if_false=1), instruction(RETURN, SECCOMP_ALLOW)]
    for number in calls["allowed unless executable"].values():  # no new machine code
        program += [
            instruction(IF_EQUAL, number, skip_if_false=4),
            instruction(LOAD, THIRD),  # the protection
            instruction(IF_ANY_BIT, PROT_EXEC, skip_if_true=1),
            instruction(RETURN, SECCOMP_ALLOW),
            instruction(RETURN, SECCOMP_FAIL),
        ]
    for number in calls["allowed with some advice"].values():
        known = len(ADVICE)
        program += [instruction(IF_EQUAL, number, skip_if_false=known + 3), instruction(LOAD, THIRD)]
        program += [instruction(IF_EQUAL, advice, skip_if_true=known - i) for i, advice in enumerate(ADVICE)]
        program += [instruction(RETURN, SECCOMP_FAIL), instruction(RETURN, SECCOMP_ALLOW)]
    program.append(instruction(RETURN, SECCOMP_FAIL))

    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))  # struct sock_fprog
    _no_new_privileges()
    result = _libc().syscall(calls["seccomp"], SECCOMP_SET_FILTER, SECCOMP_ALL_THREADS, header)
    _require(-abs(result), "seccomp")  # a positive number is that of a thread that it could not reach


def die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process when the write end of its lifeline, which the parent holds, is closed.

    That needs no cooperation of this process, be it in an endless loop of C code, and unlike PR_SET_PDEATHSIG it is
    tied to the parent's life and not to that of the thread which started this process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    poller = select.poll()
    poller.register(lifeline, 0)
    if poller.poll(0):  # closed already, before there was a signal to be had
        os._exit(0)
