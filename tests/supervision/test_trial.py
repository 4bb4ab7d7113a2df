"""The dry run of a rule, and the trial: what is compared, over which horizon, and when a rule is ended."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from supervision.episodes import Stretch
from supervision.sandbox.messages import BoxAction, Observation, PolicyError
from supervision.sandbox.policy import SandboxedPolicy
from supervision.trial import LOOKS, Trial, dry_run, worse


def stretch(rewards, guided, end="terminated", global_step=0, start=0):
    return Stretch(0, global_step, start, guided, False, rewards=list(rewards), end=end)


def trial_of(guided, probes, pairs=3, **fields):
    trial = Trial(pairs, **fields)
    for rewards in guided:
        trial.add(stretch(rewards, True), 0)
    for rewards in probes:
        trial.add(stretch(rewards, False), 0)
    return trial


def rule(source):
    return SandboxedPolicy(
        source, observation=Observation("floats", (2,)), action=BoxAction(np.full(1, -1.0), np.full(1, 1.0))
    )


def test_a_rule_that_fails_on_a_state_is_found_out_and_closed():
    """One row at a time, with the steps of the episodes; the last state is the one at which it fails."""
    policy = rule("def policy(obs, t):\n    return 1.0 / (3 - t) * (obs[0] < 1)")
    states = [np.zeros(2), np.ones(2)]
    assert dry_run(policy, states, [1, 2]) is policy
    with pytest.raises(PolicyError, match="division by zero"):
        dry_run(policy, states, [2, 3])
    with pytest.raises(PolicyError, match="closed"):
        policy(np.zeros((1, 2)), np.zeros(1, dtype=int))


returns = st.lists(st.floats(-100, 100), min_size=3, max_size=20)


@given(these=returns, those=returns)
@settings(deadline=None)
def test_worse_is_welch_s_test(these, those):
    """Beyond 2.5 standard errors, by SciPy's statistic of unequal variances."""
    if np.ptp(these) < 1e-3 and np.ptp(those) < 1e-3:
        return  # without variance: below
    t = stats.ttest_ind(these, those, equal_var=False).statistic
    if abs(t + 2.5) > 1e-6:
        assert worse(these, those) == (t < -2.5)


def test_worse_without_variance_is_below():
    assert worse([-3.0] * 3, [-1.0] * 3)
    assert not worse([-1.0] * 3, [-1.0] * 3)
    assert not worse([0.1 + 0.2] * 3, [0.3] * 3) and not worse([0.3] * 3, [0.1 + 0.2] * 3)  # they differ by rounding


def test_returns_are_compared_as_far_as_the_probes_were_followed():
    """One probe was cut after four steps, behind the longest guided episode: what others did later does not count."""
    trial = trial_of([[1, 1], [1, 1, 1], [1]], [[1, 1, 1, -9, 50], [2]])
    trial.add(stretch([0, 0, 0, 0], False, "cut"), 0)
    assert trial.longest == 3 and trial.horizon == 4 and trial.comparable() == [-6.0, 2.0, 0.0]
    verdict = trial.look()
    assert (verdict.guided, verdict.other, verdict.counts, verdict.horizon) == (2.0, -4 / 3, (3, 3), 4)
    assert verdict.passed and trial.good


def test_a_rule_that_fells_a_robot_early_is_found_out():
    """One a step until it falls: over the guided episodes' own lengths both would have earned the same."""
    trial = trial_of([[1] * 15, [1] * 16, [1] * 14], [[1] * 25, [1] * 28, [1] * 22])
    assert trial.horizon == 28 and not trial.look().passed
    trial = trial_of([[1] * 15] * 3, [])
    for _ in range(3):
        trial.add(stretch([1] * 30, False, "cut"), 0)  # it would stand on
    assert trial.horizon == 30 and not trial.look().passed


def test_a_probe_that_was_cut_before_the_horizon_gives_no_verdict():
    trial = trial_of([[-1] * 3] * 3, [[0] * 3] * 2)
    trial.add(stretch([0, 0], False, "cut"), 0)
    assert len(trial.comparable()) == 2 and trial.look() is None
    trial.add(stretch([0, 0, 0], False, "cut"), 0)  # as long as the horizon: it counts
    verdict = trial.look()
    assert not verdict.passed and (verdict.guided, verdict.other) == (-3.0, 0.0)
    assert str(verdict) == "return -3 guided (3 episodes), 0 unguided (3), over their first 3 steps"
    assert verdict.ending == f"the rule was ended, for it earned less: {verdict}, without any spread"


def test_what_is_said_of_an_ended_rule_is_how_far_the_means_are_apart():
    """A difference of 0.2 %, which is certain and small, is told as that: by SciPy 6.7 standard errors."""
    guided, unguided = [83.86, 83.83, 83.89], [83.98, 84.01, 84.0]
    verdict = trial_of([[r] for r in guided], [[r] for r in unguided]).look()
    t = stats.ttest_ind(guided, unguided, equal_var=False).statistic
    assert not verdict.passed and verdict.ending == (
        "the rule was ended, for it earned less: return 83.86 guided (3 episodes), 84 unguided (3), over their first 1 "
        f"steps, {-t:.1f} standard errors apart"
    )


def test_what_a_rule_took_over_in_the_middle_counts_for_neither_side():
    assert stretch([1, 2], False, start=4).return_until(1) is None
    assert stretch([1, 2], True, "").return_until(2) == 3 and stretch([1, 2], True, "").return_until(3) is None
    assert stretch([1, 2], True, "truncated").return_until(3) == 3


def test_looks_are_few():
    """At 3, 5, 8, 12 and 20 pairs, then at every tenth; between them a bad stretch of luck does not end a rule."""
    trial, looked = Trial(3), []
    for n in range(1, 52):
        trial.add(stretch([float(n % 2)], True), 0)
        assert trial.look() is None
        trial.add(stretch([float(n % 2)], False), 0)
        if trial.look() is not None:
            looked.append(n)
        assert trial.look() is None  # once a look
    assert looked == [*LOOKS, 30, 40, 50]


def test_later_looks_begin_with_the_pairs_that_are_asked_for():
    trial = trial_of([[0]] * 4, [[1]] * 4, pairs=5)
    assert trial.look() is None
    trial = trial_of([[0]] * 5, [[1]] * 5, pairs=5)
    assert not trial.look().passed


def test_a_sparse_task_s_good_rule_passes():
    """MountainCar's costs reward before it reaches the goal; a probe that stands still costs nothing."""
    reach, stand = [-0.1] * 99 + [100.0], [0.0] * 999
    assert trial_of([reach] * 3, [stand] * 3).look().passed
    assert not trial_of([[-0.1] * 999] * 3, [stand] * 3).look().passed  # the wrong sign


def test_what_is_old_is_forgotten():
    """Episodes that began before the last windows, the predecessor's too; twenty of a kind stay, however old."""
    trial = trial_of([[-1.0]] * 20, [[1.0]] * 19, predecessor=deque([stretch([0.0], True)] * 2))
    trial.add(stretch([5.0], True, global_step=50), 40)
    assert [s.rewards for s in trial.guided] == [[-1.0]] * 19 + [[5.0]] and len(trial.probes) == 19
    assert trial.forgotten == (1, 0) and not trial.predecessor
    for _ in range(2):
        trial.add(stretch([7.0], False, global_step=50), 40)
    assert [s.rewards for s in trial.probes] == [[1.0]] * 18 + [[7.0]] * 2 and trial.forgotten == (1, 1)


@pytest.mark.parametrize("steps", [20, 1_000])
def test_a_rule_that_turns_harmful_late_is_found_out(steps):
    """A thousand pairs behind the first look, of which the last few are kept: looks go on at every tenth."""
    trial, now = Trial(3), 0
    for pair in range(1_000):
        for guided in (True, False):
            late = pair >= 900
            trial.add(stretch([-1.0 if guided and late else 1.0], guided, global_step=now), now - 10_000)
            verdict, now = trial.look(), now + steps
            if verdict is not None and not verdict.passed:
                assert pair == 909  # the first look behind the turn
                return
    pytest.fail("it was never found out")


def test_a_new_rule_must_not_be_worse_than_the_last_good_one():
    """Both do better than no guidance; the new one, by far, not as well as the rule before."""
    before = deque(stretch([r], True) for r in (-5.0, -5.5, -4.5))
    unguided = [[-46.0], [-47.0], [-45.0]]
    verdict = trial_of([[-24.0], [-25.0], [-23.0]], unguided, predecessor=before).look()
    assert not verdict.passed and verdict.other == -5.0 and "under the rule before" in str(verdict)
    trial = trial_of([[-4.0], [-5.0], [-3.0]], unguided, predecessor=before)
    assert trial.look().passed and trial.good


def test_a_checkpoint_holds_it():
    trial = trial_of([[1, 2], [3]], [[1]], predecessor=deque([stretch([4], True)]))
    again = Trial.from_state(trial.state_dict())
    assert again.state_dict().keys() == trial.state_dict().keys()
    for one in (trial, again):
        one.add(stretch([0], False), 0)
        one.add(stretch([0, 5], False), 0)
        one.add(stretch([9], True), 0)
    assert str(again.look()) == str(trial.look()) and again.looked == 3
