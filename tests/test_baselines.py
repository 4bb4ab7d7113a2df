"""rnd_sac.py, icm_sac.py, e3b_sac.py: the bonuses against hand-worked numbers, and SAC underneath untouched by them."""

import difflib
import functools
import itertools
import math
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, events, needs_compiler, run_process, scalars
from torch import nn

from guided_utils.evaluation import episode_returns, evaluate
from guided_utils.optimisation import minimise

NAMES = ("rnd", "icm", "e3b")
SCRIPTS = {name: ROOT / f"{name}_sac.py" for name in NAMES}
MODULES = {name: SimpleNamespace(**runpy.run_path(str(SCRIPTS[name]), run_name="imported")) for name in NAMES}
rnd, icm, e3b = MODULES.values()

FROZEN = ["--env-id", "FrozenLake-v1", "--batch-size", "32", "--buffer-size", "2000"]
COUNTER = ["--env-id", "Counter-v0", "--learning-starts", "20", "--batch-size", "16", "--buffer-size", "2000"]
CARTPOLE = ["--env-id", "CartPole-v1", *COUNTER[2:]]  # numbers observed, actions counted


class TorusEnv(gym.Env):
    """A deterministic 5 × 5 grid without borders: two neighbouring states tell the action between them."""

    side = 5

    def __init__(self, render_mode: str | None = None):
        self.observation_space = gym.spaces.Discrete(self.side**2)
        self.action_space = gym.spaces.Discrete(4, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.t = int(self.np_random.integers(self.side**2)), 0
        return self.state, {}

    @classmethod
    def successor(cls, state: int, action: int) -> int:
        x, y = divmod(state, cls.side)
        dx, dy = [(1, 0), (-1, 0), (0, 1), (0, -1)][action - 1]
        return (x + dx) % cls.side * cls.side + (y + dy) % cls.side

    def step(self, action):
        self.state, self.t = self.successor(self.state, int(action)), self.t + 1
        return self.state, 0.0, False, self.t == 20, {}


gym.register("Torus-v0", entry_point=TorusEnv)


def spaces(states: int = 0, obs_dim: int = 3, actions: int = 0, low=(-1.0,), high=(1.0,), num_envs: int = 1):
    """What the networks ask of a vector environment: integers where a number of states or actions is given."""
    integers, floats = gym.spaces.MultiDiscrete([states or 1]), gym.spaces.Box(-np.inf, np.inf, (obs_dim,))
    box = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    return SimpleNamespace(
        num_envs=num_envs,
        single_observation_space=integers if states else floats,
        single_action_space=gym.spaces.Discrete(actions) if actions else box,
    )


def transitions(script, obs, next_obs, actions=None):
    n = len(obs)
    actions = torch.zeros(n, dtype=torch.int64) if actions is None else actions
    return script.Batch(obs, next_obs, actions, torch.zeros(n), torch.zeros(n), torch.arange(n))


def states(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)[:, None]


def train(bonus: nn.Module, batches, lr: float = 1e-3) -> None:
    """The training loop's own step, on batches of our choice."""
    optimizer = torch.optim.Adam([p for p in bonus.parameters() if p.requires_grad], lr=lr)
    for batch in batches:
        minimise(bonus(batch)[0], optimizer)


def forward_by_hand(network, x: np.ndarray) -> np.ndarray:
    """A feature network in NumPy: x (B, inputs), one-hot or numbers, to (B, 64)."""
    x = x @ network.weights[0].detach().numpy() + network.biases[0].detach().numpy()[0]
    for i in (1, 2):
        x = np.maximum(x, 0) @ network.weights[i].detach().numpy()[0] + network.biases[i].detach().numpy()[0]
    return x


# -- RND --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discrete", [True, False])
def test_rnd_bonus_by_hand(discrete):
    """r_int = ‖f̂(s') − f(s')‖², of s' alone."""
    torch.manual_seed(0)
    bonus = rnd.RND(spaces(states=7 if discrete else 0))
    s, next_s = (states(0, 1, 2), states(4, 0, 6)) if discrete else torch.randn(2, 3, 3)
    x = np.eye(7)[next_s[:, 0]] if discrete else next_s.numpy()
    expected = ((forward_by_hand(bonus.predictor, x) - forward_by_hand(bonus.target, x)) ** 2).sum(1)
    loss, r_int, logs = bonus(transitions(rnd, s, next_s))
    np.testing.assert_allclose(r_int, expected, rtol=1e-5)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5) and logs["fwd_loss"] == loss
    np.testing.assert_allclose(bonus.score(transitions(rnd, next_s, next_s)), expected, rtol=1e-5)
    assert not np.allclose(bonus.score(transitions(rnd, next_s, s)), expected, rtol=0.01)


@pytest.mark.parametrize("discrete", [True, False])
def test_rnd_bonus_falls_for_seen_states_and_stays_for_unseen_ones(discrete):
    torch.manual_seed(0)
    bonus = rnd.RND(spaces(states=48 if discrete else 0, obs_dim=2))
    known, unknown = torch.arange(10)[:, None], torch.arange(20, 48)[:, None]
    if not discrete:  # points around (1, 1) and around (−1, −1)
        known, unknown = 1 + 0.1 * torch.randn(10, 2), -1 + 0.1 * torch.randn(28, 2)
    target = [p.clone() for p in bonus.target.parameters()]
    before = [bonus.score(transitions(rnd, x, x)) for x in (known, unknown)]
    train(bonus, [transitions(rnd, known, known)] * 300)
    after = [bonus.score(transitions(rnd, x, x)) for x in (known, unknown)]
    assert (after[0] < 0.01 * before[0]).all()
    assert (after[1] > 0.2 * before[1]).all()
    assert all(torch.equal(a, b) for a, b in zip(target, bonus.target.parameters(), strict=True))


def test_rnd_target_is_frozen_in_training(run_here):
    """Its weights after a run are those that its construction draws: no step, nor the soft update, touches them."""
    run = run_here(*FROZEN, "--total-timesteps", "150", script=SCRIPTS["rnd"])
    fresh = run_here(*FROZEN, "--total-timesteps", "1", script=SCRIPTS["rnd"])
    assert not any(p.requires_grad for p in run.bonus.target.parameters())
    assert all(map(torch.equal, run.bonus.target.parameters(), fresh.bonus.target.parameters()))
    assert not any(map(torch.equal, run.bonus.predictor.weights, fresh.bonus.predictor.weights))


# -- inverse dynamics, ICM --------------------------------------------------------------------------------------------


def test_action_vectors_and_inverse_losses_by_hand():
    """One-hot vectors and cross-entropy; [−1, 1] and mean squared error, for one action variable and for several."""
    for script in (icm, e3b):
        model = script.InverseDynamics(spaces(states=5, actions=3))
        model.action_space = gym.spaces.Discrete(3, start=1)
        vectors = model.vectors(torch.tensor([1, 3]))
        assert vectors.tolist() == [[1, 0, 0], [0, 0, 1]]
        with torch.no_grad():
            model.inverse[2].weight.zero_()
            model.inverse[2].bias[:] = torch.tensor([1.0, 2.0, 4.0])
        phi = torch.randn(2, 64)
        z = math.log(math.exp(1) + math.exp(2) + math.exp(4))
        assert model.inverse_loss(phi, phi, vectors).item() == pytest.approx(((z - 1) + (z - 4)) / 2)
        for low, high, action, expected in (
            ([-2.0], [1.0], [[1.0], [-0.5], [-2.0]], [[1.0], [0.0], [-1.0]]),
            ([-0.4, 0.0], [0.4, 8.0], [[0.2, 2.0], [-0.4, 8.0], [0.0, 4.0]], [[0.5, -0.5], [-1.0, 1.0], [0.0, 0.0]]),
            ([-1.0, 3.0], [1.0, 3.0], [[0.5, 3.0], [1.0, 3.0], [-1.0, 3.0]], [[0.5, 0.0], [1.0, 0.0], [-1.0, 0.0]]),
        ):
            model = script.InverseDynamics(spaces(low=low, high=high))
            vectors = model.vectors(torch.tensor(action))
            torch.testing.assert_close(vectors, torch.tensor(expected))
            bias = 0.3 * torch.arange(1, len(low) + 1)
            with torch.no_grad():
                model.inverse[2].weight.zero_()
                model.inverse[2].bias[:] = bias
            by_hand = ((bias.numpy() - np.array(expected)) ** 2).mean()  # (3, dim(A)): a (3,) would broadcast to (3, 3)
            phi = torch.randn(3, 64)
            assert model.inverse_loss(phi, phi, vectors).item() == pytest.approx(by_hand, rel=1e-5)


def test_icm_bonus_by_hand():
    """r_int = ½ ‖φ̂(s') − φ(s')‖²; loss = (1 − β) · inverse + β · forward, with gradients of both for φ."""
    torch.manual_seed(0)
    bonus = icm.ICM(spaces(states=6, actions=3), beta=0.2)
    s, next_s, actions = states(0, 5), states(3, 1), torch.tensor([2, 0])
    phi, next_phi = (forward_by_hand(bonus.phi, np.eye(6)[x[:, 0]]) for x in (s, next_s))
    x = np.concatenate([phi, np.eye(3)[actions]], axis=1)
    for layer in (bonus.dynamics[0], bonus.dynamics[2]):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if layer is bonus.dynamics[0] else x
    expected = 0.5 * ((x - next_phi) ** 2).sum(1)
    loss, r_int, logs = bonus(transitions(icm, s, next_s, actions))
    np.testing.assert_allclose(r_int, expected, rtol=1e-4)
    assert logs["fwd_loss"].item() == pytest.approx(expected.mean(), rel=1e-4)
    assert loss.item() == pytest.approx(0.8 * logs["inv_loss"].item() + 0.2 * expected.mean(), rel=1e-4)
    for beta in (0.0, 1.0):  # each of the two losses alone reaches φ
        bonus.beta = beta
        (gradient,) = torch.autograd.grad(bonus(transitions(icm, s, next_s, actions))[0], bonus.phi.weights[2])
        assert gradient.abs().max() > 0


def test_icm_learns_a_deterministic_grid(run_here):
    """Over all 100 transitions: the action is named, the forward error falls, and the features stay apart."""
    flags = ["--env-id", "Torus-v0", "--batch-size", "64", "--no-autotune", "--alpha", "0.1", "--bonus-lr", "1e-3"]
    fresh = run_here(*flags, "--total-timesteps", "1", script=SCRIPTS["icm"])
    run = run_here(*flags, "--total-timesteps", "1200", "--learning-starts", "400", script=SCRIPTS["icm"])
    pairs = list(itertools.product(range(25), range(1, 5)))
    s, actions = states(*(s for s, _ in pairs)), torch.tensor([a for _, a in pairs])
    batch = transitions(icm, s, states(*(TorusEnv.successor(*pair) for pair in pairs)), actions)
    spread, error, accuracy = [], [], []
    with torch.no_grad():
        for bonus in (fresh.bonus, run.bonus):
            phi, next_phi = bonus.features(batch)
            accuracy.append((bonus.inverse(torch.cat([phi, next_phi], 1)).argmax(1) + 1 == actions).float().mean())
            spread.append(phi.var(dim=0).sum().item())  # ½ E‖φ(s) − φ(z)‖² over two states
            error.append(bonus.score(batch).mean().item())
    assert accuracy[0] < 0.5 and accuracy[1] >= 0.95
    assert error[1] < 0.2 * error[0]
    assert spread[1] > 0.2 * spread[0] and error[1] < 0.1 * spread[1]
    logged = scalars(run.run_name)
    for tag in ("losses/fwd_loss", "losses/inv_loss"):
        assert logged[tag][-1][1] < 0.5 * logged[tag][0][1]


def test_inverse_model_learns_continuous_actions(run_here):
    """Pendulum's torque from two states: a constant guess has the error E[a²] = 1/3 of uniform actions in [−1, 1]."""
    for name in ("icm", "e3b"):
        run = run_here("--env-id", "Pendulum-v1", "--total-timesteps", "900", "--learning-starts", "600",
                       "--batch-size", "128", "--bonus-lr", "3e-3", script=SCRIPTS[name])  # fmt: skip
        data = MODULES[name].normalised(run.rb.take(torch.arange(600)), run.obs_stats)
        vectors = run.bonus.vectors(data.actions)
        assert vectors.shape == (600, 1) and vectors.square().mean().item() == pytest.approx(1 / 3, abs=0.04)
        with torch.no_grad():
            assert run.bonus.inverse_loss(*run.bonus.features(data), vectors) < 0.05


# -- E3B --------------------------------------------------------------------------------------------------------------


def unit(*coordinates: float) -> torch.Tensor:
    return torch.nn.functional.pad(torch.tensor([coordinates]), (0, 64 - len(coordinates)))


def test_e3b_bonus_by_hand():
    """λ = ½. φ = e₁: b = 1/λ = 2. Again e₁, C₁₁ = 3/2: 2/3. e₂: 2. e₁ + e₂, C = diag(5/2, 3/2): 2/5 + 2/3."""
    bonus = e3b.E3B(spaces(actions=2), ridge=0.5, buffer_rows=1)
    given = [unit(1.0), unit(1.0), unit(0.0, 1.0), unit(1.0, 1.0)]
    assert [bonus.elliptical_bonus(phi).item() for phi in given] == pytest.approx([2, 2 / 3, 2, 2 / 5 + 2 / 3])
    bonus.reset(np.array([False]))
    assert bonus.elliptical_bonus(unit(1.0)).item() < 0.5
    bonus.reset(np.array([True]))
    assert bonus.elliptical_bonus(unit(1.0)).item() == 2.0


def test_e3b_recursion_equals_the_direct_inverse():
    """After 1,000 steps, of environments that end their episodes at different times."""
    torch.manual_seed(0)
    bonus = e3b.E3B(spaces(actions=2, num_envs=3), ridge=0.1, buffer_rows=1)
    c = np.tile(0.1 * np.eye(64), (3, 1, 1))
    for step in range(1_000):
        phi = 3 * torch.randn(3, 64) * torch.linspace(0.05, 1, 64)  # some directions are rare
        x = phi.double().numpy()
        expected = [x[i] @ np.linalg.solve(c[i], x[i]) for i in range(3)]
        np.testing.assert_allclose(bonus.elliptical_bonus(phi), expected, rtol=1e-4)
        c += x[:, :, None] * x[:, None, :]
        dones = np.array([False, step == 500, step % 100 == 99])
        bonus.reset(dones)
        c[dones] = 0.1 * np.eye(64)
    for ours, theirs in zip(bonus.c_inverse.numpy(), np.linalg.inv(c), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)
    assert torch.equal(bonus.c_inverse, bonus.c_inverse.mT)  # step 1,000 is one that restores the symmetry
    torch.testing.assert_close(bonus.c_inverse[2], torch.eye(64).double() / 0.1)  # just reset


def test_e3b_bonuses_of_a_run_equal_direct_inverses(run_here):
    """With features that stay as they are: every stored bonus from its episode's states by one matrix inversion each.

    Two environments; s' counts, also an episode's last one, and the first observation does not (Henaff et al. 2022).
    """
    run = run_here(*FROZEN, "--num-envs", "2", "--total-timesteps", "400", "--bonus-lr", "0", script=SCRIPTS["e3b"])
    data = run.rb.take(torch.arange(400))
    with torch.no_grad():
        phi = run.bonus.phi(data.next_observations).double().numpy()
    episodes, totals = 0, []
    for i in range(2):
        c, total = 0.1 * np.eye(64), 0.0
        for row in range(i, 400, 2):
            b = phi[row] @ np.linalg.inv(c) @ phi[row]
            assert run.bonus.collected[row].item() == pytest.approx(b, rel=1e-4)
            c, total = c + np.outer(phi[row], phi[row]), total + b
            if row + 2 < 400 and data.observations[row + 2] != data.next_observations[row]:  # another episode follows
                totals.append((row // 2 * 2 + 2, total))
                c, total, episodes = 0.1 * np.eye(64), 0.0, episodes + 1
    assert episodes > 10
    totals.sort()
    logged = sorted(scalars(run.run_name)["charts/episode_curiosity_reward"])[: len(totals)]
    assert [step for step, _ in logged] == [step for step, _ in totals]
    np.testing.assert_allclose([b for _, b in logged], [b for _, b in totals], rtol=1e-4)
    assert torch.equal(run.r_int, run.bonus.collected[run.data.rows])


# -- what all three share ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rnd", "e3b"])
def test_bonuses_of_a_run_by_hand(name, run_here):
    """Every step's bonus in NumPy: s' in units of all s' up to and with this step, clipped to ±5; σ of all bonuses.

    The bonus's networks stay as they are, so that their last state is that of every step.
    """
    run = run_here(*COUNTER, "--num-envs", "2", "--total-timesteps", "200", "--bonus-lr", "0", script=SCRIPTS[name])
    data = run.rb.take(torch.arange(200))
    obs, next_obs = data.observations.double().numpy(), data.next_observations.double().numpy()
    bonuses, totals, inverse = [], [], np.stack([np.eye(64) / 0.1] * 2)
    running = np.zeros(2)
    for step in range(0, 200, 2):
        seen = np.concatenate([np.zeros((1, 4)), next_obs[: step + 2]])
        x = np.clip((next_obs[step : step + 2] - seen.mean(0)) / np.maximum(seen.std(0), 1e-8), -5, 5)
        if name == "rnd":
            error = forward_by_hand(run.bonus.predictor, x) - forward_by_hand(run.bonus.target, x)
            bonus = (error**2).sum(axis=1)
        else:
            phi = forward_by_hand(run.bonus.phi, x)
            bonus = np.einsum("ni,nij,nj->n", phi, inverse, phi)
            inverse = np.linalg.inv(np.linalg.inv(inverse) + np.einsum("ni,nj->nij", phi, phi))
        bonuses += [*bonus]
        running += bonus
        for i in range(2):
            if step + 2 < 200 and (obs[step + 2 + i] != next_obs[step + i]).any():  # an episode is over
                totals.append((step + 2, running[i]))
                running[i], inverse[i] = 0, np.eye(64) / 0.1
    assert np.std(bonuses) > 0.1 * np.mean(bonuses) and len(totals) > 10
    assert run.bonus_stats.std.item() == pytest.approx(np.std([0, *bonuses]), rel=1e-4)
    logged = sorted(scalars(run.run_name)["charts/episode_curiosity_reward"])[: len(totals)]
    np.testing.assert_allclose(logged, sorted(totals), rtol=1e-4)
    if name == "e3b":
        np.testing.assert_allclose(run.bonus.collected[:200], bonuses, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_running_statistics_and_normalisation_by_hand(name):
    script = MODULES[name]
    stats = script.RunningMeanStd((2,), torch.device("cpu"))
    samples = np.random.default_rng(0).normal([5.0, -100.0], [2.0, 0.1], size=(60, 2))
    for part in np.split(samples, [1, 3, 10]):
        stats.update(torch.as_tensor(part))
    everything = np.concatenate([np.zeros((1, 2)), samples])  # it begins with one sample of zeros
    np.testing.assert_allclose(stats.mean, everything.mean(0))
    np.testing.assert_allclose(stats.std, everything.std(0))
    obs, next_obs = torch.tensor([[5.0, 900.0]]), torch.tensor([[-1e4, -100.0]])
    seen = script.normalised(transitions(script, obs, next_obs), stats)
    mean, std = everything.mean(0), everything.std(0)
    np.testing.assert_allclose(seen.observations, [[(5 - mean[0]) / std[0], 5.0]], rtol=1e-4)
    np.testing.assert_allclose(seen.next_observations, [[-5.0, (-100 - mean[1]) / std[1]]], rtol=1e-4)
    one = script.RunningMeanStd((), torch.device("cpu"))
    one.update(torch.tensor([0.004]))
    assert one.std.item() == pytest.approx(0.002)  # {0, 0.004}: a first bonus is 2 σ, whatever its unit


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "flags", [[*COUNTER, "--num-envs", "2"], FROZEN, CARTPOLE], ids=["continuous", "discrete", "mixed"]
)
def test_reward_and_statistics_of_a_run(name, flags, run_here):
    """r + c · r_int / σ, of shape (B,); the statistics have seen every transition's s' and bonus exactly once."""
    run = run_here(*flags, "--total-timesteps", "200", "--intrinsic-coef", "0.7", script=SCRIPTS[name])
    raw = run.rb.take(run.data.rows).rewards
    assert run.data.rewards.shape == run.r_int.shape == raw.shape == (run.args.batch_size,)
    expected = raw.numpy() + 0.7 * run.r_int.numpy() / run.bonus_stats.std.item()
    np.testing.assert_allclose(run.data.rewards, expected, rtol=1e-5)
    assert run.r_int.std() > 0 and run.bonus_stats.count == 201
    everything = run.rb.take(torch.arange(200)).next_observations
    if everything.is_floating_point():
        seen = np.concatenate([np.zeros((1, 4)), everything.double()])
        assert run.obs_stats.count == 201
        np.testing.assert_allclose(run.obs_stats.mean, seen.mean(0), rtol=1e-6)
        np.testing.assert_allclose(run.obs_stats.std, seen.std(0), rtol=1e-6)
    logged = scalars(run.run_name)
    steps = [step for step, _ in logged["charts/episodic_return"]]
    assert [step for step, _ in logged["charts/episode_curiosity_reward"]] == steps
    if name == "e3b":  # a test by hand of the sums is above; here the episodes that are over and those that are not
        total = sum(value for _, value in logged["charts/episode_curiosity_reward"]) + run.episode_bonuses.sum()
        assert total == pytest.approx(run.bonus.collected.sum().item(), rel=1e-4)
    if "Counter-v0" in flags:  # 1+…+5 and 1+…+7: the raw return
        assert {value for _, value in logged["charts/episodic_return"]} == {15.0, 28.0}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flags", [COUNTER, FROZEN, CARTPOLE], ids=["continuous", "discrete", "mixed"])
def test_no_gradient_between_bonus_and_sac(name, flags, run_here):
    """SAC's update moves none of the bonus's parameters and the bonus's none of SAC's; nothing is left in `.grad`."""
    run = run_here(*flags, "--total-timesteps", "60", script=SCRIPTS[name])
    sac = [p for module in [*run.modules, run.qf_target] for p in module.parameters()] + [run.log_alpha]
    bonus = [*run.bonus.parameters()]
    assert not {id(p) for p in sac} & {id(p) for p in bonus}
    data = run.rb.sample(32)
    for p in (*sac, *bonus):
        p.grad = None
    before = [p.detach().clone() for p in (*sac, *bonus)]
    loss, r_int, _ = run.bonus(MODULES[name].normalised(data, run.obs_stats))
    assert loss.requires_grad and not r_int.requires_grad
    loss.backward()
    assert all(p.grad is None for p in sac)
    assert all((p.grad is not None) == p.requires_grad for p in bonus)
    for p in bonus:
        p.grad = None
    MODULES[name].minimise(run.bonus(MODULES[name].normalised(data, run.obs_stats))[0], run.bonus_optimizer)
    moved = [not torch.equal(a, b) for a, b in zip(before, (*sac, *bonus), strict=True)]
    assert not any(moved[: len(sac)]) and any(moved[len(sac) :])
    before = [p.detach().clone() for p in (*sac, *bonus)]
    data = data._replace(rewards=data.rewards + r_int)
    (run.update_continuous if flags == COUNTER else run.update_discrete)(data)
    moved = [not torch.equal(a, b) for a, b in zip(before, (*sac, *bonus), strict=True)]
    assert any(moved[: len(sac)]) and not any(moved[len(sac) :])


@pytest.mark.parametrize("name", NAMES)
def test_many_dimensional_actions(name, run_here):
    run = run_here("--env-id", "Humanoid-v5", "--total-timesteps", "130", "--batch-size", "16", script=SCRIPTS[name])
    assert run.envs.single_observation_space.shape == (47,) and run.data.actions.shape == (16, 17)
    assert run.r_int.shape == (16,) and run.r_int.isfinite().all() and (run.r_int >= 0).all()
    assert all(p.isfinite().all() for p in run.bonus.parameters())


def learned(run) -> list[torch.Tensor]:
    modules = [*run.modules, run.qf_target]
    return [p.detach() for module in modules for p in module.parameters()] + [run.log_alpha.detach()]


FAST = ["--learning-starts", "160", "--precision", "bf16", "--compile"]  # few updates: bf16 may be emulated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "fast", "names"),
    [("FrozenLake-v1", [], NAMES), ("MountainCarContinuous-v0", [], NAMES),
     pytest.param("MountainCarContinuous-v0", FAST, NAMES[:1], marks=needs_compiler, id="fast")],
)  # fmt: skip
def test_without_weight_the_bonus_leaves_plain_sac_to_the_bit(env_id, fast, names, run_here):
    """--intrinsic-coef 0 against guided_sac_*.py --supervisor none: networks, actions and every logged number.

    Compiled, one baseline stands for three: what is compiled is the same text in all (test_scripts.py).
    """
    discrete = env_id == "FrozenLake-v1"
    flags = ["--env-id", env_id, "--total-timesteps", "220", "--num-envs", "2", "--batch-size", "32", "--autotune",
             "--policy-frequency", "2", "--alpha", "0.5", "--eval-frequency", "200", "--eval-episodes", "1",
             "--buffer-size", "2000", "--max-episode-steps", "60", *fast]  # fmt: skip
    guided = "guided_sac_discrete.py" if discrete else "guided_sac_continuous.py"
    plain = run_here(*flags, "--supervisor", "none", script=ROOT / guided)
    expected = scalars(plain.run_name)
    for name in names:
        run = run_here(*flags, "--intrinsic-coef", "0", script=SCRIPTS[name])
        assert all(torch.equal(a, b) for a, b in zip(learned(run), learned(plain), strict=True))
        stored = (r.rb.take(torch.arange(220)) for r in (run, plain))
        assert all(torch.equal(a, b) for a, b in zip(*stored, strict=True))
        logged = scalars(run.run_name)
        assert all(logged[tag] == expected[tag] for tag in expected.keys() - {"charts/SPS", "losses/conservative_loss"}
                   if not tag.startswith(("charts/guidance", "charts/supervision")))  # fmt: skip
        assert {"losses/alpha_loss", "eval/episodic_return"} <= set(logged)
        # what is asked for has its effect: with fast the rounding, without it the bonus
        other = [*flags[:-3], "--intrinsic-coef", "0"] if fast else [*flags, "--intrinsic-coef", "1"]
        assert not torch.equal(learned(run_here(*other, script=SCRIPTS[name]))[0], learned(plain)[0])


def test_scripts_differ_in_the_bonus_alone():
    """`diff` of any two: 120 lines at most, and outside the header, the flags and the bonus's class a handful."""
    for a, b in itertools.combinations(SCRIPTS.values(), 2):
        diff = subprocess.run(["diff", a, b], capture_output=True, text=True).stdout.splitlines()
        assert 20 < len(diff) <= 120, f"diff {a.name} {b.name}: {len(diff)} lines"
        loops = [path.read_text().split('if __name__ == "__main__":')[1].splitlines() for path in (a, b)]
        changed = [line for line in difflib.ndiff(*loops) if line[0] in "+-"]
        assert len(changed) <= 4, (
            changed
        )  # E3B forgets an episode at its end, and where a resumed one does not come back


def test_paper_settings_are_defaults_and_flags_win(run_here):
    """The environment's settings are those of the guided scripts, as far as they concern SAC."""
    for guided in ("guided_sac_continuous.py", "guided_sac_discrete.py"):
        theirs = runpy.run_path(str(ROOT / guided), run_name="imported")["ENV_DEFAULTS"]
        for script in MODULES.values():
            names = set(script.Args.__dataclass_fields__)
            for env_id, settings in theirs.items():
                ours = {k: v for k, v in script.ENV_DEFAULTS[env_id].items() if k != "intrinsic_coef"}
                assert ours == {k: v for k, v in settings.items() if k in names and "replay" not in k}
    run = run_here("--env-id", "Taxi-v4", "--total-timesteps", "2", "--intrinsic-coef", "0.3", "--batch-size", "8",
                   script=SCRIPTS["rnd"])  # fmt: skip
    assert run.args.alpha == 0.01 and run.sources["alpha"] == "environment"
    assert run.args.intrinsic_coef == 0.3 and run.sources["intrinsic_coef"] == "command line"


@pytest.mark.parametrize(
    ("name", "env_id"), [("rnd", "FrozenLake-v1"), ("icm", "MountainCarContinuous-v0"), ("e3b", "CliffWalking-v1")]
)
def test_videos_are_left_and_change_nothing(name, env_id, run_here):
    flags = ["--env-id", env_id, "--batch-size", "16", "--buffer-size", "2000", "--total-timesteps", "60"]
    plain = run_here(*flags, script=SCRIPTS[name])
    filmed = run_here(*flags, "--replay-frequency", "30", script=SCRIPTS[name])
    assert all(torch.equal(a, b) for a, b in zip(learned(plain), learned(filmed), strict=True))
    videos = sorted(path.name for path in Path(f"runs/{filmed.run_name}/replays").iterdir())
    assert videos == ["step_00000030.mp4", "step_00000060.mp4"]
    assert [event.step for event in events(filmed.run_name).Images("eval/replay")] == [30, 60]
    assert not Path(f"runs/{plain.run_name}/replays").exists()


def test_a_script_runs_with_the_plumbing_alone_and_asks_for_the_helper_only_for_videos(tmp_path):
    """A baseline that is copied away needs guided_utils/ beside it, and nothing of the supervision."""
    shutil.copy(SCRIPTS["e3b"], tmp_path / "e3b_sac.py")
    shutil.copytree(ROOT / "guided_utils", tmp_path / "guided_utils")
    flags = [*FROZEN, "--total-timesteps", "3"]
    command = [sys.executable, str(tmp_path / "e3b_sac.py"), *flags]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    process = subprocess.run([*command, "--replay-frequency", "1"], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert re.fullmatch(r"e3b_sac.py: error: .*llm_supervisor.*\n", process.stderr)
    assert len(list(tmp_path.glob("runs/*"))) == 1  # nothing is left of the second


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("env_id", ["Blackjack-v1", "MountainCarContinuous-v0"])
def test_saved_models_can_be_evaluated(name, env_id, run_here):
    """CleanRL's evaluate with the policy's class: the Q-networks where the policy is their softmax."""
    script = MODULES[name]
    run = run_here(f"--env-id={env_id}", "--total-timesteps=20", "--learning-starts=5", "--batch-size=16",
                   "--save-model", "--buffer-size=500", "--seed=3", script=SCRIPTS[name])  # fmt: skip
    assert re.fullmatch(rf"{env_id}__{name}_sac__3__\d+", run.run_name)
    model = script.DiscreteSoftQNetwork if env_id == "Blackjack-v1" else script.Actor
    make_env = functools.partial(script.make_env, max_episode_steps=run.args.max_episode_steps)
    returns = evaluate(f"runs/{run.run_name}/{name}_sac.cleanrl_model", make_env, env_id, 2, "x", model)
    envs = [make_env(env_id, 0, i, False, "x")() for i in range(2)]
    assert returns == episode_returns(envs, lambda obs: run.act(obs, True), seeds=[0, 1])
    if run.args.max_episode_steps:  # without the limit that the run had, an evaluation might never end
        with pytest.raises(ValueError, match=r"no time limit.*max_episode_steps bound"):
            evaluate(f"runs/{run.run_name}/{name}_sac.cleanrl_model", script.make_env, env_id, 2, "x", model)


BAD = {
    "coefficient": (["--intrinsic-coef", "-1"], "--intrinsic-coef"),
    "infinite coefficient": (["--intrinsic-coef", "inf"], "--intrinsic-coef must lie in [0, inf), not inf"),
    "no number": (["--intrinsic-coef", "nan"], "--intrinsic-coef must lie in [0, inf), not nan"),
    "infinite rate": (["--policy-lr", "inf"], "--policy-lr must lie in [0, inf), not inf"),
    "before any video": (["--capture-video", "--intrinsic-coef", "-1"], "--intrinsic-coef"),
    "bonus lr": (["--bonus-lr", "-1"], "--bonus-lr"),
    "replays": (["--replay-frequency", "-5"], "--replay-frequency"),
    "entropy": (["--target-entropy-scale", "1.5"], "--target-entropy-scale"),
    "gamma": (["--gamma", "1.5"], "--gamma"),
    "temperature": (["--alpha", "0"], "--alpha is the temperature"),
    "compile": (["--compile"], "--compile and --precision bf16 are for continuous actions only"),
    "precision": (["--precision", "bf16"], "--compile and --precision bf16 are for continuous actions only"),
    "unknown env": (["--env-id", "NoSuchEnv-v0"], "NoSuchEnv"),
    "observations": (["--env-id", "Unusable-v0"], "the observations of Unusable-v0 cannot be flattened"),
    "no time limit": (["--env-id", "Blackjack-v1", "--max-episode-steps", "None", "--eval-frequency", "5"],
                      "--max-episode-steps"),
}  # fmt: skip
OWN_BAD = {
    "icm": (["--beta", "1.5"], "--beta must lie in [0, 1]"),
    "e3b": (["--ridge", "0"], "--ridge must lie in [1e-06, inf)"),
}


class UnusableEnv(TorusEnv):
    def __init__(self, render_mode: str | None = None):
        super().__init__()
        self.observation_space = gym.spaces.Sequence(self.observation_space)


gym.register("Unusable-v0", entry_point=UnusableEnv)


@pytest.mark.parametrize("case", [*BAD, *OWN_BAD])
def test_bad_input_is_one_clear_line_and_leaves_nothing(case, run_here, tmp_path):
    flags, expected = (BAD | OWN_BAD)[case]
    name = case if case in OWN_BAD else "rnd"
    with pytest.raises(SystemExit) as exit_info:
        run_here("--env-id", "FrozenLake-v1", *flags, "--total-timesteps", "10", script=SCRIPTS[name])
    message = str(exit_info.value.code)
    assert expected in message and "\n" not in message and message.startswith(f"{name}_sac.py: error: ")
    assert not list(tmp_path.iterdir())


def test_bad_input_ends_a_process_with_one_line_on_stderr(tmp_path):
    process = run_process("--intrinsic-coef", "-1", script="rnd_sac.py")
    assert process.returncode == 1 and not list(tmp_path.iterdir())
    assert re.fullmatch(r"rnd_sac.py: error: --intrinsic-coef must lie in \[0, inf\), not -1.0\n", process.stderr)
