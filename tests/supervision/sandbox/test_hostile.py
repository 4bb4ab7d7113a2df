"""Every policy in `hostile/` against both layers of the sandbox and against each alone, looked at from outside.

The policies find the names CANARY (a file with a secret number), NEW (a path where nothing is), ARENA (their folder),
PORT, UNIX (sockets that listen), PARENT, BYSTANDER (process ids), FD, ADDRESS (the parent's descriptor of the canary,
and where the secret stands in its memory). Whatever a policy returns or raises, no alarm may ring: see `Arena.alarms`.
That the alarms are not deaf is tested too: with all layers off the same policies must make them ring.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib.util
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from supervision.sandbox import confinement
from supervision.sandbox import policy as sandbox
from supervision.sandbox.confinement import missing_layers
from supervision.sandbox.language import check_source
from supervision.sandbox.messages import BoxAction, Observation, PolicyError
from supervision.sandbox.policy import SandboxedPolicy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc and uses inotify")

POLICIES = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "hostile").glob("*.py"))}
SYSTEM = ("limits", "landlock", "seccomp")
MEMORY_MB = 400
PR_SET_CHILD_SUBREAPER, IN_ALL_EVENTS = 36, 0xFFF

# Nothing but arithmetic: what they do wrong is bounded by the deadlines, the limits and the check of the answer.
REFUSED_BY_THE_LANGUAGE_TOO = {  # of those that exhaust something or return nonsense
    "result_bytes", "result_complex", "result_dates", "result_object_floats",
    "exhaust_anonymous_map", "exhaust_descriptors", "exhaust_disk", "exhaust_forks", "exhaust_memfd", "exhaust_pipes",
    "exhaust_regex", "exhaust_sleep", "exhaust_stack", "exhaust_stderr", "exhaust_threads", "exhaust_timer",
}  # fmt: skip
# Those on what numpy trusts its caller with. No alarm hears them: refused by the check, or when numpy is called.
UNSEEN, GUARD = "unseen_", "guard_"
ALLOWED_BY_THE_LANGUAGE = {
    name
    for name in POLICIES
    if name.startswith(("exhaust_", "result_", GUARD)) and name not in REFUSED_BY_THE_LANGUAGE_TOO
}
# Attacks that need no door, only a mistake in the sandbox: with all layers off they do nothing that can be seen.
SILENT = {"environment_own", "escape_format", "escape_result_interface", "escape_result_reduce", "numpy_as_strided"}
# Those that some machines forbid by themselves (Yama, a container's own filter), unless the tests run as root.
FORBIDDEN_ELSEWHERE = {"files_proc_memory", "process_descriptor", "process_memory", "process_ptrace"}
MANY_CALLS = {"exhaust_hang_at_call_10000", "exhaust_leak"}

# What the child has loaded where a policy may import, also what Python and numpy import late on its behalf: these
# always, and those that take long for the policies whose text has the word.
LIGHT = (
    "ctypes encodings.idna encodings.latin_1 gzip importlib io linecache math mmap os pathlib pickle re resource "
    "signal socket struct subprocess sys tempfile threading time zipfile "
    "numpy.ctypeslib numpy.lib._npyio_impl numpy.lib.format numpy.lib.npyio numpy.lib.stride_tricks numpy.random"
)
HEAVY = {
    "multiprocessing": "multiprocessing.context multiprocessing.popen_fork",
    "sqlite3": "sqlite3",
    "urllib": "urllib.request",
    "DataSource": "urllib.request",
    "np.f2py": "numpy.f2py",
    "np.testing": "numpy.testing._private.utils",
}


class Arena:
    """A folder, sockets and processes that nobody touches unless the sandbox leaks."""

    def __init__(self, folder: Path) -> None:
        self.libc = ctypes.CDLL(None)
        self.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of the child come to us and are counted
        self.folder = folder
        self.secret = f"{random.uniform(0.1, 0.9):.6f}"
        canary, self.unix = folder / "canary.txt", f"{folder}/socket"
        canary.write_text(self.secret)
        (folder / "canary_module.py").write_text(f"SECRET = {self.secret}")
        self.file = canary.open()
        self.memory = ctypes.create_string_buffer(self.secret.encode())
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.datagrams = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        self.datagrams[0].bind(self.tcp.getsockname())
        for name in (self.unix, f"\0{self.unix}"):
            self.datagrams.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self.datagrams[-1].bind(name)
        for listener in (self.tcp, *self.datagrams):
            listener.setblocking(False)
        self.children = children()
        self.bystander = subprocess.Popen(["sleep", "600"], env={"OPENAI_API_KEY": self.secret, "PATH": os.defpath})
        while "sleep" not in Path(f"/proc/{self.bystander.pid}/cmdline").read_text():  # between fork and exec
            time.sleep(0.001)
        self.state_of_bystander = self._state_of_bystander()
        self.signals: list[int] = []
        self.handler = signal.signal(signal.SIGUSR1, lambda number, frame: self.signals.append(number))
        self.names = (
            f"CANARY, NEW, ARENA, UNIX = {str(canary)!r}, {str(folder / 'new')!r}, {str(folder)!r}, {self.unix!r}; "
            f"PORT, PARENT, BYSTANDER = {self.tcp.getsockname()[1]}, {os.getpid()}, {self.bystander.pid}; "
            f"FD, ADDRESS = {self.file.fileno()}, {ctypes.addressof(self.memory)}\n"
        )
        self.before = self._files()
        self.watch = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.libc.inotify_add_watch(self.watch, str(folder).encode(), IN_ALL_EVENTS) >= 0

    def alarms(self, child: int | None, actions: list[np.ndarray]) -> set[str]:
        """Say what was touched; to be called while the child, if any, still runs."""
        rung = set()
        with contextlib.suppress(BlockingIOError):
            os.read(self.watch, 65536)
            rung.add("files")
        if self._files() != self.before:
            rung.add("files")
        with contextlib.suppress(BlockingIOError):
            self.tcp.accept()[0].close()
            rung.add("network")
        for listener in self.datagrams:
            with contextlib.suppress(BlockingIOError):
                listener.recv(10)
                rung.add("network")
        processes = stats()
        if children(processes) - self.children - {child, self.bystander.pid} or len(session(child, processes)) > 1:
            rung.add("processes")
        if self.signals or self._state_of_bystander() != self.state_of_bystander:
            rung.add("others")
        if any(float(self.secret) in action for action in actions):
            rung.add("secret")
        return rung

    def close(self) -> None:
        signal.signal(signal.SIGUSR1, self.handler)
        for pid in children() - self.children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.bystander.wait()
        self.libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for resource_held in (self.file, self.tcp, *self.datagrams):
            resource_held.close()
        os.close(self.watch)

    def _files(self) -> dict[str, tuple[int, ...]]:
        stats = {path.name: path.lstat() for path in self.folder.iterdir()}
        self._drain()  # our own look into the folder
        return {name: (stat.st_size, stat.st_mode, stat.st_mtime_ns, stat.st_nlink) for name, stat in stats.items()}

    def _drain(self) -> None:
        if hasattr(self, "watch"):
            with contextlib.suppress(BlockingIOError):
                os.read(self.watch, 65536)

    def _state_of_bystander(self) -> tuple:
        pid = self.bystander.pid
        if self.bystander.poll() is not None:
            return ("dead",)
        status = Path(f"/proc/{pid}/status").read_text()
        tracer = [line for line in status.splitlines() if line.startswith("TracerPid")]
        return tracer, os.getpriority(os.PRIO_PROCESS, pid), resource.prlimit(pid, resource.RLIMIT_NOFILE)


def open_files() -> set[tuple[str, str]]:
    """This process's descriptors with what each of them is of (pipes and sockets by their number)."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add((descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))
    return found


@pytest.fixture
def arena(tmp_path, monkeypatch):
    for name in ("arena", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("OPENAI_API_KEY", "0.4242")
    before = open_files()
    arena = Arena(tmp_path / "arena")
    yield arena
    arena.close()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert open_files() <= before  # an earlier test's may have been closed meanwhile
    assert children() == arena.children


def stats() -> dict[int, list[str]]:
    """What follows the name in /proc/<pid>/stat (state, parent, group, session, ...), by process."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[int(name)] = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
    return found


def children(processes: dict[int, list[str]] | None = None) -> set[int]:
    """Children of this process, zombies included, and orphans that it adopted; of these processes or of all."""
    return {pid for pid, stat in (processes or stats()).items() if stat[1] == str(os.getpid())}


def session(leader: int | None, processes: dict[int, list[str]]) -> set[int]:
    return {pid for pid, stat in processes.items() if stat[3] == str(leader)}


def run(source: str, many: bool = False) -> tuple[SandboxedPolicy | None, list[np.ndarray], PolicyError | None]:
    """Load the policy and call it until it fails, three times at the most, 10,000 times if `many`."""
    policy, actions = None, []
    try:
        policy = SandboxedPolicy(
            source,
            observation=Observation("floats", (3,)),
            action=BoxAction(-np.ones(2), np.ones(2)),
            memory_mb=MEMORY_MB,
            start_timeout=3.0,
        )
        for t in range(10_000 if many else 3):
            actions.append(policy(np.zeros((1, 3)), np.array([t])))
    except PolicyError as error:
        return policy, actions, error
    return policy, actions, None


def attack(arena: Arena, name: str) -> tuple[set[str], PolicyError | None]:
    policy, actions, error = run(arena.names + POLICIES[name], name in MANY_CALLS)
    rung = arena.alarms(policy._process.pid if policy else None, actions)
    if policy is not None:
        policy.close()
        rung |= arena.alarms(None, actions)
    return rung, error


def loaded_for(source: str) -> list[str]:
    """The modules that the child loads for this policy where it may import."""
    return " ".join([LIGHT, *(modules for word, modules in HEAVY.items() if word in source)]).split()


def imported_by(source: str) -> set[str]:
    """The modules that a policy asks for, by whatever statement, call or attribute of numpy."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names}
            case ast.ImportFrom(module=module):
                found.add(module)
            case ast.Call(
                func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=module)]
            ):
                found.add(module)
            case ast.Attribute() if ast.unparse(node).startswith("np."):
                name = "numpy" + ast.unparse(node).removeprefix("np")
                if is_module(name):
                    found.add(name)
    return found


def is_module(name: str) -> bool:
    """Tell whether numpy has a module of this name; its functions and what they return are none."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def switch_off(monkeypatch, name: str, *layers: str) -> None:
    """Leave the given layers out for a policy; skip where this machine lacks one of the others.

    Without the language the child also has the modules loaded that this attack imports.
    """
    lacking = {layer: reason for layer, reason in missing_layers().items() if layer not in layers}
    if lacking:
        pytest.skip(f"this machine lacks {lacking}")
    monkeypatch.setattr(sandbox, "_switched_off", layers)
    if "language" in layers:
        child = Path(tempfile.gettempdir()).with_name("child") / "preloaded_child.py"
        child.parent.mkdir()
        child.symlink_to(Path(__file__).with_name(child.name))
        child.with_name("modules").write_text(" ".join(loaded_for(POLICIES[name])))
        monkeypatch.setattr(sandbox, "CHILD", child)


def harmless(name: str) -> bool:
    """Tell whether a policy may come to its end: it is stopped from doing harm, not from answering."""
    return not name.startswith(("exhaust_", "result_"))


def test_the_corpus_is_large_and_every_policy_says_what_it_tries():
    assert len(POLICIES) >= 60
    assert all(source.startswith("# ") for source in POLICIES.values())


def test_no_attack_ends_at_its_import():
    """Whatever a policy imports, its child has loaded; else it might seem to be stopped and was only not found."""
    for name, source in POLICIES.items():
        loaded = {module.rsplit(".", cut)[0] for module in loaded_for(source) for cut in range(module.count(".") + 1)}
        own = {"canary_module"} if name == "files_import_module" else set()  # the attack is to find it in a folder
        assert imported_by(source) - own <= loaded, name


@pytest.mark.parametrize("name", POLICIES)
def test_the_language_alone(name, arena, monkeypatch):
    """With the operating system's layer off: a refusal before a child is started, or nothing but arithmetic."""
    source = arena.names + POLICIES[name]
    if name in ALLOWED_BY_THE_LANGUAGE:
        check_source(source)
        if name.startswith("exhaust_"):  # the language cannot bound time and memory: that is the other layer's
            return
        switch_off(monkeypatch, name, *SYSTEM)
        rung, error = attack(arena, name)
        assert error is not None
        if name.startswith(GUARD):
            assert re.search(r"TypeError: np\.[\w.]+ (was given .*; it computes with|takes \d arguments)", str(error))
    else:
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("started a child"))
        with pytest.raises(PolicyError, match=r"^line \d+: ") as caught:
            check_source(source)
        assert all(line.startswith("line ") for line in str(caught.value).splitlines())
        rung = attack(arena, name)[0]
    assert rung == set()


@pytest.mark.parametrize("name", POLICIES)
def test_the_operating_system_alone(name, arena, monkeypatch):
    """With the language layer off: no static check, all builtins, any import."""
    switch_off(monkeypatch, name, "language")
    check_attack(arena, name, monkeypatch)


@pytest.mark.parametrize("name", sorted(ALLOWED_BY_THE_LANGUAGE))
def test_both_layers(name, arena, monkeypatch):
    """All other policies are refused before a child is started, see `test_the_language_alone`."""
    switch_off(monkeypatch, name)
    check_attack(arena, name, monkeypatch)


def check_attack(arena: Arena, name: str, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "FIRST_CALL_TIMEOUT", 0.5)
    monkeypatch.setattr(sandbox, "PATIENCE", 0.5)
    largest, stop = [0], threading.Event()
    sampler = threading.Thread(target=sample_memory, args=(largest, stop))
    sampler.start()
    start = time.monotonic()
    rung, error = attack(arena, name)
    seconds = time.monotonic() - start
    stop.set()
    sampler.join()
    assert rung == set()
    assert error is not None or harmless(name)
    assert seconds < 15
    assert largest[0] < (MEMORY_MB + 50) * 1024


def sample_memory(largest: list[int], stop: threading.Event) -> None:
    """Keep the largest resident set (KiB) that a child of this process has had since it became a program of its own."""
    ours = Path("/proc/self/cmdline").read_bytes()
    while not stop.wait(0.05):
        for pid in children():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/cmdline").read_bytes() == ours:  # between fork and exec it has our memory
                    continue
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM"):
                        largest[0] = max(largest[0], int(line.split()[1]))


REACHING = [
    name
    for name in POLICIES
    if not name.startswith(("exhaust_", "result_", "protocol_", UNSEEN, GUARD)) and name not in SILENT
]


@pytest.mark.parametrize("name", REACHING)
def test_with_all_layers_off_the_alarms_ring(name, arena, monkeypatch):
    """The attacks work and the alarms hear them; so their silence above says something."""
    if name == "process_machine_code" and os.uname().machine != "x86_64":
        pytest.skip("machine code for x86-64")
    switch_off(monkeypatch, name, *sandbox.LAYERS)
    rung = attack(arena, name)[0]
    if not rung and name in FORBIDDEN_ELSEWHERE:
        pytest.skip("this machine forbids the attack by itself")
    assert rung != set()


# The version of Landlock's interface that first handles it (1: files), or what it leaves open.
LANDLOCK = dict.fromkeys([name for name in REACHING if name.startswith(("files_", "numpy_"))], 1)
LANDLOCK |= dict.fromkeys(["network_tcp", "network_urllib", "network_ctypes"], 4)
LANDLOCK |= dict.fromkeys(["network_abstract", "network_ctypes_abstract", "process_signal_parent", "process_kill"], 6)
LEFT_OPEN = {"files_chmod": {"files"}}  # it handles names and contents, not modes


@pytest.mark.parametrize("name", LANDLOCK)
def test_landlock_alone(name, arena, monkeypatch):
    """Without the language, the limits and the filter of system calls."""
    switch_off(monkeypatch, name, "language", "limits", "seccomp")
    version = arena.libc.syscall(confinement.LANDLOCK_CREATE_RULESET, None, 0, confinement.LANDLOCK_VERSION)
    if version < LANDLOCK[name]:
        pytest.skip(f"this machine's Landlock has version {version}, not {LANDLOCK[name]}")
    assert attack(arena, name)[0] <= LEFT_OPEN.get(name, set())


@pytest.mark.parametrize("name", [name for name in REACHING if name.startswith(("files_", "network_", "process_"))])
def test_seccomp_alone(name, arena, monkeypatch):
    """Without the language, the limits and Landlock."""
    switch_off(monkeypatch, name, "language", "limits", "landlock")
    assert attack(arena, name)[0] == set()
