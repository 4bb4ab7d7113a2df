"""Layer 2 of the sandbox: what the operating system takes from a rule's process, docs/sandbox.md.

Limits on memory, file size, open files, processes and CPU time; on Linux no new privileges, Landlock without a single
rule, and a seccomp filter that leaves the system calls that computing takes.
"""

from __future__ import annotations

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
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_FILTER, SECCOMP_ACTION_AVAILABLE = 1, 2
SECCOMP_ALL_THREADS = 1
SECCOMP_KILL, SECCOMP_ALLOW, SECCOMP_FAIL = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
LOAD, IF_EQUAL, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # the four instructions used of the filter's machine
NUMBER, ARCHITECTURE, PROTECTION = 0, 4, 32  # offsets in struct seccomp_data: nr, arch, low half of args[2]
PROT_EXEC = 4
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, LANDLOCK_VERSION = 444, 446, 1
SYSTEM_CALLS = {  # what computing takes: memory, the two pipes, the clock and the CPU timer, the end
    "x86_64": {
        "architecture": 0xC000003E,
        "seccomp": 317,
        "allowed": {
            "write": 1, "munmap": 11, "brk": 12, "rt_sigreturn": 15, "readv": 19, "sched_yield": 24, "mremap": 25,
            "madvise": 28, "setitimer": 38, "futex": 202, "clock_gettime": 228, "exit_group": 231,
        },
        "allowed unless executable": {"mmap": 9, "mprotect": 10},
    },
    "aarch64": {
        "architecture": 0xC00000B7,
        "seccomp": 277,
        "allowed": {
            "write": 64, "munmap": 215, "brk": 214, "rt_sigreturn": 139, "readv": 65, "sched_yield": 124, "mremap": 216,
            "madvise": 233, "setitimer": 103, "futex": 98, "clock_gettime": 113, "exit_group": 94,
        },
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
    """Say, once in a process, what this machine cannot enforce; with `strict` raise a ValueError instead."""
    missing = "; ".join(f"{layer}: {reason}" for layer, reason in missing_layers().items())
    if missing and strict:
        raise ValueError(f"the strict sandbox needs what this machine lacks ({missing}); use auto to run without it")
    if missing:
        _say_once(f"policy sandbox: this machine lacks a part of the confinement ({missing}); see docs/sandbox.md")


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
            instruction(LOAD, PROTECTION),
            instruction(IF_ANY_BIT, PROT_EXEC, skip_if_true=1),
            instruction(RETURN, SECCOMP_ALLOW),
            instruction(RETURN, SECCOMP_FAIL),
        ]
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
