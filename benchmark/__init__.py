"""Studies of the training scripts: sweeps, figures, races and probes, all started from the repository's root.

    python -m benchmark.results

Docs: docs/benchmark.md
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
