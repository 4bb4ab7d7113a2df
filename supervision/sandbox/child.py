"""A rule's process, from its start as a file (`python -I child.py`) until it is ready to be confined.

With `-I` neither this file's folder nor what PYTHONPATH names is importable: until the first message has told where the
parent finds its modules, there is the standard library and, for this file alone, the package that it lies in.
"""

import importlib
import os
import sys
import tempfile
import warnings
from types import ModuleType

PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # where `supervision` lies


def main() -> None:
    """Do as the setup on fd 0 says, load the policy, then answer requests on fd 1 until the pipe ends."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    wire = _import_own("wire")
    setup = wire.receive(requests, wire.SETUP)
    warnings.simplefilter("ignore")
    try:
        _leave_every_folder()
        _import_numpy(setup["path"])
        server = _import_own("server")
        server.confine(setup, requests, answers)
    except Exception as error:  # on purpose: whatever keeps this process from its start, the parent must be told
        wire.answer_error(answers, str(error) or type(error).__name__)
        return
    wire.answer_ok(answers)
    server.serve(setup, requests, answers)


def _leave_every_folder() -> None:
    """Go to an empty folder that is unlinked: nothing can be created in it, and nothing stays, whoever is killed."""
    folder = tempfile.mkdtemp(prefix="policy_sandbox_", dir=os.getcwd())
    os.chdir(folder)
    os.rmdir(folder)


def _import_numpy(path: list[str]) -> None:
    """Import what will be needed, as the parent would; once this process is confined it can open no file.

    Args:
        path: the parent's `sys.path`, of absolute folders.
    """
    sys.path[:] = path
    # what honest code makes Python or numpy load lazily: unicodedata for names such as θ, numpy.ma for np.median
    for name in ("unicodedata", "numpy", "numpy.ma", "numpy.random"):
        importlib.import_module(name)


def _import_own(name: str) -> ModuleType:
    """Import a module that lies beside this file; its folder is not left on the path, lest another numpy be found."""
    sys.path.insert(0, PACKAGE)
    module = importlib.import_module(f"supervision.sandbox.{name}")
    del sys.path[0]
    return module


if __name__ == "__main__":
    try:
        main()
    except EOFError:  # the parent is gone
        os._exit(0)
