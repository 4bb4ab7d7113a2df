"""Which episodes a rule guides: probes and guided episodes, hand-overs, shares, and what a checkpoint keeps."""

import numpy as np
import pytest

from supervision.guidance import Guidance
from supervision.sandbox.messages import BoxAction, DiscreteAction, Observation
from supervision.sandbox.policy import SandboxedPolicy
from supervision.trial import Trial

BOX = BoxAction(np.full(1, -1.0), np.full(1, 1.0))
STEP = "def policy(obs, t):\n    return 0.5 + 0.005 * t"


@pytest.fixture
def rule():
    with SandboxedPolicy(STEP, observation=Observation("floats", (2,)), action=BOX) as policy:
        yield policy


class Loop:
    """Training's loop on episodes whose lengths are given, one list an environment: reward 1 a step."""

    def __init__(self, guidance, lengths, reward=1.0):
        self.guidance, self.lengths, self.reward = guidance, [list(x) for x in lengths], reward
        self.t, self.step, self.marks = np.zeros(len(lengths), dtype=int), 0, [[] for _ in lengths]
        self.verdicts = []

    def run(self, steps):
        n = len(self.t)
        for _ in range(steps):
            obs = np.zeros((n, 2))
            _, mask = self.guidance(obs, self.t)
            for i in range(n):
                if self.t[i] == 0:
                    self.marks[i].append("")
                self.marks[i][-1] += "g" if mask[i] else "u"
            ends = np.array([self.t[i] + 1 == self.lengths[i][0] for i in range(n)])
            verdict = self.guidance.follow(
                self.step, obs, self.t, np.zeros((n, 1)), np.full(n, self.reward), obs, ends, np.zeros(n, bool)
            )
            if verdict:
                self.verdicts.append(verdict)
            self.t = np.where(ends, 0, self.t + 1)
            for i in np.flatnonzero(ends):
                if len(self.lengths[i]) > 1:
                    self.lengths[i].pop(0)
            self.step += n
        return self


def test_without_a_rule_nothing_is_guided():
    guidance = Guidance(2, BOX, 100, 3, 0.1)
    actions, mask = guidance(np.zeros((2, 2)), np.zeros(2, dtype=int))
    assert actions.shape == (2, 1) and not actions.any() and not mask.any()
    assert Guidance(3, DiscreteAction(4), 100, 3, 0.1)(np.zeros((3, 1)), np.zeros(3, dtype=int))[0].shape == (3,)


def test_a_new_rule_begins_with_guided_episodes_and_probes_in_turn(rule):
    """The episode before it is the first probe: guided, probe, guided, probe, guided; then one step in ten is alone."""
    guidance = Guidance(1, BOX, 100, 3, 0.1)
    loop = Loop(guidance, [[4]]).run(4)
    guidance.begin(rule, Trial(3))
    loop.run(4 * 40)
    kinds = "".join(mark[0] for mark in loop.marks[0])
    assert all(len(set(mark)) == 1 for mark in loop.marks[0])  # an episode is of one kind
    assert kinds[:7] == "ugugugu"  # the one before the rule is no comparison: the rule was not there
    assert kinds.count("u") == pytest.approx(0.1 * len(kinds), abs=1)
    assert loop.verdicts[0].counts == (3, 3)


def test_a_probe_that_takes_too_long_goes_on_with_the_rule(rule):
    """Twice the longest guided episode; nothing of what is left of it counts."""
    guidance = Guidance(1, BOX, 100, 3, 0.1)
    loop = Loop(guidance, [[50, 15, 60, 15, 60]]).run(10)
    guidance.begin(rule, Trial(3))  # in the middle of an episode, which is handed over
    loop.run(40 + 15 + 60 + 15)
    assert loop.marks[0] == ["u" * 10 + "g" * 40, "g" * 15, "u" * 30 + "g" * 30, "g" * 15]
    assert [len(s) for s in guidance.trial.guided] == [15, 15] and [len(s) for s in guidance.trial.probes] == [10, 30]
    assert guidance.trial.comparable() == [30.0]


def test_before_a_guided_episode_is_over_a_probe_may_take_a_tenth_of_a_window(rule):
    """Two environments, so that one is a probe while the other's first guided episode goes on."""
    guidance = Guidance(2, BOX, 200, 3, 0.1)
    guidance.begin(rule, Trial(3))
    loop = Loop(guidance, [[70], [70]]).run(50)
    assert loop.marks == [["g" * 50], ["u" * 20 + "g" * 30]]


def test_a_rule_is_told_that_an_episode_in_the_middle_is_new_to_it():
    """What it counted in the episode before is gone, though no step 0 tells it."""
    source = "n = [0]\ndef policy(obs, t):\n    n[0] += 1\n    return 0.01 * n[0]"
    with SandboxedPolicy(source, observation=Observation("floats", (2,)), action=BOX) as policy:
        guidance = Guidance(1, BOX, 100, 0, 0.1)
        guidance.begin(policy, Trial(0))
        for t in range(3):
            actions, _ = guidance(np.zeros((1, 2)), np.array([t]))
        assert actions[0, 0] == pytest.approx(0.03)
        loop = Loop(guidance, [[5]])
        loop.t[:], loop.marks = 3, [[""]]
        loop.run(2)
        guidance.stop()
        loop.run(2)
        guidance.begin(policy, Trial(0))  # at step 2 of an episode
        actions, mask = guidance(np.zeros((1, 2)), loop.t)
        assert mask[0] and actions[0, 0] == pytest.approx(0.01)


def test_environments_are_marked_in_turn(rule):
    """Two environments: one guided, the other a probe, and each acts as it is marked."""
    guidance = Guidance(2, BOX, 100, 3, 0.1)
    guidance.begin(rule, Trial(3))
    assert guidance.mask.tolist() == [True, False]
    actions, mask = guidance(np.zeros((2, 2)), np.array([7, 7]))
    assert mask.tolist() == [True, False] and actions[:, 0].tolist() == pytest.approx([0.535, 0.0])
    loop = Loop(guidance, [[4], [4]]).run(6 * 4)
    firsts = [[mark[0] for mark in marks] for marks in loop.marks]
    assert firsts[0][:3] == ["g"] * 3 and firsts[1][:3] == ["u"] * 3
    assert loop.verdicts[0].counts == (3, 3)


def test_without_probes_all_is_guided_at_once(rule):
    """--advisor-always: from the middle of the episode on, and no trial."""
    guidance = Guidance(1, BOX, 100, 0, 0.0)
    loop = Loop(guidance, [[6]], reward=-1.0).run(2)
    guidance.begin(rule, Trial(0))
    loop.run(22)
    assert loop.marks[0] == ["uugggg"] + ["g" * 6] * 3 and not loop.verdicts


def test_a_share_of_probes_without_a_trial(rule):
    """--paper: one episode in ten for the advisor's eyes, and nothing is compared."""
    guidance = Guidance(1, BOX, 1_000, 0, 0.1)
    guidance.begin(rule, Trial(0))
    loop = Loop(guidance, [[5]], reward=-1.0).run(5 * 100)
    assert sum(mark[0] == "u" for mark in loop.marks[0]) == 10 and not loop.verdicts


def test_unguided_windows_are_no_probes(rule):
    """After 200 unguided episodes one of ten is a probe as ever: else a rule would go on for long and nobody look."""
    guidance = Guidance(1, BOX, 1_000, 0, 0.1)
    loop = Loop(guidance, [[5]]).run(5 * 200)
    guidance.begin(rule, Trial(0))
    loop.run(5 * 100)
    assert sum(mark[0] == "u" for mark in loop.marks[0][200:]) == 10


def test_a_probe_that_is_cut_counts_for_the_advisor_as_far_as_it_went(rule):
    """Guided episodes of 4 steps, probes of 30 that are cut at twice as many: none is left out of the returns."""
    guidance = Guidance(1, BOX, 1_000, 3, 0.1)
    guidance.begin(rule, Trial(3))
    Loop(guidance, [[4, 30, 4, 30, 5]], reward=-1.0).run(2 * 34)
    assert list(guidance.episodes.unguided_returns) == [-8.0] * 2
    assert guidance.episodes.in_short() == "unguided returns -8 (cut at 8), -8 (cut at 8)"
    guidance.stop()
    Loop(guidance, [[5]]).run(3)
    guidance.begin(rule, Trial(3))  # in the middle of an episode, which was not followed as long
    assert list(guidance.episodes.unguided_returns) == [-8.0] * 2


def test_a_failing_rule_acts_nowhere_any_more():
    with SandboxedPolicy(
        "def policy(obs, t):\n    return 1 / (2 - t)", observation=Observation("floats", (2,)), action=BOX
    ) as policy:
        guidance = Guidance(1, BOX, 100, 3, 0.1)
        guidance.begin(policy, Trial(3))
        guidance(np.zeros((1, 2)), np.array([1]))
        assert guidance.failure is None
        actions, mask = guidance(np.zeros((1, 2)), np.array([2]))
        assert "division by zero" in str(guidance.failure) and not mask.any() and not actions.any()


def test_a_rule_that_is_stopped_leaves_its_episode_to_the_learner(rule):
    guidance = Guidance(1, BOX, 100, 3, 0.1)
    guidance.begin(rule, Trial(3))
    loop = Loop(guidance, [[8]]).run(3)
    guidance.stop()
    loop.run(13)
    assert loop.marks[0] == ["ggguuuuu", "u" * 8]
    assert not guidance.trial.guided  # cut: it counts for neither side
    assert [len(s) for s in guidance.episodes.unguided] == [5, 8] and guidance.episodes.unguided_returns[-1] == 8


def test_a_checkpoint_goes_on_in_the_middle(rule):
    """The same marks and verdicts as without it, from any step on."""

    def fresh():
        return Guidance(2, BOX, 100, 3, 0.2)

    lengths = [[7, 3, 5], [4, 9, 2]]
    whole = fresh()
    whole.begin(rule, Trial(3))
    loop = Loop(whole, lengths).run(37)
    again, state = fresh(), whole.state_dict()
    again.load_state_dict(state, rule)
    other = Loop(again, loop.lengths)
    other.t, other.step, other.marks = loop.t.copy(), loop.step, [list(m) for m in loop.marks]
    assert loop.run(60).marks == other.run(60).marks
    assert list(map(str, loop.verdicts[-len(other.verdicts) :])) == list(map(str, other.verdicts)) and other.verdicts


def test_a_failed_rule_s_episode_is_the_learner_s_from_there_on():
    """Three guided steps, then five alone: the stretch is cut where the rule failed, as the counts say."""
    source = "def policy(obs, t):\n    return 1 / (3 - t)"
    with SandboxedPolicy(source, observation=Observation("floats", (2,)), action=BOX) as policy:
        guidance = Guidance(1, BOX, 100, 3, 0.1)
        guidance.begin(policy, Trial(3))
        loop = Loop(guidance, [[8]]).run(3)
        guidance(np.zeros((1, 2)), loop.t)
        assert guidance.failure is not None
        guidance.stop()
        loop.run(5)
        assert (guidance.steps, guidance.guided_steps, guidance.alone) == (8, 3, 0)
        assert [len(s) for s in guidance.episodes.guided] == [3] and guidance.episodes.finished[-1][
            0
        ] == "partly guided"


def test_a_probe_that_is_cut_first_counts_once(rule):
    """Two environments: the probe is handed over before a guided episode is over."""
    guidance = Guidance(2, BOX, 200, 3, 0.1)
    guidance.begin(rule, Trial(3))
    Loop(guidance, [[70], [70]]).run(50)
    assert [len(s) for s in guidance.trial.probes] == [20]


def test_steps_before_guidance_starts_are_no_share_of_it(rule):
    """A thousand steps alone before `guide_start` do not make up for the probes behind it."""
    guidance = Guidance(1, BOX, 1_000, 0, 0.1, guide_start=1_000)
    loop = Loop(guidance, [[5]]).run(1_000)
    assert guidance.steps == 0
    guidance.begin(rule, Trial(0))
    loop.run(500)
    assert sum(mark[0] == "u" for mark in loop.marks[0][200:]) == 10


def test_of_an_episode_that_a_run_begins_anew_the_camera_is_told():
    """Behind its first step, since nobody knew of it; not of one that was over with that step."""
    told = []
    guidance = Guidance(2, BOX, 100, 3, 0.1, begun=lambda s: told.append((s.env, s.global_step, s.start, len(s))))
    guidance.open()
    loop = Loop(guidance, [[9, 5], [9]])
    loop.t[:], loop.step, loop.marks = 7, 2_000, [[""], [""]]
    loop.run(2)
    assert told == [(0, 0, 0, 0), (0, 2_000, 7, 1), (0, 2_004, 0, 0)]
    loop.t[:], loop.marks = 4, [[""], [""]]  # another one that was not foreseen, in its last step
    loop.run(1)
    assert told[3:] == [(0, 2_006, 0, 0)]


def test_of_long_episodes_few_are_kept():
    """Two thousand steps, and always the last episode; their returns are all remembered."""
    guidance = Guidance(1, BOX, 1_000, 3, 0.1)
    Loop(guidance, [[900]]).run(900 * 5)
    assert [len(s) for s in guidance.episodes.unguided] == [900, 900]
    assert list(guidance.episodes.unguided_returns) == [900.0] * 5
