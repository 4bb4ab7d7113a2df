"""What the models of a run are told, from stretches of training."""

import tracemalloc
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT
from rules import vectors

from supervision.episodes import Episodes, Finished, Stretch
from supervision.guidance import Guidance
from supervision.prompts import describe_env, rule_spaces
from supervision.questions import GUIDED_PICTURES, PICTURES, Questions, Seen
from supervision.sandbox.messages import BoxAction, Observation
from supervision.tables import (
    FEWEST_ROWS,
    MOST_ROWS,
    NUMBERS,
    Columns,
    comparison,
    heading,
    picture_steps,
    shown_steps,
    table,
)
from supervision.trial import Verdict

FLOATS = Observation("floats", (2,))
ARGS = SimpleNamespace(guide_end=3_000, guide_window=1_000, advisor_model="a", coder_model="c")


def walk(rewards: list[float], end: str = "truncated", start: int = 0, guided: bool = False, **changes) -> Stretch:
    """A stretch whose observation is (step, −step / 10), its action (step / 4,)."""
    values = dict(env=0, global_step=100, start=start, guided=guided, uniform=False) | changes
    stretch = Stretch(**values, end=end)
    state = lambda t: np.array([t, -t / 10])  # noqa: E731
    for t, reward in enumerate(rewards, start):
        stretch.add(state(t), np.array([t / 4], np.float32), reward, state(t + 1))
    return stretch


def columns(*stretches: Stretch, observation: Observation = FLOATS) -> Columns:
    return Columns(np.array([obs for s in stretches for obs in [*s.obs, s.next_obs[-1]]]), observation)


def rolled_out(env: gym.Env, steps: int, uniform: bool = True) -> list[Stretch]:
    """Episodes of uniformly random actions."""
    env.action_space.seed(0)
    episodes, (obs, _) = Episodes(1), env.reset(seed=0)
    for step in range(steps):
        stretch = episodes.present[0] or episodes.begin(0, step, 0, False, uniform)
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        stretch.add(obs, action, reward, next_obs)
        obs = next_obs
        if terminated or truncated:
            episodes.end(0, "terminated" if terminated else "truncated")
            obs, _ = env.reset()
    return episodes.latest(guided=False)


def questions_about(env_id: str, **options) -> Questions:
    env = vectors(env_id, **options)
    folder = ROOT / "prompts" / ("default" if isinstance(env.action_space, gym.spaces.Box) else "default-discrete")
    return Questions(ARGS, folder, describe_env(env, env_id), rule_spaces(env)[0])


# -- tables of steps --------------------------------------------------------------------------------------------------


def test_a_short_stretch_is_shown_whole():
    stretch = walk([-1.0, -0.5, 2.0], "terminated")
    assert table(stretch, columns(stretch), rows=9, pictures=5) == (
        "t=0 obs=[0 0] action=[0.] reward=-1\n"
        "t=1 obs=[1 -0.1] action=[0.25] reward=-0.5\n"
        "t=2 obs=[2 -0.2] action=[0.5] reward=2\n"
        "t=3 obs=[3 -0.3] (terminated)"
    )
    stretch.end = "cut"
    assert table(stretch, columns(stretch), 9, 5).endswith("t=3 obs=[3 -0.3]")


def test_of_a_long_stretch_runs_of_consecutive_steps_are_shown():
    """100 steps, 15 rows: those of three pictures, and four consecutive ones each at the start, middle and end."""
    stretch = walk([1.0] * 100)
    assert picture_steps(stretch, 3) == [0, 48, 96]  # of the multiples of 8
    assert shown_steps(stretch, 15, 3) == [0, 1, 2, 3, 48, 49, 50, 51, 96, 97, 98, 99]
    lines = table(stretch, columns(stretch), 15, 3).splitlines()
    assert [line.split()[0] for line in lines] == [
        "t=0", "t=1", "t=2", "t=3", "…", "t=48", "t=49", "t=50", "t=51", "…", "t=96", "t=97", "t=98", "t=99", "t=100",
    ]  # fmt: skip
    later = walk([1.0] * 100, start=30)
    assert picture_steps(later, 3) == [30, 78, 126] and table(later, columns(later), 15, 3).startswith("t=30 obs=[30 ")


@pytest.mark.parametrize("length", [1, 2, 9, 17, 100, 257, 999, 1_000])
@pytest.mark.parametrize("rows", [FEWEST_ROWS, 15, MOST_ROWS])
def test_shown_rows_are_few_and_hold_the_start_the_end_and_the_pictures(length, rows):
    stretch = walk([0.0] * length)
    for pictures in (0, 3, 5):
        steps = shown_steps(stretch, rows, pictures)
        assert steps == sorted(set(steps)) and len(steps) <= rows + 1
        assert {0, min(1, length - 1), max(length - 2, 0), length - 1} <= set(steps)
        assert set(picture_steps(stretch, pictures)) <= set(steps)


def test_a_stretch_that_is_not_known_to_its_end():
    """Of 1,500 steps the first 1,000 are; the last observation of the table is none of the episode's end."""
    stretch = walk([1.0] * 1_500, "terminated")
    assert len(stretch.obs) == 1_000
    text = table(stretch, columns(stretch), 12, 2)
    assert "t=999 obs=[999 -99.9]" in text and "terminated" not in text
    assert heading(stretch) == (
        "Unguided, sampled actions: episode from the reset, at training step 100; 1,500 steps, return 1500, "
        "terminated; of the first 1,000 steps are here"
    )


def test_who_acted_and_how_it_ended_is_said():
    assert heading(walk([1.0], "cut", start=7, guided=True)) == (
        "Guided by the rule, the learner's part sampled actions: episode from its step 7 on, at training step 100; "
        "1 steps, return 1, the episode went on, acted otherwise"
    )
    assert "Unguided, uniformly random actions: episode" in heading(walk([1.0], "", uniform=True))


def test_actions_are_called_random_only_where_they_were():
    """Training with --learning-starts 100 and an episode of 1,000 steps: the policy's are 900 of them."""
    guidance = Guidance(1, BoxAction(np.full(1, -1.0), np.full(1, 1.0)), 1_000, 3, 0.5, learning_starts=100)
    rng, obs, never = np.random.default_rng(0), np.zeros((1, 2)), np.zeros(1, bool)
    told = {}
    for step in range(1_000):
        action = rng.uniform(-1, 1, (1, 1)) if step < 100 else -obs[:, :1] + 0.3 * rng.normal(size=(1, 1))
        after = 0.5 * obs + np.array([[0.0, 1.0]]) * action + 0.1 * rng.normal(size=(1, 2))
        guidance.follow(step, obs, np.array([step]), action, np.ones(1), after, never, never)
        obs = after
        if step + 1 in (50, 101, 1_000):
            seen = Seen(guidance.episodes.latest(guided=False), [], total_steps=9_999, updated=step + 1 > 100)
            told[step + 1] = questions_about("MountainCarContinuous-v0").advisor(step + 1, seen, [], 0, None)
    first, second, third = (question.messages[1]["content"] for question in told.values())
    assert "has learned nothing yet" in first and "Unguided, uniformly random actions: episode" in first
    assert "50 steps of training (uniformly random actions)" in told[50].messages[0]["content"]
    for text, steps in ((second, 101), (third, 1_000)):
        assert "has learned nothing yet" not in text
        assert "Unguided, uniformly random actions until its step 100, then sampled actions: episode" in text
        assert f"{steps:,} steps, return" in text and "fitted on 100 steps of uniformly random actions" in text
        # the policy's 900 steps would say so: obs[0] falls by half of itself while the action is −obs[0]
        (line,) = [line for line in text.splitlines() if line.startswith("action[0]: ")]
        assert abs(float(line.split()[2]) - 1) < 0.1 and "obs[1]" in line and "obs[0]" not in line
    assert "1,000 steps of training (sampled, uniformly random actions)" in told[1_000].messages[0]["content"]


def test_a_stretch_that_began_within_an_episode_is_no_whole_one():
    text = text_of(Seen([walk([5.0] * 700, "terminated", start=300), walk([-1.0] * 5)], [], total_steps=5_000))
    assert "as return, steps, end: 3500, 700, terminated (from its step 300 on); -5, 5, truncated\n" in text


def test_a_question_about_images_needs_little_memory():
    """60 steps of 96 × 96 × 3: as float64 0.2 MB an observation, of which several copies were made at once."""
    image, rng = Observation("floats", (96, 96, 3)), np.random.default_rng(0)
    stretch = Stretch(0, 0, 0, guided=False, uniform=True)
    for _ in range(60):
        before, after = rng.integers(0, 255, (2, 96, 96, 3), dtype=np.uint8)
        stretch.add(before, rng.normal(size=3), 0.0, after)
    questions = questions_about("MountainCarContinuous-v0")
    questions.observation = image
    tracemalloc.start()
    question = questions.advisor(60, Seen([stretch], [], total_steps=5_000), [], 0, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6 and "What an action does" not in question.messages[1]["content"]
    assert f"obs[0:{NUMBERS}]=[" in question.messages[1]["content"]


def test_of_large_observations_few_steps_are_kept():
    """Of 128 kB each, with its successor: 32 MB of a stretch, and 64 MB of all that are over."""
    episodes, obs = Episodes(1), np.zeros(16_384)
    for _ in range(4):
        stretch = episodes.begin(0, 0, 0, False, False)
        for _ in range(200):
            stretch.add(obs, np.zeros(1), 1.0, obs)
        episodes.end(0, "truncated")
    assert [len(s.obs) for s in episodes.unguided] == [128, 128] and len(stretch) == 200
    assert "; of the first 128 steps are here" in heading(stretch)


def test_what_is_chosen_is_kept_and_in_the_checkpoint():
    """The first of environment 0 of each kind since the last consultation, behind any number of others."""

    def go_through(episodes: Episodes, first: int, number: int) -> None:
        for step in range(first, first + number):
            for env in (1, 0):
                stretch = episodes.begin(env, step, 0, guided=step % 2 == 1, uniform=True)
                stretch.add(np.zeros(2), np.zeros(1), 1.0, np.zeros(2))
                stretch.add(np.zeros(2), np.zeros(1), 1.0, np.zeros(2), sampled=True)
                episodes.end(env, "truncated")

    def chosen(episodes: Episodes) -> list[tuple[int, int]]:
        known = [*episodes.latest(guided=False), *episodes.latest(guided=True)]
        return [(s.global_step, s.env) for s in known if s.chosen]

    episodes = Episodes(2)
    go_through(episodes, 0, 60)
    assert chosen(episodes) == [] and [len(episodes.latest(guided)) for guided in (False, True)] == [20, 1]
    episodes.choosing = True
    go_through(episodes, 60, 60)
    assert chosen(episodes) == [(60, 0), (61, 0)]
    assert [len(episodes.latest(guided)) for guided in (False, True)] == [21, 2]
    again = Episodes(2)
    again.choosing = True
    again.load_state_dict(episodes.state_dict())
    assert chosen(again) == [(60, 0), (61, 0)] and {s.uniform_steps for s in again.unguided} == {1}
    empty = again.begin(0, 120, 0, guided=True, uniform=False)  # no step is taken of it
    assert again.consulted() is empty and empty.chosen
    go_through(again, 120, 60)
    assert chosen(again) == [(120, 0), (121, 0)]
    assert [len(again.latest(guided)) for guided in (False, True)] == [21, 2]


def test_rows_that_repeat_themselves_are_said_to_be_the_same():
    stretch = Stretch(0, 0, 0, False, False, end="truncated")
    for _ in range(3):
        stretch.add(np.array([0.5, 0.0]), np.array([0.0]), -1.0, np.array([0.5, 0.0]))
    lines = table(stretch, columns(stretch), 9, 0).splitlines()
    assert lines[:3] == ["t=0 obs=[0.5 0] action=[0.] reward=-1", "t=1 the same", "t=2 the same"]


def test_numbers_keep_four_digits_of_their_own_size():
    """Of a velocity that never exceeds 0.07 five decimals; "-0" is 0."""
    stretch = Stretch(0, 0, 0, False, False, end="")
    for obs in ([0.12345, 0.0], [-0.6, -0.000004], [0.3, 0.01234567]):
        stretch.add(np.array(obs), np.array([0.0]), 0.0, np.array([0.3, 0.07]))
    lines = table(stretch, columns(stretch), 9, 0).splitlines()
    assert [line.partition(" action")[0] for line in lines] == [
        "t=0 obs=[0.1235 0]", "t=1 obs=[-0.6 0]", "t=2 obs=[0.3 0.01235]", "t=3 obs=[0.3 0.07]"
    ]  # fmt: skip


def test_numbers_that_never_move_are_told_once():
    """Of 200 numbers ten move: the rows name these by their indices, and there is space for many rows."""
    rng, stretch = np.random.default_rng(0), Stretch(0, 0, 0, False, False, end="")
    for _ in range(40):
        obs = np.full(200, 2.5)
        obs[[3, 4, 5, *range(100, 107)]] = rng.normal(size=10)
        stretch.add(obs, np.array([0.0]), 0.0, obs)
    shown = columns(stretch, observation=Observation("floats", (200,)))
    text = shown.text(stretch.obs[0])
    assert text.startswith("obs[3:6]=[") and "] obs[100:107]=[" in text and len(text) < 120
    assert shown.left_out.startswith(
        "Left out of the rows, since they never change: obs[0]=2.5, obs[1]=2.5, obs[2]=2.5,"
    )
    assert "obs[6]=2.5" in shown.left_out and "and 130 more" in shown.left_out
    picture = np.random.default_rng(1).normal(size=(3, 20_000))
    shown = Columns(picture, Observation("floats", (20_000,)))
    assert shown.text(picture[0]).count(" ") == NUMBERS - 1 and f"obs[{NUMBERS}:20000]" in shown.left_out


def test_observations_of_integers_are_the_environment_s_own():
    """Cliff walking by hand: up, twice right, down into the cliff (36 again, -100), and the step limit."""
    env, stretch = vectors("CliffWalking-v1", max_episode_steps=5), Stretch(0, 0, 0, False, False)
    obs, _ = env.reset(seed=0)
    for action in (0, 1, 1, 2, 0):
        next_obs, reward, _, truncated, _ = env.step(action)
        stretch.add(obs, np.int64(action), reward, next_obs)
        obs, stretch.end = next_obs, "truncated" if truncated else ""
    lines = table(stretch, columns(stretch, observation=Observation("int")), 9, 0).splitlines()
    assert lines[2:] == [
        "t=2 obs=25 action=1 reward=-1", "t=3 obs=26 action=2 reward=-100", "t=4 obs=36 action=0 reward=-1",
        "t=5 obs=24 (truncated)",
    ]  # fmt: skip
    hand = rolled_out(vectors("Blackjack-v1"), 1)[0]
    card = tuple(map(int, gym.make("Blackjack-v1").reset(seed=0)[0]))
    assert table(hand, Columns(np.array(hand.obs), Observation("tuple", (3,))), 9, 0).startswith(f"t=0 obs={card} ")


# -- returns ----------------------------------------------------------------------------------------------------------


def test_returns_are_compared_over_equal_horizons():
    """Unguided 3 and 5 steps, guided 4: over the first 4; the one that was cut after 3 steps says nothing of them."""
    unguided = [walk([1.0] * 3, "cut"), walk([2.0] * 5), walk([3.0] * 2, "terminated")]
    assert comparison(unguided, [walk([5.0] * 4, "", guided=True)]) == (
        "Return of an episode's first 4 steps: unguided 7 ± 1 (mean ± standard error of 2 episodes), guided 20 "
        "(1 episode)."
    )
    longer = walk([1.0] * 50, guided=True)
    assert comparison(unguided, [longer]).startswith("Return of an episode's first 5 steps: unguided 8 ± 2 ")
    assert comparison(unguided, []) == "" == comparison([walk([1.0], start=3)], [longer])


def text_of(seen: Seen, step: int = 1_200, history=(), consultations: int = 0, rule: str | None = None) -> str:
    question = questions_about("MountainCarContinuous-v0").advisor(step, seen, history, consultations, rule)
    return question.messages[1]["content"]


def test_time_is_told_right():
    """Guidance ends with the run where that is sooner, and no window is longer than what is left."""
    told = [text_of(Seen([], [], total_steps=total), step).splitlines()[0] for step, total in
            ((1_200, 10_000), (2_500, 10_000), (500, 2_000), (1_500, 2_000))]  # fmt: skip
    assert told[0] == (
        "Training step 1,200 of 10,000. Guidance may go on until step 3,000; your decision holds for the next 1,000 "
        "steps."
    )
    assert [line.partition("until ")[2] for line in told[1:]] == [
        "step 3,000; your decision holds for the next 500 steps.",
        "step 2,000; your decision holds for the next 1,000 steps.",
        "step 2,000; your decision holds for the next 500 steps.",
    ]


def test_every_return_says_whose_it_is_and_of_how_many_steps():
    verdict = Verdict("unguided", -2.0, -3.5, (3, 4), 250, True)
    finished = [Finished("guided", -7.25, 40), Finished("partly guided", -9.0, 60)]
    text = text_of(Seen([walk([-1.0] * 5), walk([-2.0] * 5), walk([-4.0], "")], [], finished, verdict, 5_000))
    assert "as return, steps, end: -5, 5, truncated; -10, 5, truncated; -4, 1, goes on" in text
    assert (
        "Unguided return of whole episodes: -7.5 ± 2.5 (mean ± standard error of 2 episodes), over 5 steps on average."
        in text
    )
    assert (
        "The trial of the last rule passed so far: return -2 guided (3 episodes), -3.5 unguided (4), over their first "
        "250 steps." in text
    )
    assert "as behaviour, return (steps): guided -7.25 (40); partly guided -9 (60)." in text
    verdict.passed = False
    assert "The trial of the last rule failed, and was ended: " in text_of(Seen([], [], verdict=verdict, total_steps=9))


def test_the_mean_of_whole_episodes_does_not_hide_those_that_were_cut():
    """Two that failed at once and one that did well until it was cut: -7.5 of the former alone would mislead."""
    seen = [walk([-10.0], "terminated"), walk([-5.0] * 1, "terminated"), walk([1.0] * 20, "cut")]
    whole = "of whole episodes: -7.5 ± 2.5 (mean ± standard error of 2 episodes), over 1 steps on average"
    cut = "of episodes that were cut before their end, until there: 20 (1 episode), over 20 steps on average."
    assert f"Unguided return {whole}; {cut}" in text_of(Seen(seen, [], total_steps=9))
    assert f"Unguided return {cut}" in text_of(Seen(seen[2:], [], total_steps=9))
    assert "Unguided return" not in text_of(Seen([walk([1.0], start=3)], [], total_steps=9))  # from no reset


def test_an_unchanged_policy_is_said_to_be_unchanged():
    known = [walk([-1.0] * 5)]
    same = "The policy is the same as at the last consultation"
    assert same in text_of(Seen(known, [], total_steps=9, updated=False), consultations=1)
    assert same not in text_of(Seen(known, [], total_steps=9, updated=True), consultations=1)
    assert same not in text_of(Seen(known, [], total_steps=9, updated=False))  # there was no last one
    random = [walk([-1.0] * 5, uniform=True)]
    assert "has learned nothing yet" in text_of(Seen(random, [], total_steps=9, updated=False), consultations=1)


def test_what_was_tried_is_told_with_its_effect_and_its_rule():
    text = text_of(
        Seen([], [], total_steps=9), history=["step 0: push; worse"], consultations=3, rule="def policy(): 0"
    )
    assert "What was tried before (3 consultations so far, the last of them):\nstep 0: push; worse" in text
    assert text.endswith("The current guidance policy:\n```python\ndef policy(): 0\n```")
    assert "What was tried before: nothing yet." in text_of(Seen([], [], total_steps=9))


# -- whole questions --------------------------------------------------------------------------------------------------


def filmed(stretch: Stretch, every: int) -> Stretch:
    stretch.frame_steps = list(range(stretch.start, stretch.start + len(stretch) + 1, every))
    stretch.frames = [np.full((8, 8, 3), step % 256, np.uint8) for step in stretch.frame_steps]
    return stretch


def test_pictures_belong_to_rows_and_the_text_does_not_depend_on_them():
    """Of each kind the chosen stretch is shown first, which is filmed; a few pictures are of the guided one."""

    def seen(camera: bool) -> Seen:
        old, first = walk([0.0] * 300, global_step=100), walk([0.0] * 300, global_step=2_000)
        last, guided = walk([0.0] * 200, global_step=2_500), walk([0.0] * 250, guided=True, global_step=2_300)
        first.chosen = guided.chosen = True
        if camera:
            filmed(first, 4), filmed(guided, 16)
        return Seen([old, first, last], [guided], total_steps=9_999)

    with_pictures, without = (
        questions_about("MountainCarContinuous-v0").advisor(2_800, seen(camera), [], 0, None)
        for camera in (True, False)
    )
    assert with_pictures.transcript() == without.transcript() and without.pictures == []
    shown = [what for what, _ in with_pictures.pictures]
    assert len(shown) == PICTURES and sum(what.split()[0] == "guided" for what in shown) == GUIDED_PICTURES
    text = with_pictures.messages[1]["content"]
    parts = {"unguided": text.partition("at training step 2,000;")[2], "guided": text.partition("Guided by")[2]}
    for what in shown:
        kind, step = what.split()
        assert f"\n{step} obs=" in parts[kind].partition("\n\n")[0]
    request = with_pictures.request(schema=False, pictures=True)
    assert request["messages"][1]["content"][0]["text"].endswith(
        f"Pictures of steps that are in the tables above, in order: {', '.join(shown)}."
    )


def test_the_question_about_a_real_environment():
    """All that is asked for is there, in a text that costs little more than what it replaces."""
    unguided, guided = rolled_out(vectors("Pendulum-v1"), 650), rolled_out(vectors("Pendulum-v1"), 200, uniform=False)
    for stretch in guided:
        stretch.guided = True
    questions = questions_about("Pendulum-v1")
    question = questions.advisor(650, Seen(unguided, guided, total_steps=10_000), [], 0, None)
    system, text = (turn["content"] for turn in question.messages)
    assert "{{" not in system.replace(questions.values["env_doc"], "")
    assert "steps of training (guided, uniformly random actions)" in system
    assert text.count("Unguided, uniformly random actions: episode") >= 2 and text.count("Guided by the rule") == 1
    assert "action[0]: obs[2] +0.15 ±" in text and "over their first" not in text and len(text) < 9_000
    coder = questions.coder(650, "pump energy", Seen(unguided, guided, total_steps=10_000), "def policy(obs, t): 0")
    told = coder.messages[1]["content"]
    assert told.startswith(
        "The advisor says:\npump energy\n\nThe current rule, of which the advisor may speak:\n```python"
    )
    assert "action[0]: obs[2] +0.15 ±" in told and "Guided by the rule" in told
    assert "The current rule" not in questions.coder(650, "x", Seen(unguided, []), None).messages[1]["content"]


@pytest.mark.parametrize("env_id", ["Humanoid-v5", "Taxi-v4", "Blackjack-v1", "FrozenLake-v1", "CartPole-v1"])
def test_questions_are_short_whatever_the_environment(env_id):
    questions = questions_about(env_id)
    text = questions.advisor(400, Seen(rolled_out(vectors(env_id), 400), [], total_steps=10_000), [], 0, None)
    assert 1_000 < len(text.messages[1]["content"]) < 16_000


def test_the_facts_of_the_first_question_stay():
    """They are plain data, so that a checkpoint can keep them; the effects of random actions among them."""
    questions = questions_about("Pendulum-v1")
    random, later = rolled_out(vectors("Pendulum-v1"), 400), walk([1.0] * 30)
    later.obs = later.next_obs = [np.zeros(3)] * 30
    first = questions.advisor(400, Seen(random, [], total_steps=10_000), [], 0, None)
    assert set(questions.facts) == {"reward_range", "sample_transition", "effects"}
    assert all(isinstance(value, str) for value in questions.facts.values())
    second = questions.advisor(800, Seen([later], [], total_steps=10_000), [], 1, None)
    assert second.messages[0] == first.messages[0]
    assert questions.facts["effects"] in second.messages[1]["content"]
    again = questions_about("Pendulum-v1")
    again.facts = dict(questions.facts)
    assert again.advisor(800, Seen([later], [], total_steps=10_000), [], 1, None).messages == second.messages


def test_before_anything_was_seen_a_question_can_be_asked():
    question = questions_about("Pendulum-v1").advisor(0, Seen([], [], total_steps=100), [], 0, None)
    assert "nothing is known yet" in question.messages[0]["content"]
    assert "Unguided episodes of training: none lately." in question.messages[1]["content"]
