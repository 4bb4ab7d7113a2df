"""guided_utils/evaluation.py: greedy and sampled returns, and training that does not notice."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, needs_compiler, scalars, unsupervised
from torch.utils.tensorboard import SummaryWriter

from guided_utils.evaluation import Evaluator


class PayEnv(gym.Env):
    """Three steps, each of which pays what the action says; the start is a number drawn from the seed."""

    spec = SimpleNamespace(max_episode_steps=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.start = 0, self.np_random.random()
        return np.array([self.start]), {}

    def step(self, action):
        self.t += 1
        return np.array([self.start]), float(action), self.t == 3, False, {}


def test_greedy_and_sampled_returns_by_hand(capsys):
    """Greedy 1 a step: 3. Sampled ½ a step: 1.5. Both from the same starts, of which the greedy ones take two."""
    args = SimpleNamespace(seed=4, eval_frequency=1, eval_episodes=2, eval_sampled_episodes=3)
    evaluator, starts = Evaluator(args, lambda i: PayEnv()), {True: [], False: []}

    def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
        starts[deterministic].append(obs[:, 0].tolist())
        return np.ones(len(obs)) if deterministic else np.full(len(obs), 0.5)

    with SummaryWriter("runs/x") as writer:
        evaluator.run(act, 10, writer)
        evaluator.run(act, 20, writer)
    assert scalars("x") == {
        "eval/episodic_return": [(10, 3.0), (20, 3.0)],
        "eval/sampled_return": [(10, 1.5), (20, 1.5)],
    }
    assert capsys.readouterr().out.splitlines()[0] == "step 10: greedy return 3.00 ± 0.00, sampled 1.50 ± 0.00"
    assert [len(row) for row in starts[True]] == [2] * 6 and [len(row) for row in starts[False]] == [3] * 6
    assert starts[True] == [starts[False][0][:2]] * 6 and starts[False] == [starts[False][0]] * 6


def test_sampled_actions_have_random_numbers_of_their_own():
    """Of a run and a step alone: another seed or step has others, the same one the same, and training's go on."""

    def drawn(seed: int, step: int) -> list[float]:
        args = SimpleNamespace(seed=seed, eval_frequency=1, eval_episodes=1, eval_sampled_episodes=1)
        numbers = []

        def act(obs: np.ndarray, deterministic: bool) -> np.ndarray:
            numbers.extend([] if deterministic else [float(torch.rand(()))])
            return np.zeros(1)

        with SummaryWriter("runs/x") as writer:
            Evaluator(args, lambda i: PayEnv()).run(act, step, writer)
        return numbers

    torch.manual_seed(1)
    expected = torch.rand(2).tolist()
    torch.manual_seed(1)
    first = torch.rand(()).item()
    numbers = drawn(1, 10)
    assert [first, torch.rand(()).item()] == expected
    assert len(set(numbers)) == 3 and drawn(1, 10) == numbers
    assert numbers != drawn(2, 10) and numbers != drawn(1, 20)


@pytest.mark.parametrize("name", ["guided_sac_continuous", "guided_sac_discrete", "rnd_sac", "icm_sac", "e3b_sac"])
def test_sampled_episodes_leave_training_as_it_was(name, run_here):
    """Every scalar but their own and the clock's is the same with them, in each script; with them a run repeats."""
    env_id = "Blackjack-v1" if name == "guided_sac_discrete" else "Pendulum-v1"
    flags = ["--env-id", env_id, "--total-timesteps", "300", "--learning-starts", "150", "--batch-size", "8",
             "--eval-frequency", "150", "--eval-episodes", "2", "--max-episode-steps", "30"]  # fmt: skip
    flags += unsupervised(name)
    without, *others = (
        scalars(run_here(*flags, *more, script=ROOT / f"{name}.py").run_name)
        for more in ([], ["--eval-sampled-episodes", "3"], ["--eval-sampled-episodes", "3"])
    )
    sampled = [logged.pop("eval/sampled_return") for logged in others]
    for logged in (without, *others):
        logged.pop("charts/SPS")
    assert without == others[0] == others[1] and len(without) > 5
    assert [step for step, _ in sampled[0]] == [0, 150, 300] and sampled[0] == sampled[1]
    assert sampled[0] != without["eval/episodic_return"]


class EndsApartEnv(gym.Env):
    """Pays the action; the i-th that is made ends after i steps."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (1,))
    made = 0

    def __init__(self):
        EndsApartEnv.made += 1
        self.length = EndsApartEnv.made

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, float(action[0]), self.t == self.length, False, {}


gym.register("EndsApart-v0", entry_point=EndsApartEnv, max_episode_steps=20)


@needs_compiler
@pytest.mark.parametrize("name", ["guided_sac_continuous", "rnd_sac"])
def test_sampled_episodes_of_a_compiled_run_end_one_after_the_other(name, run_here, monkeypatch):
    """Ten, nine, …, one go on: only training's number of environments, here one, is worth a graph."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    flags = ["--env-id", "EndsApart-v0", "--total-timesteps", "2", "--eval-frequency", "2", "--eval-episodes", "1",
             "--eval-sampled-episodes", "10"]  # fmt: skip
    flags += unsupervised(name)
    returns = []
    for more in ([], ["--compile"]):
        monkeypatch.setattr(EndsApartEnv, "made", 0)
        returns.append(scalars(run_here(*flags, *more, script=ROOT / f"{name}.py").run_name)["eval/sampled_return"])
    assert [step for step, _ in returns[0]] == [0, 2]
    np.testing.assert_allclose(returns[1], returns[0], atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_sampled_episodes_without_evaluations_are_refused(run_here):
    with pytest.raises(SystemExit, match="--eval-sampled-episodes needs evaluations: give --eval-frequency"):
        run_here("--supervisor", "none", "--eval-sampled-episodes", "3", "--eval-frequency", "0")


def settings_of(**given) -> SimpleNamespace:
    usual = dict(eval_frequency=None, eval_episodes=2, eval_sampled_episodes=0, total_timesteps=40_000, seed=1)
    return SimpleNamespace(**usual | given)


def test_long_runs_are_evaluated_unasked(capsys):
    """Twenty times; a shorter run, or an environment whose episodes need not end, is not."""
    args = settings_of()
    Evaluator(args, lambda i: gym.make("Pendulum-v1")).close()
    assert args.eval_frequency == 2_000
    args = settings_of(total_timesteps=19_999)
    Evaluator(args, lambda i: gym.make("Pendulum-v1")).close()
    assert args.eval_frequency is None
    args = settings_of(eval_frequency=0)
    Evaluator(args, lambda i: gym.make("Pendulum-v1")).close()
    assert args.eval_frequency == 0 and not capsys.readouterr().out
    args = settings_of()
    Evaluator(args, lambda i: gym.make("CliffWalking-v1")).close()
    assert args.eval_frequency is None
    assert capsys.readouterr().out == (
        "no evaluations: the environment has no time limit (--max-episode-steps gives it one)\n"
    )
