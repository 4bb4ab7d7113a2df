"""benchmark/probes/beside_plain.py: its rows by hand."""

import dataclasses

import pandas as pd
import pytest
from handmade import STUDY, scored, tidy

from benchmark.figures import table
from benchmark.probes.beside_plain import HEADER, Args, rows
from benchmark.sweeps.studies import load_study


@pytest.mark.usefixtures("few_samples")
def test_an_arms_row_by_hand():
    """A returns 3 and 5 less than plain SAC (B) in the mean of three evaluations, and less along all its steps."""
    data = pd.concat([
        scored(A=[[0, 1, 1, 4], [0, 1, 1, 4]], B=[[0, 5, 5, 5], [0, 7, 7, 7]]),
        tidy({("A", seed, table.GUIDED_STEPS): [(10, 20.0 * seed)] for seed in (1, 2)}),
        tidy({("A", 1, table.TRIAL_PASSED): [(10, 0.0)]}),
    ])  # fmt: skip
    (row,) = rows(data, STUDY, plain="B")
    assert row == (
        "E-v0", "A", 2, "30 [20, 40]", "in 1 of 2 seeds, 1 times", "20 [20, 20]",
        "2.000 [2.000, 2.000]", "6.000 [5.000, 7.000]", "1.00 [1.00, 1.00]",
        "1.750 [1.750, 1.750]", "6.000 [5.000, 7.000]", "below",
    )  # fmt: skip
    assert len(row) == len(HEADER.split(" | "))
    assert not list(rows(data[data.arm == "A"], STUDY, plain="B"))
    with pytest.raises(ValueError, match="study has no arm SAC, beside which"):
        list(rows(data, dataclasses.replace(STUDY)))


def test_by_default_it_is_about_every_study_of_harm_and_of_any_environment():
    studies = [load_study(path) for path in Args().studies]
    assert {study.name for study in studies} == {
        "any_acrobot", "any_cart_pole", "any_pendulum", "any_swimmer",
        "harm_half_cheetah", "harm_humanoid", "harm_mountain_car", "harm_taxi",
    }  # fmt: skip
    assert all("SAC" in study.arms for study in studies)
