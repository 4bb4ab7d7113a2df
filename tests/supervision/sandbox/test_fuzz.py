"""The short form of `python -m benchmark.probes.fuzz_sandbox`: random programs of the language, run confined."""

import pytest
from sandboxed import needs_linux, nothing_left  # noqa: F401

from benchmark.probes.fuzz_sandbox import Programs, attempt
from supervision.sandbox.language import check_source

pytestmark = needs_linux


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_programs_crash_nothing_and_see_no_memory_as_it_was_left(seed, tmp_path):
    source = Programs(seed).program(100)
    check_source(source)
    outcome = attempt(source, tmp_path)
    assert outcome.problem == "" and not outcome.late
    assert outcome.statements == 100 and outcome.failed < 80


LEAKS = "import numpy as np\ndef s0(obs, t, pool):\n    return 0\ndef policy(obs, t):\n    {}\n"


def test_the_fuzz_is_not_blind(tmp_path, monkeypatch):
    """Without the language it finds what it looks for: memory as it was left, objects, a crash."""
    monkeypatch.setattr("supervision.sandbox.policy._switched_off", ("language",))
    found = {
        "showed memory as it was left": "return np.clip(np.empty(3000)[1000:1001], -1e9, 1e9) + 1e-300",
        "made an array of no numbers": "return [1e300]",
        "signal 11": "return [np.lib.stride_tricks.as_strided(np.zeros(1), (10**6,), (10**9,)).sum()]",
    }
    for problem, line in found.items():
        assert problem in attempt(LEAKS.format(line), tmp_path).problem
