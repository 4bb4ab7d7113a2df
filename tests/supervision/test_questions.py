"""A replay in words, as models are told of it."""

import gymnasium as gym
import numpy as np
from rules import vectors

from supervision.questions import summary, table
from supervision.replay import Replay, record_replay
from supervision.sandbox.messages import Observation


def test_replay_of_a_discrete_environment_shows_its_own_numbers():
    """Cliff walking by hand: up, twice right, down into the cliff (36 again, -100), and the step limit."""
    plan = iter([0, 1, 1, 2, 0])
    replay = record_replay(
        vectors("CliffWalking-v1", max_episode_steps=5), lambda obs, deterministic: np.array([next(plan)]),
        episodes=1, max_steps=50, seed=0,
    )  # fmt: skip
    assert replay.obs.tolist() == [[36], [24], [25], [26], [36]] and replay.obs.dtype == np.int64
    assert replay.actions.tolist() == [0, 1, 1, 2, 0] and replay.returns == [-104.0]
    assert table(replay, Observation("int")).splitlines()[2:4] == [
        "t=2 obs=25 action=1 reward=-1", "t=3 obs=26 action=2 reward=-100"
    ]  # fmt: skip
    hand = record_replay(vectors("Blackjack-v1"), lambda obs, deterministic: np.array([0]), episodes=3,
                             max_steps=50, seed=0)  # fmt: skip
    cards = [gym.make("Blackjack-v1").reset(seed=seed)[0] for seed in range(3)]
    lines = table(hand, Observation("tuple", (3,))).splitlines()
    assert [line.split(" action")[0] for line in lines] == [f"t=0 obs={tuple(map(int, card))}" for card in cards]


def test_summary_of_many_episodes_is_short():
    replay = Replay(*[np.zeros((90, 1))] * 4, returns=[1.0] * 45 + [-1.0] * 45, lengths=[1] * 90, frames=[],
                        frame_steps=[])  # fmt: skip
    text = summary(replay)  # mean 0, standard deviation sqrt(90/89), standard error sqrt(1/89) = 0.106
    assert text.startswith("mean return 0 (standard error 0.11) over 90 episodes; the first 20: returns [1.0, ")
    assert text.count("1.0") == 20 and len(text) < 400
    replay.returns, replay.lengths = [0.5, -2.0], [3, 4]
    assert summary(replay) == "returns [0.5, -2.0], lengths [3, 4]"
