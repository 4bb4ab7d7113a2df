"""Guidance inside training: which steps are guided, how a trial ends a rule, and that no step is hidden.

On LineEnv episodes have ten steps and return the sum of the actions, so that the returns of a still agent under a rule
are known: 5 under RULE, -10 under HARMFUL, 0 alone.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, Endpoint, scalars, texts
from consultations import (
    DECLINE,
    HARMFUL,
    INTERVENE,
    RULE,
    LineEnv,
    both,
    consult,
    consultant,  # noqa: F401
    exchanges,
    failures,
    finish,
    run_on,
    user_text,
)

from supervision.answers import parse_code
from supervision.arguments import warn_of_late_learning

WEAK = RULE.replace("LIMIT = 0.5", "LIMIT = 0.2")


def steps(*begins: int, length: int = 10) -> list[int]:
    """The steps of episodes that begin there."""
    return [step for begin in begins for step in range(begin, begin + length)]


def episode_returns(it) -> list[float]:
    return [round(f.episode_return, 3) for f in it.supervisor.guidance.episodes.finished]


def own_rule(consultant, code: str, **flags):
    """A run under a rule of the user's own, without prompts, key or bundled rule."""
    Path("rule.py").write_text(parse_code(code))
    return consultant(None, supervisor="auto", guide_policy="rule.py", guide_window=100, **flags)


# -- the trial ---------------------------------------------------------------------------------------------------------


def test_a_rule_that_makes_it_worse_is_ended_and_tried_once_more(consultant, capsys):
    """Three pairs of episodes in the first window and three in the second: 60 guided steps, and no third try."""
    it = own_rule(consultant, HARMFUL)
    assert it.supervisor.mode == "bundled" and "a rule of your own" in it.supervisor.description
    run_on(it, 400)
    assert it.guided == steps(0, 20, 40, 100, 120, 140)
    assert episode_returns(it)[:6] == [0, 0, 0, 0, 0, 0] and failures(it) == 0  # the last 20: from step 200 on
    finish(it)
    verdict = "return -10 guided (3 episodes), 0 unguided (3), over their first 10 steps"
    ended = f"the rule was ended, for it earned less: {verdict}, without any spread"
    printed = capsys.readouterr().out
    assert f"step 60: supervisor: {ended}\n" in printed and f"step 160: supervisor: {ended}\n" in printed
    assert texts(it.run, "supervisor/verdict") == [
        "guiding", ended, "guiding", ended, *["unguided: 2 trials ended the rule"] * 2,
    ]  # fmt: skip
    logged = scalars(it.run)
    assert logged["charts/guidance_active"] == [  # a step: the old value is logged one step before a change
        (0, 1.0), (59, 1.0), (60, 0.0), (99, 0.0), (100, 1.0), (159, 1.0), (160, 0.0), (200, 0.0), (300, 0.0),
        (401, 0.0),
    ]  # fmt: skip
    assert logged["supervisor/guided_steps"] == [
        (0, 0.0), (60, 30.0), (100, 30.0), (160, 60.0), (200, 60.0), (300, 60.0), (401, 60.0),
    ]  # fmt: skip
    assert logged["supervisor/trial_guided_return"] == [(60, -10.0), (160, -10.0)]
    assert logged["supervisor/trial_unguided_return"] == [(60, 0.0), (160, 0.0)]


def test_a_rule_that_helps_goes_on(consultant):
    """Looked at behind 3 pairs of episodes; then all is guided until less than a tenth of the steps is the learner's.

    Up to step 60 thirty are, so the next probe begins at 310, the first end of an episode with more than 300 steps.
    """
    it = own_rule(consultant, RULE)
    run_on(it, 320)
    assert it.guided == steps(0, 20, 40, *range(60, 310, 10))
    assert it.supervisor.consultations.good.source == parse_code(RULE)
    assert it.supervisor.who_acted() == "19 guided, 1 alone"  # of the last twenty episodes
    finish(it)
    logged = scalars(it.run)
    assert logged["supervisor/guided_return"] == [(s + 10, 5.0) for s in (0, 20, 40, *range(60, 310, 10))]
    assert logged["supervisor/unguided_return"] == [(s + 10, 0.0) for s in (10, 30, 50, 310)]
    assert logged["supervisor/trial_guided_return"] == [(60, 5.0)]
    assert logged["supervisor/trial_unguided_return"] == [(60, 0.0)]


def test_without_a_trial_a_rule_that_makes_it_worse_guides_on(consultant):
    """Only the share of unguided steps is kept."""
    it = own_rule(consultant, HARMFUL, trial_pairs=0)
    run_on(it, 200)
    assert it.guided == steps(*(s for s in range(0, 200, 10) if s not in (10, 110)))
    finish(it)
    assert "supervisor/trial_guided_return" not in scalars(it.run)


def test_advisor_always_guides_every_step_without_a_trial(consultant):
    it = own_rule(consultant, HARMFUL, advisor_always=True)
    run_on(it, 150)
    assert it.guided == list(range(150))
    finish(it)
    assert "supervisor/trial_guided_return" not in scalars(it.run)


def test_a_coder_is_told_once_that_its_rule_was_ended(consultant, capsys):
    """Its conversation goes on with the verdict; after a second bad rule the window goes unguided.

    The first episode is the learner's. The rule begins at step 10 and is ended at 70, where the coder is asked again;
    the second one is ended at 130. The window that began with it ends at 170.
    """
    with Endpoint(both(code=HARMFUL)) as endpoint:
        it = consultant(endpoint.url, guide_window=100)
        run_on(it, 70)
        assert it.guided == steps(10, 30, 50) and it.supervisor.waiting and it.supervisor.guiding is None
        run_on(it, 170)
        assert it.guided == steps(10, 30, 50, 70, 90, 110) and not it.supervisor.waiting
        assert [request["model"] for request in endpoint.requests] == ["an-advisor", "a-coder", "a-coder"]
        run_on(it, 171)
    assert [request["model"] for request in endpoint.requests[3:]] == ["an-advisor", "a-coder"]
    first, again = (request["messages"] for request in endpoint.requests[1:3])
    verdict = "return -10 guided (3 episodes), 0 unguided (3), over their first 10 steps"
    ended = f"the rule was ended, for it earned less: {verdict}, without any spread"
    assert again == [
        *first, {"role": "assistant", "content": HARMFUL},
        {"role": "user", "content": f"{ended}. Write another rule."},
    ]  # fmt: skip
    assert f"; guiding; at step 70 {ended}" in user_text(endpoint.requests[3])  # the advisor knows of both
    assert f"at step 130 {ended}" in user_text(endpoint.requests[3])
    assert [e.get("trial") for e in exchanges(it.run)] == [None, ended, ended, None, None]
    assert capsys.readouterr().out.count("was ended, for it earned less") == 2 and failures(it) == 0


def test_a_rule_that_is_worse_than_the_last_good_one_gives_way_to_it(consultant, capsys):
    """0.2 a step is better than standing still, and not as good as the 0.5 of the rule before.

    The good rule guides three episodes of its trial and four more before the next one comes at step 110; that one is
    ended at its first look, at 170.
    """
    codes = iter([RULE, WEAK])
    with Endpoint(lambda body, n: next(codes) if body["model"] == "a-coder" else INTERVENE) as endpoint:
        it = consultant(endpoint.url, guide_window=100)
        run_on(it, 200)
    # the trial of the good rule goes on: no episode is given up to examine it once more
    assert episode_returns(it) == [0, 5, 0, 5, 0, 5, 0, 5, 5, 5, 5, 2, 0, 2, 0, 2, 0, 5, 5, 5]
    assert it.supervisor.guiding is not None and it.supervisor.consultations.rule.source == parse_code(RULE)
    assert (
        "step 170: supervisor: the rule was ended, for it earned less: return 2 guided (3 episodes), 5 under the rule "
        "before (7), over their first 10 steps, without any spread; the last good rule guides again\n"
    ) in capsys.readouterr().out
    assert not it.supervisor.waiting and len(endpoint.requests) == 4
    # the advisor is told what the first rule did before it advises another
    effect = "return 5 guided (3 episodes), 0 unguided (3), over their first 10 steps"
    assert user_text(endpoint.requests[2]).count(f"; guiding; its trial so far: {effect}\n") == 1
    # the conversation and the verdict were the other rule's
    assert it.supervisor.consultations.asked is None and it.supervisor.consultations.verdict is None
    finish(it)
    logged = scalars(it.run)
    assert [step for step, _ in logged["supervisor/trial_guided_return"]] == [70, 170]
    assert logged["supervisor/trial_unguided_return"] == [(70, 0.0)]  # the second one was against the rule before
    assert logged["charts/guidance_active"] == [
        (0, 0.0), (9, 0.0), (10, 1.0), (110, 1.0), (170, 1.0), (200, 1.0), (201, 0.0),
    ]  # fmt: skip


# -- windows -----------------------------------------------------------------------------------------------------------


def test_a_window_in_which_nothing_new_was_seen_keeps_its_decision(consultant):
    """Without probes nobody is asked again; where the learner acts alone, in each window, from step 2 on."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, guide_window=20, trial_pairs=0, probe_share=0.0)
        run_on(it, 120)
        assert len(endpoint.requests) == 2 and it.guided == list(range(2, 120))
        assert it.supervisor.consultations.count == 1
    with Endpoint(both(advice=DECLINE)) as endpoint:
        it = consultant(endpoint.url, "other", guide_window=20)
        run_on(it, 120)
        assert len(endpoint.requests) == 6 and not it.guided  # at 2, 22, 42, 62, 82, 102


def test_a_model_is_asked_behind_a_tenth_of_a_window_where_episodes_are_long(consultant):
    """A stretch of five steps is enough for a window of 50, also where the episode goes on."""
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, guide_window=50)
        run_on(it, 5)
        assert endpoint.requests == [] and it.supervisor.waiting
        run_on(it, 8)
        assert len(endpoint.requests) == 2 and it.guided == [5, 6, 7] and not it.supervisor.waiting


def test_several_environments_are_marked_in_turn(consultant):
    """Two side by side: one is guided and one a probe until three pairs are over, at step 60; then both are guided.

    A tenth of all steps is the learner's while the 30 of the probes are: to step 300.
    """
    it = own_rule(consultant, RULE, num_envs=2)
    run_on(it, 300)
    assert it.guided == sorted([*range(0, 60, 2), *range(60, 300, 2), *range(60, 300, 2)])


def test_an_advisor_beside_a_rule_of_one_s_own_is_asked_at_once_and_told_the_facts_later(consultant):
    """At step 0 nothing was seen; at 20 a guided episode and a probe are over."""
    Path("rule.py").write_text(parse_code(RULE))
    with Endpoint(both()) as endpoint:
        it = consultant(endpoint.url, guide_policy="rule.py", guide_window=20)
        assert consult(it, 0) is not None
        consult(it, 20)
    first, later = (request["messages"][0]["content"] for request in endpoint.requests)
    assert "nothing is known yet" in first and "nothing is known yet" not in later
    assert "0 to 0.5 in 20 steps of training (guided, sampled actions)" in later


# -- no step is hidden -------------------------------------------------------------------------------------------------


class CountedEnv(LineEnv):
    """LineEnv that can be drawn; it knows all environments that were made and how often each was stepped."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    made: ClassVar[list] = []

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode)
        self.actions: list[float] = []
        CountedEnv.made.append(self)

    def step(self, action):
        self.actions.append(float(action[0]))
        return super().step(action)

    def render(self):
        return np.full((16, 16, 3), self.t, np.uint8)


gym.register("Counted-v0", entry_point=CountedEnv)
COUNTED = ["--env-id", "Counted-v0", "--num-envs", "2", "--guide-window", "100", "--total-timesteps", "400",
           "--batch-size", "8", "--eval-frequency", "200", "--eval-episodes", "2",
           "--max-episode-steps", "50"]  # fmt: skip


@pytest.mark.parametrize("who", ["a rule", "a harmful rule", "models", "none"])
def test_no_environment_but_those_of_training_is_stepped(who, run_here, monkeypatch):
    """N steps of a run are N steps of its environments and N transitions in the buffer, whatever supervises, is filmed
    and is tried; evaluation has its own."""
    monkeypatch.setattr(CountedEnv, "made", [])
    Path("rule.py").write_text(parse_code(HARMFUL if who == "a harmful rule" else RULE))
    with Endpoint(both()) as endpoint:
        flags = ["--guide-policy", "rule.py"] if "rule" in who else ["--supervisor", "none"]
        if who == "models":
            flags = ["--llm-base-url", endpoint.url, "--advisor-model", "an-advisor", "--coder-model", "a-coder"]
        run = run_here(*COUNTED, *flags)
    training = [env.unwrapped for env in run.envs.envs]
    assert run.global_step == 400 and run.rb.transitions.actions[:400, 0].view(200, 2).T.tolist() == [
        env.actions for env in training
    ]
    evaluation = [env.unwrapped for env in run.evaluator.envs]
    assert [len(env.actions) for env in evaluation] == [30, 30]  # an episode each at steps 0, 200 and 400
    assert sum(len(env.actions) for env in CountedEnv.made) == 460
    logged = scalars(run.run_name)
    assert "charts/supervision_steps" not in logged
    assert len(list(Path(f"runs/{run.run_name}").rglob("*.mp4"))) > 0 or who == "none"  # it was filmed
    if who != "none":
        assert 0 < logged["supervisor/guided_steps"][-1][1] < 400


# -- guidance and learning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learning_starts", "start", "end", "total", "num_envs", "said"),
    [
        (501, 0, 1_000, 9_999, 1, "501 of 1,000 steps of guidance come before the first update"),
        (500, 0, 1_000, 9_999, 1, ""), (0, 0, 1_000, 9_999, 1, ""), (100, 0, 300, 300, 1, ""),
        (99_999, 0, 10, 9_999, 1, "10 of 10 steps of guidance come before the first update"),
        (5_000, 4_000, 6_000, 9_999, 1, ""), (100, 4_000, 6_000, 9_999, 1, ""),
        (5_001, 4_000, 6_000, 9_999, 1, "1,001 of 2,000 steps of guidance come before the first update"),
        # the run ends before its guidance
        (5_000, 0, 10_000, 6_000, 1, "5,000 of 6,000 steps of guidance come before the first update"),
        (450, 0, 1_000, 500, 1, "450 of 500 steps of guidance come before the first update"),
        (100, 6_000, 9_000, 6_000, 1, "there is no guidance in this run: --guide-start 6,000"),
        # too few updates
        (0, 0, 20, 9_999, 1, "within 20 steps of guidance there are only 20 updates (one for 1 step,"),
        (100, 0, 299, 9_999, 1, "within 299 steps of guidance there are only 199 updates"),
        (100, 0, 300, 9_999, 64, "within 300 steps of guidance there are only 3 updates (one for 64 steps,"),
        (0, 0, 12_800, 99_999, 64, ""),
    ],
)  # fmt: skip
def test_guidance_that_would_end_before_enough_updates_is_a_loud_line(
    learning_starts, start, end, total, num_envs, said, capsys
):
    args = SimpleNamespace(learning_starts=learning_starts, guide_start=start, guide_end=end, total_timesteps=total)
    warn_of_late_learning(args, num_envs)
    printed = capsys.readouterr().out
    assert printed.startswith(f"supervisor: WARNING: {said}") if said else printed == ""


@pytest.mark.parametrize(
    ("forked_at", "end", "said"),
    [
        (15_000, 10_000, "there is no guidance in this run: it begins at step 15,000, guidance ends at 10,000."),
        (9_900, 10_000, "within 100 steps of guidance there are only 100 updates"),
        (50, 299, "within 249 steps of guidance there are only 199 updates"),  # the first update is at step 100
        (9_000, 10_000, ""),
    ],
)  # fmt: skip
def test_a_fork_s_guidance_is_counted_from_its_first_step(forked_at, end, said, capsys):
    args = SimpleNamespace(learning_starts=100, guide_start=0, guide_end=end, total_timesteps=20_000)
    warn_of_late_learning(args, 1, forked_at)
    printed = capsys.readouterr().out
    assert printed.startswith(f"supervisor: WARNING: {said}") if said else printed == ""


def test_a_model_is_asked_first_about_a_tenth_of_a_window(consultant):
    """Episodes of ten steps: two are over and five steps of the third are gone; a rule that is there waits for none."""
    with Endpoint(both(DECLINE)) as endpoint:
        it = consultant(endpoint.url, guide_window=250)
        run_on(it, 40)
        assert user_text(endpoint.requests[0]).startswith("Training step 25 of ") and len(endpoint.requests) == 1
    it = own_rule(consultant, RULE)
    run_on(it, 1)
    assert it.guided == [0]


def test_the_first_question_about_a_humanoid_has_the_effects_of_its_actions(run_here):
    """Of the 100 random steps before learning, in which it falls four times and more; there are 17 actions."""
    with Endpoint(both(DECLINE)) as endpoint:
        run_here("--env-id", "Humanoid-v5", "--supervisor", "llm", "--llm-base-url", endpoint.url,
                 "--advisor-model", "an-advisor", "--total-timesteps", "101", "--replay-frames", "0")  # fmt: skip
    (request,) = endpoint.requests
    text = user_text(request)
    assert text.startswith("Training step 100 of 101.") and "on 100 steps of uniformly random actions" in text
    assert sum(f"\naction[{i}]: obs[" in text for i in range(17)) >= 15


def test_models_are_told_of_updates_from_the_first_one_on(consultant):
    it = own_rule(consultant, RULE)
    it.supervisor.args.learning_starts = 100
    assert [it.supervisor.consultations.seen(step).updated for step in (0, 100, 101)] == [False, False, True]


def test_the_loud_line_comes_before_training(run_here, capsys):
    Path("rule.py").write_text(parse_code(RULE))
    flags = ["--env-id", "Line-v0", "--guide-policy", "rule.py", "--guide-end", "250", "--total-timesteps", "260"]
    run_here(*flags, "--learning-starts", "240")
    printed = capsys.readouterr().out
    assert printed.index("supervisor: WARNING: 240 of 250 steps") < printed.index("step 0: supervisor: ")
    run_here(*flags, "--learning-starts", "50")
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(("total", "who"), [(90, "9 guided"), (150, "10 guided, 5 alone"), (300, "")])
def test_progress_says_who_acted_in_the_episodes_that_it_averages(total, who, run_here, capsys):
    """Guided for ten episodes of ten steps; a line averages the last twenty."""
    Path("rule.py").write_text(parse_code(RULE))
    run_here("--env-id", "Line-v0", "--guide-policy", "rule.py", "--advisor-always", "--guide-end", "100",
             "--total-timesteps", str(total), "--learning-starts", "300")  # fmt: skip
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"step {total}/{total}")]
    assert re.search(r"return -?\d+\.\d" + re.escape(f" ({who})" if who else "") + "$", line), line


def test_what_a_guided_run_computes_does_not_depend_on_its_end(run_here):
    """Up to step 200: a run that ends there, and one that goes on, under a rule with its trial and its probes."""
    Path("rule.py").write_text(parse_code(RULE))
    flags = ["--env-id", "Line-v0", "--guide-policy", "rule.py", "--learning-starts", "50", "--batch-size", "8"]
    short, long = (run_here(*flags, "--total-timesteps", total) for total in ("200", "400"))
    for name in ("actions", "rewards", "observations"):
        ours, theirs = (getattr(run.rb.transitions, name)[:200] for run in (short, long))
        assert torch.equal(ours, theirs)
    assert short.supervisor.guidance.guided_steps > 0
    a, b = scalars(short.run_name), scalars(long.run_name)
    for tag in ("charts/episodic_return", "losses/qf_loss", "supervisor/guided_return"):
        assert a[tag] == [point for point in b[tag] if point[0] <= 200] and a[tag]


@pytest.mark.parametrize("code", [RULE, HARMFUL], ids=["a good rule", "a harmful rule"])
def test_a_rule_of_one_s_own_needs_nothing_else(code, run_here, capsys):
    """In an environment without prompts, with default flags: it guides from step 0 on and is judged at step 60.

    Half of the steps are the learner's, so that it then guides every other episode."""
    Path("rule.py").write_text(parse_code(code))
    run = run_here("--env-id", "Line-v0", "--guide-policy", "rule.py", "--total-timesteps", "160")
    printed = capsys.readouterr().out
    assert "supervisor: bundled (auto: no key or base URL is set; a rule of your own)\n" in printed
    logged = scalars(run.run_name)
    assert logged["supervisor/trial_guided_return"][0][0] == 60
    ended = "was ended, for it earned less" in printed
    assert ended == (code == HARMFUL)
    active = [(0, 1.0), (59, 1.0), (60, 0.0), (160, 0.0)] if ended else [(0, 1.0), (159, 1.0), (160, 0.0)]
    assert logged["charts/guidance_active"] == active
    assert logged["supervisor/guided_steps"][-1] == (160, 30.0 if ended else 80.0)


def test_paper_has_probes_and_no_trial(run_here):
    """On FrozenLake's bundled rule: an episode is the learner's while less than a tenth of the steps before it was, and
    nothing is compared."""
    run = run_here("--env-id", "FrozenLake-v1", "--paper", "--supervisor", "bundled", "--total-timesteps", "600",
                   "--replay-frames", "0", script=ROOT / "guided_sac_discrete.py")  # fmt: skip
    logged = scalars(run.run_name)
    assert logged["charts/guidance_active"][0] == (0, 1.0) and logged["charts/guidance_active"][-2][1] == 1.0
    marks = []
    for end in [*(int(step) for step, _ in logged["charts/episodic_length"]), 600]:
        guided = marks.count(False) >= 0.1 * len(marks)
        marks += [guided] * (end - len(marks))
    assert run.guided_rows[:600].tolist() == marks and marks.count(False) > 40
    assert logged["supervisor/guided_steps"][-1] == (600, marks.count(True))
    assert "supervisor/trial_guided_return" not in logged
