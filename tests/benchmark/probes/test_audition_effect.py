"""benchmark/probes/audition_effect.py: its table by hand."""

import pandas as pd

from benchmark.probes.audition_effect import effect


def test_what_a_harmful_rule_did_is_told_by_arm():
    """By hand: two seeds of plain SAC, and two of a rule that guided one of two windows; guidance ends at step 20."""
    rows = [("SAC", seed, step, tag, value) for seed, offset in ((1, 0.0), (2, 1.0)) for step, tag, value in (
        (10, "charts/episodic_return", -4.0 + offset), (20, "charts/episodic_return", -2.0 + offset),
        (30, "charts/episodic_return", 99.0), (0, "eval/episodic_return", 50.0), (40, "eval/episodic_return", offset),
    )]  # fmt: skip
    rows += [("rule", seed, step, tag, value) for seed in (1, 2) for step, tag, value in (
        (0, "charts/guidance_active", 1.0), (10, "charts/guidance_active", 0.0), (20, "charts/guidance_active", 0.0),
        (5, "charts/episodic_return", -6.0), (40, "eval/episodic_return", -1.0), (0, "eval/episodic_return", 7.0),
    )]  # fmt: skip
    logged = pd.DataFrame(rows, columns=["arm", "seed", "step", "tag", "value"]).assign(env="E-v0")
    assert effect(logged) == [
        ["E-v0", "SAC", "2", "", "-2.5 [-3.0, -2.0]", "0.5 [0.0, 1.0]"],
        ["E-v0", "rule", "2", "2 of 4", "-6.0 [-6.0, -6.0]", "-1.0 [-1.0, -1.0]"],
    ]
