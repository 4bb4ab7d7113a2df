"""benchmark/probes/overhead.py: the simulation of docs/benchmark.md."""

import subprocess

import pytest
from handmade import anywhere, command


@pytest.mark.slow
def test_overhead_is_measured():
    """The simulation of docs/benchmark.md, with few tasks."""
    line = command("probes.overhead", "--tasks", "5", "--starts", "1")
    result = subprocess.run(line, env=anywhere(), capture_output=True, text=True, timeout=840)
    assert result.returncode == 0, result.stderr
    assert "Ray: 5 no-op tasks: " in result.stdout and "5 runs, 5 of them done before" in result.stdout
