"""The sandbox's child with the modules loaded that a hostile policy imports, which a file beside it names.

Without this most attacks would end at their import, which opens files, and would never come to what they try. No other
file of a module is opened, whatever layers there are: an attack that needs one does nothing without the layers either,
where the test sees it. The test starts this by a link in a folder of its own, where that file is.
"""

import importlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from supervision.sandbox import child

CHILDS = "unicodedata numpy numpy.ma numpy.random supervision.sandbox.wire supervision.sandbox.server"


class NothingElse:
    """Asked before files are, it finds nothing and ends the search, but for the module with which an attack comes."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name != "canary_module":
            raise ModuleNotFoundError(f"{name} is not loaded")


for module in [*CHILDS.split(), *Path(__file__).with_name("modules").read_text().split()]:
    importlib.import_module(module)
sys.meta_path.insert(sys.meta_path.index(PathFinder), NothingElse)

child.main()
