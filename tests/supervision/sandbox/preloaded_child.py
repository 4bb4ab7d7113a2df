"""The sandbox's child with every module loaded that a hostile policy imports.

Without this most attacks would end at their import, which opens files, and would never come to what they try.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from supervision.sandbox import child

MODULES = """
    linecache mmap multiprocessing.context multiprocessing.popen_fork pathlib pickle re resource socket sqlite3
    subprocess tempfile threading urllib.request numpy.ctypeslib numpy.f2py numpy.lib.format numpy.lib.npyio
    numpy.testing
"""
for module in MODULES.split():
    __import__(module)

child.main()
