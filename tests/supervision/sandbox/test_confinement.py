"""The operating system's layer, and what is said and refused where a machine lacks it."""

import os
import resource
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from sandboxed import HARMLESS, body, call, make, needs_linux, nothing_left, pid_of  # noqa: F401

from supervision.sandbox import confinement
from supervision.sandbox import policy as sandbox
from supervision.sandbox.messages import SandboxError

pytestmark = needs_linux


@pytest.mark.skipif("seccomp" in confinement.missing_layers(), reason="no seccomp here")
def test_every_other_system_call_is_refused(monkeypatch):
    """All numbers but the allowed ones, the x32 ones and memory that can be executed among them."""
    calls = confinement.SYSTEM_CALLS[os.uname().machine]
    # The last two are the kernel's own (x86-64): return points of its probes, let past every filter, and whoever calls
    # them from elsewhere is killed.
    allowed = [*calls["allowed"].values(), *calls["allowed unless executable"].values(), 335, 336]
    mmap, mprotect = calls["allowed unless executable"].values()
    source = f"import ctypes, errno\nallowed = {allowed}\n" + body(
        f"""
        call = ctypes.CDLL(None, use_errno=True).syscall
        def refused(*arguments):
            ctypes.set_errno(0)
            return call(*map(ctypes.c_long, arguments)) == -1 and ctypes.get_errno() == errno.EPERM
        x32 = 0x40000000
        assert all(refused(n, *[0] * 6) for n in range(1000) if n not in allowed)
        assert all(refused(n + x32, *[0] * 6) for n in range(1000))
        assert refused({mmap}, 0, 4096, 7, 0x22, -1, 0)
        memory = call(*map(ctypes.c_long, ({mmap}, 0, 4096, 3, 0x22, -1, 0)))
        assert not refused({mprotect}, 0, 0, 1)
        assert refused({mprotect}, 0, 0, 5)
        return [0.0, 0.0]
        """
    )
    monkeypatch.setattr(sandbox, "_switched_off", ("language",))
    with make(source) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]
        status = Path(f"/proc/{pid_of(policy)}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert "Threads:\t1" in status


@pytest.mark.skipif("seccomp" in confinement.missing_layers(), reason="no seccomp here")
def test_memory_is_advised_of_nothing_but_what_malloc_asks(monkeypatch):
    calls = confinement.SYSTEM_CALLS[os.uname().machine]
    madvise, mmap = calls["allowed with some advice"]["madvise"], calls["allowed unless executable"]["mmap"]
    source = "import ctypes, errno\n" + body(
        f"""
        call = ctypes.CDLL(None, use_errno=True).syscall
        call.restype = ctypes.c_long
        address = call(*map(ctypes.c_long, ({mmap}, 0, 4096, 3, 0x22, -1, 0)))
        def refused(advice):
            ctypes.set_errno(0)
            arguments = map(ctypes.c_long, ({madvise}, address, 4096, advice))
            return call(*arguments) == -1 and ctypes.get_errno() == errno.EPERM
        assert [advice for advice in range(130) if not refused(advice)] == {list(confinement.ADVICE)}
        return [0.0, 0.0]
        """
    )
    monkeypatch.setattr(sandbox, "_switched_off", ("language",))
    with make(source) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]


def test_the_child_has_no_capabilities_and_is_the_first_to_go_when_memory_runs_out():
    with make(HARMLESS) as policy:
        call(policy, 0)
        status = Path(f"/proc/{pid_of(policy)}/status").read_text().splitlines()
        sets = dict(line.split(":\t") for line in status if line.startswith("Cap"))
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(sets[name], 16) == 0
        if os.geteuid() == 0:  # only who has a right can shrink what may be won back
            assert int(sets["CapBnd"], 16) == 0
        assert Path(f"/proc/{pid_of(policy)}/oom_score_adj").read_text() == "1000\n"


def test_the_limit_of_cpu_time_is_the_parent_s_and_moves_on(monkeypatch):
    """The kernel ends a child that computes on while nobody asks; the child has no call to change that."""
    for calls in confinement.SYSTEM_CALLS.values():
        assert not {"setitimer", "setrlimit", "prlimit64"} & {*calls["allowed"]}
    monkeypatch.setattr(sandbox, "RENEW_AFTER", 0.05)
    with make(body("x = 0.0\nfor i in range(400_000):\n    x += i\nreturn [0.0, 0.0]"), call_timeout=0.5) as policy:
        limits = set()
        for t in range(30):
            call(policy, t)
            limits.add(resource.prlimit(pid_of(policy), resource.RLIMIT_CPU)[0])
            time.sleep(0.06)
        used = time.clock_gettime((~pid_of(policy) << 3) | 2)
        assert len(limits) > 1 and used < max(limits) < used + 7


MISSING = {"seccomp": "for a test"}


def test_without_a_filter_a_model_s_rule_is_refused_unless_the_flag_accepts_it(monkeypatch):
    monkeypatch.setattr(confinement, "missing_layers", lambda: MISSING)
    with pytest.raises(ValueError, match=r"seccomp: for a test.*--sandbox weak accepts that risk") as caught:
        confinement.check_model_rules("auto")
    assert "\n" not in str(caught.value)
    confinement.check_model_rules("weak")
    monkeypatch.setattr(confinement, "missing_layers", lambda: {"landlock": "for a test"})
    confinement.check_model_rules("auto")  # the filter alone carries the layer


def test_what_is_missing_is_said_once_and_refused_when_strict(monkeypatch, capsys):
    monkeypatch.setattr(confinement, "missing_layers", lambda: {"seccomp": "for a test", "landlock": "the same"})
    for _ in range(2):
        with make(HARMLESS) as policy:
            assert call(policy, 0).tolist() == [[0.0, 0.0]]
            assert "Seccomp:\t0" in Path(f"/proc/{pid_of(policy)}/status").read_text()
    assert capsys.readouterr().out == (
        "policy sandbox: this machine lacks a part of the confinement (seccomp: for a test; landlock: the same); "
        "see docs/sandbox.md\n"
    )
    with pytest.raises(ValueError, match=r"strict sandbox needs what this machine lacks \(seccomp: for a test; "):
        make(HARMLESS, strict=True)


@pytest.mark.skipif(bool(confinement.missing_layers()), reason=f"missing here: {confinement.missing_layers()}")
def test_strict_runs_where_nothing_is_missing(capsys):
    with make(HARMLESS, strict=True) as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]
    assert capsys.readouterr().out == ""


def test_a_machine_without_the_layers(monkeypatch):
    missing = confinement.missing_layers.__wrapped__
    monkeypatch.setattr(confinement, "SYSTEM_CALLS", {})
    assert "no filter is written for" in missing()["seccomp"]
    monkeypatch.undo()
    libc = confinement._libc()
    monkeypatch.setattr(confinement, "_libc", lambda: types.SimpleNamespace(syscall=lambda *args: -1))
    assert list(missing()) == ["landlock", "seccomp"]
    monkeypatch.setattr(confinement, "_libc", lambda: libc)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert list(missing()) == ["address space", "landlock", "seccomp"]


def test_a_layer_that_fails_in_the_child_stops_it(monkeypatch):
    """What the parent found to be there, and the kernel then refuses, must not be gone without."""
    monkeypatch.setattr(sandbox, "CHILD", Path(__file__).with_name("unconfined_child.py"))
    with pytest.raises(SandboxError, match=r"could not be started: it could not be confined: .*seccomp"):
        make(HARMLESS)


def test_an_older_numpy_is_refused_in_a_line(monkeypatch):
    """PyFlyt installs 1.26; the language's names are those of NumPy 2."""
    confinement.check_platform(strict=False)
    monkeypatch.setattr(np, "__version__", "1.26.4")
    with pytest.raises(ValueError, match=r"^rules need NumPy 2 or newer, and this is 1\.26\.4, .*--supervisor none"):
        confinement.check_platform(strict=False)
