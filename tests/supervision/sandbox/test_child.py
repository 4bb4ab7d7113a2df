"""The rule's process: what it is given, how it starts and ends, and what the parent makes of one that goes wrong."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from sandboxed import (
    HARMLESS,
    call,
    call_discrete,
    dead,
    descriptors,
    make,
    make_discrete,
    needs_linux,
    nothing_left,  # noqa: F401
    pid_of,
    run_parent,
    stat_of,
    wait_for,
)

from supervision.sandbox import policy as sandbox
from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.sandbox.wire import ANSWER

pytestmark = needs_linux

ROGUE = """
import os, sys, time
for request in ("setup", "load"):
    os.read(0, 65536)
    os.write(1, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
os.read(0, 65536)
for piece in {pieces!r}:
    os.write(1, piece)
    time.sleep(0.002)
{end}
"""


@pytest.mark.parametrize(("number", "size"), [(4, 8), (-1, 8), (2**63 - 1, 8), (0, 4), (0, 16)])
def test_a_child_that_sends_no_discrete_action(number, size, tmp_path, monkeypatch):
    """The parent checks what the child ought to have checked."""
    rogue = tmp_path / "rogue.py"
    piece = ANSWER.pack(1, size) + number.to_bytes(size, "little", signed=True)
    rogue.write_text(ROGUE.format(pieces=[piece], end="time.sleep(60)"))
    monkeypatch.setattr(sandbox, "CHILD", rogue)
    message = f"action = {number} at t=0; it must be an integer from 0 to 3" if size == 8 else f"{size} bytes instead"
    with make_discrete(HARMLESS) as policy, pytest.raises(PolicyError, match=message):
        call_discrete(policy, 0)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([b"\xff" * 8], "malformed answer: status 255"),
        ([ANSWER.pack(1, 2**31)], "malformed answer: status 1, 2147483648 bytes"),
        ([ANSWER.pack(2, 8_001)], "malformed answer: status 2, 8001 bytes"),
        ([ANSWER.pack(1, 8), bytes(8)], "8 bytes instead of 16"),
        ([ANSWER.pack(1, 16) + bytes(17)], "1 bytes more than it announced"),
        ([ANSWER.pack(1, 16), bytes(15)], "took longer"),
        ([ANSWER.pack(2, 3) + b"\xff\x1ba"], r"^.\?a$"),
        ([b""], "took longer"),
    ],
)
def test_a_child_that_breaks_the_protocol(pieces, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "FIRST_CALL_TIMEOUT", 0.5)
    monkeypatch.setattr(sandbox, "PATIENCE", 0.0)
    rogue = tmp_path / "rogue.py"
    rogue.write_text(ROGUE.format(pieces=pieces, end="time.sleep(60)"))
    monkeypatch.setattr(sandbox, "CHILD", rogue)
    with make(HARMLESS) as policy, pytest.raises(PolicyError, match=message):
        call(policy, 0)


def test_an_answer_in_single_bytes_and_one_cut_short(tmp_path, monkeypatch):
    whole = ANSWER.pack(1, 16) + np.array([0.5, -0.5]).tobytes()
    rogue = tmp_path / "rogue.py"
    rogue.write_text(ROGUE.format(pieces=[whole[i : i + 1] for i in range(len(whole))], end="sys.exit(9)"))
    monkeypatch.setattr(sandbox, "CHILD", rogue)
    with make(HARMLESS) as policy:
        assert call(policy, 0).tolist() == [[0.5, -0.5]]
        with pytest.raises(PolicyError, match="at t=1 ended the policy's process: exit status 9"):
            call(policy, 1)
    rogue.write_text(ROGUE.format(pieces=[whole[:12]], end="sys.exit(9)"))
    with make(HARMLESS) as policy, pytest.raises(PolicyError, match="exit status 9"):
        call(policy, 0)


# --- what the child is given ---


def test_the_child_is_given_nothing(nothing_left, monkeypatch, tmp_path):
    for name in sandbox.KERNELS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-policies")
    with open(tmp_path / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with make(HARMLESS) as policy:
            call(policy, 0)
            proc = Path(f"/proc/{pid_of(policy)}")
            names = [entry.partition("=")[0] for entry in (proc / "environ").read_text().split("\0") if entry]
            assert names == list(sandbox.CHILD_ENVIRONMENT)
            assert all(name.endswith("_NUM_THREADS") for name in names)

            targets = {int(path.name): os.readlink(path) for path in (proc / "fd").iterdir()}
            assert [target for number, target in targets.items() if number < 3] == ["/dev/null"] * 3
            pipes = [target for number, target in targets.items() if number > 2]
            assert len(set(pipes)) == 3  # requests, answers, the lifeline
            assert all(target.startswith("pipe:") for target in pipes)

            assert os.readlink(proc / "cwd").startswith(f"{nothing_left}/policy_sandbox_")
            assert list(nothing_left.iterdir()) == []  # unlinked already
            command = (proc / "cmdline").read_text().split("\0")
            assert command == [sys.executable, "-I", str(ROOT / "supervision" / "sandbox" / "child.py"), ""]
            assert os.getsid(pid_of(policy)) == os.getpgid(pid_of(policy)) == pid_of(policy)

            limits = {line[:26].strip(): line[26:].split()[:2] for line in (proc / "limits").read_text().splitlines()}
            assert limits["Max address space"] == [str(1024 * 2**20)] * 2
            assert limits["Max open files"] == [str(max(targets) + 1)] * 2
            for name in ("Max file size", "Max core file size", "Max processes"):
                assert limits[name] == ["0", "0"]


def test_the_child_s_numpy_takes_the_trainer_s_kernels(monkeypatch):
    """Where a machine fixes them for equal digits on different processors, they hold for rules as well."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with make(HARMLESS) as policy:
        call(policy, 0)
        environ = Path(f"/proc/{pid_of(policy)}/environ").read_text().split("\0")
    assert "OPENBLAS_CORETYPE=Haswell" in environ


# --- the child's start ---

ELSEWHERE = """
import os, sys
import numpy as np
from supervision.sandbox.messages import DiscreteAction, Observation, SandboxError
from supervision.sandbox.policy import SandboxedPolicy
source = "def policy(obs, t):\\n    return int(np.median([obs, obs]))\\n"
try:
    with SandboxedPolicy(source, observation=Observation("int"), action=DiscreteAction(9)) as policy:
        print(np.__file__, policy(np.array([[7]]), np.array([0])))
except SandboxError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """An interpreter that has no packages of its own, as a cluster's module system starts one."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    assert subprocess.run([python, "-Ic", "import numpy"], capture_output=True).returncode == 1
    return python


def numpy_in(folder: Path) -> Path:
    """A folder that offers numpy and nothing else."""
    folder.mkdir()
    for path in Path(np.__file__).parents[1].glob("numpy*"):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("way", ["PYTHONPATH", "working folder", "relative"])
def test_numpy_is_found_where_the_parent_finds_it(way, bare_python, tmp_path):
    """The child is started with -I, for which PYTHONPATH is nothing: it is told the parent's path."""
    site = numpy_in(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}" if way == "PYTHONPATH" else str(ROOT)}
    script = ELSEWHERE if way != "relative" else "import sys\nsys.path.append('../site')" + ELSEWHERE
    (tmp_path / "other").mkdir()
    process = subprocess.run(
        [bare_python, "-c", script], env=environment, capture_output=True, text=True,
        cwd=tmp_path / "other" if way != "working folder" else site,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    file, action = process.stdout.split(maxsplit=1)
    assert (site / "numpy").samefile(Path(tmp_path / "other", file).parent) and action == "[7]\n"


def test_what_lies_beside_the_package_does_not_change_which_numpy_is_found(bare_python, tmp_path):
    """An installed package lies in a folder that may hold an older numpy than the one which PYTHONPATH puts first."""
    site, installed = numpy_in(tmp_path / "site"), tmp_path / "installed"
    shutil.copytree(ROOT / "supervision", installed / "supervision")
    (installed / "numpy").mkdir()
    (installed / "numpy" / "__init__.py").write_text("raise ImportError('the wrong numpy')")
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{installed}"}
    process = subprocess.run([bare_python, "-c", ELSEWHERE], env=environment, capture_output=True, text=True)
    assert process.stdout.endswith(" [7]\n"), process.stderr


def gone(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))


def child_that(ends: str):
    def change(monkeypatch, tmp_path: Path) -> None:
        (tmp_path / "child.py").write_text(ends)
        monkeypatch.setattr(sandbox, "CHILD", tmp_path / "child.py")
        monkeypatch.setattr(sandbox, "PATIENCE", 0.0)

    return change


NO_START = {
    "no interpreter": (lambda patch, folder: patch.setattr(sys, "executable", "/nowhere/python"), "/nowhere/python"),
    "no temporary folder": (gone, "No such file or directory: .*gone"),
    "no numpy": (lambda patch, folder: patch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p]),
                 "No module named 'numpy'"),
    "ends": (child_that("import sys\nsys.exit(127)"), "loading Python and numpy ended .*: exit status 127"),
    "crashes": (child_that("import os\nos.kill(os.getpid(), 11)"), r"ended .*: signal 11 \(Segmentation fault\)"),
    "hangs": (child_that("import time\ntime.sleep(60)"), "loading Python and numpy took longer than 1 s"),
    "nonsense": (child_that("import os\nos.write(1, bytes(range(8)))\nimport time\ntime.sleep(9)"), "malformed answer"),
}  # fmt: skip


@pytest.mark.parametrize("cause", NO_START)
def test_a_child_that_cannot_start_is_no_fault_of_the_policy(cause, monkeypatch, tmp_path):
    """Another error than the policy's, on one line, and nothing is left behind."""
    change, message = NO_START[cause]
    change(monkeypatch, tmp_path)
    monkeypatch.setattr(sandbox, "STARTING", 1.0)
    with pytest.raises(SandboxError, match=f"^a rule's process could not be started: .*{message}") as caught:
        make(HARMLESS)
    assert not isinstance(caught.value, PolicyError) and "\n" not in str(caught.value)


def test_python_and_numpy_may_take_longer_than_a_rule(monkeypatch, tmp_path):
    """As on a network's disk that is read for the first time: the rule's own seconds begin behind it."""
    (tmp_path / "slow.py").write_text(f"import runpy, time\ntime.sleep(4)\nrunpy.run_path({str(sandbox.CHILD)!r}, "
                                      "run_name='__main__')\n")  # fmt: skip
    monkeypatch.setattr(sandbox, "CHILD", tmp_path / "slow.py")
    with make(HARMLESS, start_timeout=0.5) as policy:
        assert policy(np.zeros((1, 3)), np.zeros(1, dtype=int)).shape == (1, 2)


def test_a_trivial_start_says_whether_any_policy_can_start(monkeypatch, tmp_path):
    sandbox.check_start()
    gone(monkeypatch, tmp_path)
    with pytest.raises(SandboxError, match="could not be started"):
        sandbox.check_start()


# --- the child's end ---


def test_close_any_number_of_times():
    before = descriptors()
    policy = make(HARMLESS)
    pid = pid_of(policy)
    policy.close()
    assert descriptors() == before
    assert stat_of(pid) is None
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    policy.close()
    with pytest.raises(PolicyError, match=r"closed: close\(\) was called"):
        call(policy, 0)


def test_several_children_leave_no_descriptor():
    before = descriptors()
    for i in range(6):
        policy = make(HARMLESS)
        call(policy, i)
        if i % 2:
            policy.close()
        del policy
    assert descriptors() == before


START = """
policy = make("def policy(obs, t):\\n    while t: pass\\n    return [0, 0]")
print(policy._process.pid, flush=True)
"""
CALL = "policy(np.zeros((1, 3)), np.array([1]))\n"


THREAD = (
    "import threading\nthread = threading.Thread(target=lambda: exec({!r}, globals()))\nthread.start()\nthread.join()\n"
)
FORK = "if os.fork() == 0:\n    os.close(1)\n    signal.alarm(10)\n    signal.pause()\n"


@pytest.mark.parametrize(
    "script",
    [
        START + "signal.pause()",
        START + CALL,
        THREAD.format(START) + CALL,
        THREAD.format(START + CALL),
        START + FORK + CALL,
    ],
    ids=["idle", "in a call", "started by a thread", "called by a thread", "with a forked copy"],
)
def test_the_child_dies_with_a_killed_parent(script):
    with run_parent(script) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        assert not dead(pid)
        parent.kill()
    try:
        assert wait_for(lambda: dead(pid))
    finally:
        if not dead(pid):
            os.kill(pid, signal.SIGKILL)


def test_ctrl_c_in_a_call_ends_the_child():
    script = (
        "allowed = os.sched_getaffinity(0)\n"
        + START
        + (
            f"try:\n    {CALL}"
            "except KeyboardInterrupt:\n    print(os.path.exists(f'/proc/{policy._process.pid}'))\n"
            "print(os.sched_getaffinity(0) == allowed)\n"
            f"try:\n    {CALL}"
            "except PolicyError as error:\n    print(error)\n"
        )
    )
    with run_parent(script) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.send_signal(signal.SIGINT)
        assert parent.stdout.read() == "False\nTrue\nthe policy is closed: interrupted\n"
        assert parent.wait() == 0
    assert dead(pid)


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise KeyboardInterrupt", "policy = None; os._exit(0)"])
def test_the_child_ends_with_the_program(end):
    with run_parent(START + end) as parent:
        pid = int(parent.stdout.readline())
        parent.wait()
    assert wait_for(lambda: dead(pid), 1.0)


def test_the_end_of_the_starting_thread_is_not_the_childs():
    made = []
    thread = threading.Thread(target=lambda: made.append(make(HARMLESS)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with made[0] as policy:
        assert call(policy, 0).tolist() == [[0.0, 0.0]]


def test_a_forked_copy_does_not_end_the_child():
    script = START + (
        "if os.fork() == 0:\n    policy.close()\n    os._exit(0)\n"
        "os.wait()\n"
        "print(policy(np.zeros((1, 3)), np.array([0])))\n"
    )
    with run_parent(script) as parent:
        parent.stdout.readline()
        assert parent.stdout.read() == "[[0. 0.]]\n"


RANDOM_KILLS = """
import ctypes, random, tempfile, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us
folder = tempfile.mkdtemp()
tempfile.tempdir = folder
random.seed(0)
for trial in range(50):
    pid = os.fork()
    if pid == 0:
        policy = make("def policy(obs, t):\\n    while t % 100 == 99: pass\\n    return [0, 0]")
        for t in range(10**9):
            policy(np.zeros((1, 3)), np.array([t]))
    time.sleep(random.uniform(0, 0.4))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        print("a child survived")
        os.killpg(os.getpgid(0), signal.SIGKILL)
    except ChildProcessError:
        pass
print(sorted(os.listdir(folder)))
os.rmdir(folder)
"""


def test_no_child_survives_fifty_parents_killed_at_random_points():
    with run_parent(RANDOM_KILLS) as parent:
        assert parent.stdout.read() == "[]\n"


def test_a_child_whose_parent_stands_still_ends_by_its_cpu_limit():
    with run_parent("from functools import partial\nmake = partial(make, call_timeout=0.05)" + START + CALL) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)  # it is in the call by now
        parent.send_signal(signal.SIGSTOP)
        try:
            assert wait_for(lambda: dead(pid), 20.0)
        finally:
            parent.kill()
