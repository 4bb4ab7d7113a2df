"""benchmark/races/stable_baselines3_sac.py: trains and is evaluated on the terms of our scripts."""

import runpy
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, scalars

from guided_utils.evaluation import episode_returns

SCRIPT = ROOT / "benchmark" / "races" / "stable_baselines3_sac.py"
ours = SimpleNamespace(**runpy.run_path(str(ROOT / "guided_sac_continuous.py"), run_name="imported"))


def test_evaluation_has_our_steps_starts_and_policy(run_here, tmp_path):
    """Before the first update the policy stays as it is, so all evaluations agree with one by our own function."""
    run = run_here("--env-id", "Pendulum-v1", "--seed", "3", "--total-timesteps", "35", "--eval-frequency", "10",
                   "--eval-episodes", "2", script=SCRIPT)  # fmt: skip
    (folder,) = tmp_path.glob("runs/Pendulum-v1__stable_baselines3_sac__3__*")
    logged = scalars(folder.name)["eval/episodic_return"]
    assert [step for step, _ in logged] == [0, 10, 20, 30, 35]
    envs = [gym.make("Pendulum-v1") for _ in range(2)]
    returns = episode_returns(
        envs, lambda obs: run.model.predict(obs, deterministic=True)[0], seeds=[4_000_000, 4_000_001]
    )
    assert [value for _, value in logged] == pytest.approx([np.mean(returns)] * 5, rel=1e-6)


def test_training_settings_are_ours(run_here):
    run = run_here("--env-id", "Pendulum-v1", "--total-timesteps", "1", "--eval-episodes", "1", script=SCRIPT)
    theirs, args = run.model, ours.Args()
    assert (theirs.gamma, theirs.tau, theirs.batch_size, theirs.learning_starts, theirs.learning_rate) == (
        args.gamma, args.tau, args.batch_size, args.learning_starts, args.q_lr
    )  # fmt: skip
    assert (args.policy_lr, args.alpha_lr, args.policy_frequency, args.autotune) == (args.q_lr, args.q_lr, 1, True)
    assert theirs.ent_coef == "auto" and theirs.buffer_size == args.buffer_size and theirs.log_ent_coef.exp() == 1
    assert theirs.policy.net_arch == [256, 256] and args.alpha == 1.0
