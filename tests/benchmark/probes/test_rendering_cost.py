"""benchmark/probes/rendering_cost.py: what videos and the report take of a run."""

import re
import subprocess

from handmade import anywhere, command


def test_a_run_s_pictures_and_report_are_timed():
    result = subprocess.run(command("probes.rendering_cost", "--runs", "discrete FrozenLake-v1 300"), env=anywhere(),
                            capture_output=True, text=True, timeout=840)  # fmt: skip
    assert result.returncode == 0, result.stderr
    row = result.stdout.splitlines()[-1]
    found = re.fullmatch(r"\| FrozenLake-v1 \| 300 \| (\d+) s \| 3 \| \d+ \| (.*) s, .*% \| (.*) s, .*% \|", row)
    assert found, row  # a window has a hundred steps
    run, pictures, report = map(float, found.groups())
    assert 0 <= pictures < run and 0 < report < run
