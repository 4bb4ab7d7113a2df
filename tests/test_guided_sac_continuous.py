"""guided_sac_continuous.py: losses, buffer, loop, supervision and the contract with CleanRL's tools."""

import copy
import importlib.util
import math
import os
import re
import runpy
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, Endpoint, needs_compiler, run_process, scalars, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import CONTENT

from guided_utils.evaluation import episode_returns, evaluate
from guided_utils.optimisation import take_step

script = SimpleNamespace(**runpy.run_path(str(ROOT / "guided_sac_continuous.py"), run_name="imported"))

COUNTER = ["--env-id", "Counter-v0", "--learning-starts", "20", "--batch-size", "16", "--guide-end", "400"]
RULE = """
import numpy as np
def policy(obs, t):
    return np.array([0.4 if t % 2 else -0.1])
"""


def spaces(obs_dim: int, low: list[float], high: list[float], num_envs: int = 1) -> SimpleNamespace:
    """What the networks and the replay buffer ask of a vector environment."""
    return SimpleNamespace(
        num_envs=num_envs,
        single_observation_space=gym.spaces.Box(-np.inf, np.inf, (obs_dim,)),
        single_action_space=gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32)),
    )


def update(run: SimpleNamespace, which: str, data, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """One step of a finished run's critics or actor, as in its loop; returns what it would log."""
    gradients, logs = run.mixed_precision(getattr(run, f"{which}_gradients"))(data, noise)
    take_step(run.q_optimizer if which == "critic" else run.actor_optimizer, gradients)
    return logs


# -- losses -----------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    q = torch.tensor([[1.0, 4.0], [2.0, 3.0]])  # (2 critics, B = 2)
    value = script.soft_value(q, log_pi=torch.tensor([-0.5, 2.0]), alpha=torch.tensor(0.1))
    torch.testing.assert_close(value, torch.tensor([1.0 + 0.05, 3.0 - 0.2]))
    # one terminated transition and one that goes on (a truncated one is stored with terminations 0)
    rewards, terminations = torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0])
    data = script.Batch(None, None, None, rewards=rewards, terminations=terminations, rows=None)
    target = script.td_target(data, value, gamma=0.9)
    torch.testing.assert_close(target, torch.tensor([1.0, -1.0 + 0.9 * 2.8]))
    losses = script.critic_losses(q, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(losses, torch.tensor([(0 + 4) / 2, (1 + 1) / 2]))


@given(seed=st.integers(0, 10_000), dim=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_log_probability_matches_torch_distributions(seed, dim):
    torch.manual_seed(seed)
    actor = script.Actor(spaces(3, [-2.0] * dim, [1.0] * dim)).double()
    obs = torch.randn(8, 3, dtype=torch.float64)
    torch.manual_seed(seed)
    actions, log_prob = actor.get_action(obs)
    mean, log_std = actor(obs)
    squashed = (actions - actor.action_bias) / actor.action_scale
    assert (squashed.abs() < 1).all()
    reference = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.transforms.TanhTransform()
    )
    torch.testing.assert_close(log_prob, reference.log_prob(squashed).sum(1), rtol=1e-6, atol=1e-6)


def test_log_probability_is_a_density():
    """∫ π(a|s) da = 1 over (−1, 1): Monte Carlo E_π[1/π(a|s)] over a subinterval [−c, c] equals its length 2c."""
    torch.manual_seed(0)
    actor = script.Actor(spaces(2, [-1.0], [1.0])).double()
    obs = torch.randn(1, 2, dtype=torch.float64).expand(200_000, 2)
    actions, log_prob = actor.get_action(obs)
    inside = actions[:, 0].abs() < 0.8
    estimate = (inside / log_prob.exp()).mean().item()
    assert estimate == pytest.approx(1.6, abs=0.03)


def test_log_probability_stays_finite_and_exact_in_saturation():
    """At u = 30, tanh(u) is 1 in floating point; log(1 − tanh²u) = log 4 − 2u up to e^{−4u}."""
    actor = script.Actor(spaces(1, [-1.0], [1.0])).double()
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.zero_()
        actor.fc_mean_logstd.bias[:] = torch.tensor([30.0, -20.0])  # std e⁻²⁰: u = 30 to 1e-7
    torch.manual_seed(0)
    _, log_prob = actor.get_action(torch.zeros(1, 1, dtype=torch.float64))
    torch.manual_seed(0)
    noise = torch.randn(1, 1, dtype=torch.float64).item()
    expected = -0.5 * noise**2 + 20 - 0.5 * math.log(2 * math.pi) - (math.log(4) - 60)
    assert log_prob.item() == pytest.approx(expected, abs=1e-6)


def sb3_twin(run, env_id: str, alpha: float | str):
    """Stable-Baselines3's SAC with the weights of a finished run of ours, and its actor and critics."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    model = SAC("MlpPolicy", env_id, ent_coef=alpha, seed=0, device="cpu", policy_kwargs={"net_arch": [256, 256]})
    model.set_logger(Logger(None, []))
    actor, critic = model.policy.actor, model.policy.critic
    dim = actor.mu.out_features
    with torch.no_grad():
        for theirs, ours in zip((actor.latent_pi[0], actor.latent_pi[2]), (run.actor.fc1, run.actor.fc2), strict=True):
            theirs.load_state_dict(ours.state_dict())
        for i, theirs in enumerate((actor.mu, actor.log_std)):
            theirs.weight.copy_(run.actor.fc_mean_logstd.weight[i * dim : (i + 1) * dim])
            theirs.bias.copy_(run.actor.fc_mean_logstd.bias[i * dim : (i + 1) * dim])
        for net, source in ((critic, run.qf), (model.policy.critic_target, run.qf_target)):
            for i, qf in enumerate((net.qf0, net.qf1)):
                weights = [torch.cat([*source.weights[:2]], dim=1), *source.weights[2:]]  # SB3's first layer is in one
                for layer, (weight, bias) in enumerate(zip(weights, source.biases, strict=True)):
                    qf[2 * layer].weight.copy_(weight[i].T)
                    qf[2 * layer].bias.copy_(bias[i, 0])
    return model, actor, critic


@pytest.mark.parametrize("alpha", [0.2, "auto"])
def test_updates_equal_stable_baselines3(run_here, alpha):
    """From equal weights, batch and noise, an update leaves all networks where Stable-Baselines3's leaves them."""
    flags = ["--no-autotune", "--alpha", "0.2"] if alpha != "auto" else []
    run = run_here("--env-id", "MountainCarContinuous-v0", "--supervisor", "none", "--total-timesteps", "64",
                   "--learning-starts", "100", *flags)  # fmt: skip
    data = run.rb.sample(64)
    model, actor, critic = sb3_twin(run, "MountainCarContinuous-v0", alpha)
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    batch = ReplayBufferSamples(
        data.observations, data.actions, data.next_observations, data.terminations[:, None], data.rewards[:, None]
    )
    model.replay_buffer.sample = lambda *_, **__: batch  # MountainCar's actions are in [-1, 1]: no rescaling between us
    tolerance = dict(rtol=1e-5, atol=1e-5)
    for step in range(1 if alpha == "auto" else 5):  # α's loss differs by the factor α, which is 1 in the first step
        torch.manual_seed(step)
        model.train(gradient_steps=1, batch_size=64)
        theirs = model.logger.name_to_value
        torch.manual_seed(step)
        noise = torch.randn(2, 64, 1)
        logs = update(run, "critic", data, noise) | update(run, "actor", data, noise[0])
        with torch.no_grad():
            torch._foreach_lerp_(run.targets, run.online, run.args.tau)
        assert logs["qf_losses"].sum().item() / 2 == pytest.approx(theirs["train/critic_loss"], rel=1e-5, abs=1e-5)
        assert logs["actor_loss"].item() == pytest.approx(theirs["train/actor_loss"], rel=1e-5, abs=1e-5)
        if step == 0:
            features = actor.latent_pi(data.observations)
            mean, log_std = run.actor(data.observations)
            torch.testing.assert_close(mean, actor.mu(features), **tolerance)
            torch.testing.assert_close(log_std, actor.log_std(features), **tolerance)
            for ours, net in ((run.qf, critic), (run.qf_target, model.policy.critic_target)):
                values = torch.stack(net(data.observations, data.actions))[..., 0]
                torch.testing.assert_close(ours(data.observations, data.actions), values, **tolerance)
    if alpha == "auto":
        torch.testing.assert_close(run.log_alpha.detach(), model.log_ent_coef.detach()[0], **tolerance)
        assert run.log_alpha.item() != 0


@pytest.mark.parametrize("env_id", ["MountainCarContinuous-v0", "Pendulum-v1", "Humanoid-v5"])
def test_log_probability_and_targets_equal_stable_baselines3(run_here, env_id):
    """In each action unit (±1, ±2, ±0.4), in double precision: log-probability, TD target and critics, to 1e-5.

    SB3 takes log(1 − tanh²u + 1e-6) where we take log(1 − tanh²u); that known difference is added to theirs.
    """
    run = run_here("--env-id", env_id, "--env-kwargs", "{}", "--supervisor", "none", "--total-timesteps", "1",
                   "--learning-starts", "100")  # fmt: skip
    model, actor, critic = sb3_twin(run, env_id, 0.2)
    critic_target = model.policy.critic_target
    for module in (run.actor, run.qf, run.qf_target, actor, critic, critic_target):
        module.double()
    torch.manual_seed(0)
    both = torch.randn(128, *run.envs.single_observation_space.shape, dtype=torch.float64)
    data = script.Batch(both[:64], both[64:], None, torch.randn(64).double(), (torch.rand(64) < 0.5).double(), None)
    tolerance = dict(rtol=1e-5, atol=1e-5)
    torch.manual_seed(1)
    pi, log_pi = run.actor.get_action(both)
    torch.manual_seed(1)
    latent = actor.latent_pi(both)  # not through SB3's feature extractor, which casts to single precision
    their_pi, their_log_pi = actor.action_dist.log_prob_from_params(actor.mu(latent), actor.log_std(latent))
    torch.testing.assert_close((pi - run.actor.action_bias) / run.actor.action_scale, their_pi, **tolerance)
    jacobian = 1 - their_pi**2
    their_log_pi = their_log_pi + torch.log((jacobian + 1e-6) / jacobian).sum(1)
    torch.testing.assert_close(log_pi, their_log_pi, **tolerance)
    with torch.no_grad():
        # SB3's critics see actions in [-1, 1]: the same functions once the first layer's action columns are rescaled
        for qf in (critic.qf0, critic.qf1, critic_target.qf0, critic_target.qf1):
            columns = qf[0].weight[:, -len(run.actor.action_scale) :]
            qf[0].bias += columns @ run.actor.action_bias.double()
            columns *= run.actor.action_scale
        x = torch.cat([both, their_pi], 1)
        torch.testing.assert_close(run.qf(both, pi), torch.stack([critic.qf0(x), critic.qf1(x)])[..., 0], **tolerance)
        next_q = torch.minimum(critic_target.qf0(x[64:]), critic_target.qf1(x[64:]))[:, 0]
        their_target = data.rewards + (1 - data.terminations) * 0.99 * (next_q - 0.2 * their_log_pi[64:])
        next_values = script.soft_value(run.qf_target(both[64:], pi[64:]), log_pi[64:], torch.tensor(0.2))
        torch.testing.assert_close(script.td_target(data, next_values, 0.99), their_target, **tolerance)


def test_value_network_update_by_hand(run_here):
    """--value-network: y = r + γ (1 − d) V̄(s'), J_V = ½ (V − (min Q − α log π))², V̄ follows V (Eq. 6-8)."""
    run = run_here(*COUNTER, "--supervisor", "none", "--value-network", "--total-timesteps", "200", "--alpha", "0.3",
                   "--no-autotune")  # fmt: skip
    data, noise = run.rb.sample(16), torch.randn(16, run.act_dim)
    pi, log_pi = run.actor.get_action(data.observations, noise)
    with torch.no_grad():
        y = data.rewards + 0.99 * (1 - data.terminations) * run.vf_target(data.next_observations)
        q = run.qf(data.observations, data.actions)
        q_pi = run.qf(data.observations, pi)
        v_target = torch.minimum(q_pi[0], q_pi[1]) - 0.3 * log_pi
    q_live, v_live = run.qf(data.observations, data.actions), run.vf(data.observations)
    loss = sum(torch.mean((q_live[i] - y) ** 2) for i in range(2)) + torch.mean(0.5 * (v_live - v_target) ** 2)
    expected = torch.autograd.grad(loss, [*run.qf.parameters(), *run.vf.parameters()])
    update(run, "critic", data, torch.stack([noise, torch.randn_like(noise)]))
    for parameter, gradient in zip([*run.qf.parameters(), *run.vf.parameters()], expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)
    assert all(a is b for a, b in zip(run.targets, run.vf_target.parameters(), strict=True))
    assert any((a != b).any() for a, b in zip(run.targets, run.vf.parameters(), strict=True))
    torch.testing.assert_close(
        torch.mean((q - y) ** 2, 1).sum(), loss.detach() - 0.5 * ((v_live - v_target) ** 2).mean()
    )


def test_critics_are_two_independent_networks():
    torch.manual_seed(0)
    qf = script.SoftQNetwork(spaces(5, [-1.0, -1.0], [1.0, 1.0]), hidden=8)
    obs, actions = torch.randn(7, 5), torch.randn(7, 2)
    both = qf(obs, actions)
    assert both.shape == (2, 7)
    for i in range(2):
        x = torch.cat([obs, actions], 1)
        weights = [torch.cat([*qf.weights[:2]], dim=1), *qf.weights[2:]]
        for layer in range(3):
            x = x @ weights[layer][i] + qf.biases[layer][i, 0]
            x = x.relu() if layer < 2 else x
        torch.testing.assert_close(both[i], x[:, 0])
    assert not torch.allclose(both[0], both[1])
    both[0].sum().backward()
    assert all(weight.grad[1].abs().max() == 0 < weight.grad[0].abs().max() for weight in qf.weights)


@given(seed=st.integers(0, 10_000), obs_dim=st.integers(1, 9), act_dim=st.integers(1, 4), batch=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_critics_gradient_for_the_actions_is_that_of_one_joined_layer(seed, obs_dim, act_dim, batch):
    torch.manual_seed(seed)
    qf = script.SoftQNetwork(spaces(obs_dim, [-1.0] * act_dim, [1.0] * act_dim), hidden=8).double()
    obs, actions = torch.randn(batch, obs_dim).double(), torch.randn(batch, act_dim).double().requires_grad_()
    joined = torch.cat([*qf.weights[:2]], dim=1)  # (2, obs + action, hidden)
    x = (torch.cat([obs, actions], dim=1) @ joined + qf.biases[0]).relu()
    reference = ((x @ qf.weights[2] + qf.biases[1]).relu() @ qf.weights[3] + qf.biases[2]).squeeze(-1)
    values = qf(obs, actions)
    torch.testing.assert_close(values, reference)
    weight = torch.randn(2, batch).double()
    (ours,), (theirs,) = (torch.autograd.grad((weight * q).sum(), actions) for q in (values, reference))
    torch.testing.assert_close(ours, theirs)


def test_an_update_moves_only_its_own_networks(run_here):
    """update_critic moves the critics; update_actor the actor and α, and leaves the critics' gradients alone, too."""
    run = run_here(*COUNTER, "--supervisor", "none", "--total-timesteps", "60")
    data = run.rb.sample(16)

    def copies(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [x.detach().clone() for x in tensors]

    noise = torch.randn(2, 16, run.act_dim)
    actor, critics = [*run.actor.parameters(), run.log_alpha], [*run.qf.parameters()]
    before = copies(*actor, *critics)
    update(run, "critic", data, noise)
    after_critic = copies(*actor, *critics)
    gradients = copies(*(p.grad for p in critics))
    update(run, "actor", data, noise[0])
    after_actor = copies(*actor, *critics)
    n = len(actor)
    assert all(torch.equal(a, b) for a, b in zip(before[:n], after_critic[:n], strict=True))
    assert all((a != b).any() for a, b in zip(before[n:], after_critic[n:], strict=True))
    assert all((a != b).any() for a, b in zip(after_critic[:n], after_actor[:n], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after_critic[n:], after_actor[n:], strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(critics, gradients, strict=True))


def test_bf16_rounds_the_products_and_nothing_else(run_here):
    """Losses and gradients near those of float32, all in float32; the actor's loss sees the critics' new weights."""
    runs = [run_here(*COUNTER, "--supervisor", "none", "--total-timesteps", "60", "--learning-starts", "60",
                     "--q-lr", "0.05", "--precision", precision) for precision in ("fp32", "bf16")]  # fmt: skip
    data = runs[0].rb.sample(512)
    logs = []
    for run in runs:  # both have the same weights: nothing was learned yet
        assert all(x.dtype == torch.float32 for x in run.mixed_precision(run.actor.get_action)(data.observations))
        noise = torch.randn(2, 512, run.act_dim, generator=torch.Generator().manual_seed(0))
        logs.append(update(run, "critic", data, noise) | update(run, "actor", data, noise[0]))
        tensors = [*run.actor.parameters(), *run.qf.parameters(), run.log_alpha]
        assert all(x.dtype == x.grad.dtype == torch.float32 for x in tensors)
    for name, exact in logs[0].items():
        assert logs[1][name].dtype == torch.float32
        torch.testing.assert_close(logs[1][name], exact, rtol=0.02, atol=0.02 * exact.abs().max().item())
        assert not torch.equal(logs[1][name], exact) or name == "alpha_loss"
    for exact, rounded in zip(*([*run.actor.parameters(), *run.qf.parameters()] for run in runs), strict=True):
        assert F.cosine_similarity(exact.grad.flatten(), rounded.grad.flatten(), dim=0) > 0.99


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "flags, graphs", [([], 2), (["--value-network", "--no-autotune", "--policy-frequency", "2"], 3)]
)
def test_a_compiled_update_is_the_plain_one(run_here, flags, graphs):
    """A graph to act and one to learn, one more to teach the critics alone; from an equal state, equal results."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    flags = ["--env-id", "MountainCarContinuous-v0", "--supervisor", "none", "--batch-size", "32",
             "--total-timesteps", "60", "--learning-starts", "50", *flags]  # fmt: skip
    plain, compiled = run_here(*flags), run_here(*flags, "--compile")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    after_ten_updates = compiled.actor.fc1.weight, plain.actor.fc1.weight
    torch.testing.assert_close(*after_ten_updates, rtol=0, atol=1e-4)

    learning = ["actor", "qf", "qf_target", "q_optimizer", "actor_optimizer"]
    learning += ["vf", "vf_target"] if plain.args.value_network else []
    for name in learning:
        getattr(compiled, name).load_state_dict(copy.deepcopy(getattr(plain, name).state_dict()))
    compiled.log_alpha.data.copy_(plain.log_alpha)
    before = copy.deepcopy(plain.qf.state_dict())
    data, noise = plain.rb.sample(32), torch.randn(2, 32, plain.act_dim)
    actor_noise = [noise[0], torch.randn_like(noise[0])][: plain.args.policy_frequency]
    ours, theirs = (run.update(run.Batch(*data), noise, actor_noise, True) for run in (compiled, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    for name in learning:
        ours, theirs = (getattr(run, name).state_dict() for run in (compiled, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(compiled.log_alpha, plain.log_alpha, rtol=0, atol=1e-6)
    assert all((before[name] != value).any() for name, value in plain.qf.state_dict().items())


def test_compilation_without_a_compiler_ends_with_one_line(tmp_path):
    """… before a run folder is made."""
    missing = {"CXX": str(tmp_path / "nothing"), "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    result = run_process("--supervisor", "none", "--compile", **missing)
    assert result.returncode == 1
    assert re.search(r"error: --compile failed: .*nothing.*; it needs a C\+\+ compiler such as g\+\+$", result.stderr)
    assert "Traceback" not in result.stderr and not Path("runs").exists()


def test_bf16_keeps_values_finer_than_its_own_numbers(run_here):
    """Around 100, where neighbours in bfloat16 are 0.5 apart: a value and its target must not be rounded to that."""
    run = run_here(*COUNTER, "--supervisor", "none", "--total-timesteps", "20", "--learning-starts", "20",
                   "--value-network", "--precision", "bf16")  # fmt: skip
    data = run.rb.sample(512)
    with torch.no_grad():
        for bias in (run.qf.biases[-1], run.vf.fc3.bias):
            bias.zero_()
        for weight in (run.qf.weights[-1], run.vf.fc3.weight):  # from values around 0 to values around 100
            weight.abs_().mul_(100)
        for network, inputs in ((run.qf, (data.observations, data.actions)), (run.vf, (data.observations,))):
            rounded, exact = run.mixed_precision(network.__call__)(*inputs), network(*inputs)
            assert exact.abs().mean() > 20 and rounded.dtype == torch.float32
            assert (rounded != rounded.bfloat16()).float().mean() > 0.9
            torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0.2)


# -- replay buffer ----------------------------------------------------------------------------------------------------


@given(
    num_envs=st.integers(1, 4), buffer_size=st.integers(4, 40), steps=st.integers(1, 60), ends=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_replay_buffer_equals_a_plain_list(num_envs, buffer_size, steps, ends, seed):
    """Against a list of (s, a, r, d, s'): exactly the newest `buffer_size` transitions are there, intact."""
    rng = np.random.default_rng(seed)
    buffer = script.ReplayBuffer(buffer_size, spaces(2, [-1.0], [1.0], num_envs), torch.device("cpu"))
    notes = torch.full((buffer.size,), -1.0)  # what a script keeps beside each transition
    fresh = iter(range(10**9))

    def new_obs(n: int) -> np.ndarray:
        return np.array([[next(fresh), -1.0] for _ in range(n)])

    obs, everything = new_obs(num_envs), []
    for _ in range(steps):
        actions = np.array([[next(fresh)] for _ in range(num_envs)], dtype=np.float32)
        rewards, terminations = rng.normal(size=num_envs).astype(np.float32), rng.random(num_envs) < ends / 2
        dones = terminations | (rng.random(num_envs) < ends / 2)
        final_obs = new_obs(num_envs)
        next_obs = np.where(dones[:, None], new_obs(num_envs), final_obs)
        rows = buffer.add(obs, final_obs, actions, rewards, terminations)
        assert torch.equal(buffer.take(rows).actions[:, 0], torch.as_tensor(actions[:, 0]))
        notes[rows] = torch.as_tensor(actions[:, 0])
        everything += list(zip(obs[:, 0], actions[:, 0], rewards, terminations, final_obs[:, 0], strict=True))
        obs = next_obs
    assert len(buffer) == min(buffer_size, num_envs * steps)
    alive = {row[1]: row for row in everything[-buffer_size:]}
    batch = buffer.take(torch.arange(len(buffer)))
    assert (notes[batch.rows] == batch.actions[:, 0]).all()
    assert sorted(batch.actions[:, 0].tolist()) == sorted(alive)
    for s, a, r, d, s2 in zip(batch.observations[:, 0], batch.actions[:, 0], batch.rewards, batch.terminations,
                              batch.next_observations[:, 0], strict=True):  # fmt: skip
        row = alive[a.item()]
        assert (s.item(), r.item(), d.item(), s2.item()) == (row[0], row[2], float(row[3]), row[4])
    drawn = buffer.sample(500)
    places = {a.item(): row for a, row in zip(batch.actions[:, 0], batch.rows, strict=True)}
    assert all(places[a.item()] == row for a, row in zip(drawn.actions[:, 0], drawn.rows, strict=True))
    assert len(set(drawn.rows.tolist())) == len(alive)  # 500 draws of at most 40: a miss has 40 · e^{-12.5}


def test_replay_buffer_draws_uniformly():
    buffer = script.ReplayBuffer(10, spaces(1, [-1.0], [1.0]), torch.device("cpu"))
    for i in range(25):
        buffer.add(np.full((1, 1), i), np.full((1, 1), i + 1.0), np.full((1, 1), i), np.zeros(1), np.zeros(1))
    torch.manual_seed(0)
    counts = np.bincount(buffer.sample(100_000).actions[:, 0].int().numpy(), minlength=25)
    assert counts[:15].sum() == 0
    # each of 10 transitions: 10,000 ± 95 (one standard deviation)
    assert np.abs(counts[15:] - 10_000).max() < 5 * 95


def test_images_take_a_byte_a_number_and_come_back_as_floats():
    envs = spaces(1, [-1.0], [1.0])
    envs.single_observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    buffer = script.ReplayBuffer(10, envs, torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8, 3), dtype=np.uint8)
    buffer.add(*images, np.zeros((1, 1)), np.zeros(1), np.zeros(1))
    stored = buffer.transitions
    assert stored.observations.dtype == stored.next_observations.dtype == torch.uint8
    batch = buffer.sample(4)
    for drawn, image in ((batch.observations, images[0]), (batch.next_observations, images[1])):
        assert drawn.dtype == torch.float32 and (drawn == torch.as_tensor(image)).all()


FILL = r"""
import re, runpy, sys
import gymnasium as gym, numpy as np, torch
from types import SimpleNamespace

def resident(name):  # VmRSS: at this moment; VmHWM: the highest so far, in kB
    return int(re.search(rf"{name}:\s+(\d+) kB", open("/proc/self/status").read())[1])

obs_space, action_space = gym.spaces.Box(-np.inf, np.inf, (348,)), gym.spaces.Box(-0.4, 0.4, (17,), np.float32)
obs, actions, zeros = np.ones((1000, 348)), np.ones((1000, 17), np.float32), np.zeros(1000)
rows = 150_000
if sys.argv[1] == "ours":
    ReplayBuffer = runpy.run_path(sys.argv[2])["ReplayBuffer"]
    envs = SimpleNamespace(num_envs=1000, single_observation_space=obs_space, single_action_space=action_space)
    before = resident("VmRSS")
    buffer = ReplayBuffer(rows, envs, torch.device("cpu"))
else:
    from stable_baselines3.common.buffers import ReplayBuffer
    obs_space = gym.spaces.Box(-np.inf, np.inf, (348,), np.float64)  # Humanoid-v5's own
    before = resident("VmRSS")
    buffer = ReplayBuffer(rows, obs_space, action_space, device="cpu", n_envs=1000)
for _ in range(rows // 1000):
    if sys.argv[1] == "ours":
        buffer.add(obs, obs, actions, zeros, zeros)
    else:
        buffer.add(obs, obs, actions, zeros, zeros, [{}] * 1000)
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
def test_humanoid_transitions_take_60_percent_of_stable_baselines3s_memory():
    """Peak memory of two real processes that fill their buffers with 150,000 transitions of 348 variables.

    By hand: 4 · (2 · 348 + 17 + 2) bytes each here, about twice as much with observations of 8 bytes there.
    """
    script_path = str(ROOT / "guided_sac_continuous.py")
    peaks = [
        int(subprocess.run([sys.executable, "-c", FILL, which, script_path], capture_output=True, text=True, check=True,
                           env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout)
        for which in ("ours", "theirs")
    ]  # fmt: skip
    assert peaks[0] <= 0.6 * peaks[1]


# -- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [1, 3])
def test_every_stored_transition_is_a_real_one(run_here, num_envs):
    """In SAME_STEP mode: s' is the true successor also at an episode's end; only a termination is stored as one."""
    run = run_here(*COUNTER, "--supervisor", "none", "--num-envs", str(num_envs), "--total-timesteps", "300")
    batch = run.rb.sample(3_000)
    s, s2 = batch.observations, batch.next_observations
    assert (s[:, 0] == s2[:, 0]).all() and (s[:, 1] == s2[:, 1]).all()  # same environment, same episode
    assert (s2[:, 2] == s[:, 2] + 1).all() and (batch.rewards == s2[:, 2]).all()
    torch.testing.assert_close(s2[:, 3], batch.actions[:, 0])  # the action that the environment got
    terminated = (s[:, 1] % 2 == 0) & (s2[:, 2] == 5)
    truncated = (s[:, 1] % 2 == 1) & (s2[:, 2] == 7)
    assert (batch.terminations.bool() == terminated).all()
    assert terminated.any() and truncated.any()
    assert len(torch.unique(s[:, 0])) == num_envs and len(run.rb) == 300
    logged = scalars(run.run_name)
    returns = [value for _, value in logged["charts/episodic_return"]]
    assert set(returns) == {15.0, 28.0}  # 1+…+5 and 1+…+7
    assert logged["charts/episodic_return"][0][0] == 5 * num_envs  # global_step counts environment transitions
    assert {value for _, value in logged["charts/episodic_length"]} == {5.0, 7.0}


def test_truncation_bootstraps_and_termination_does_not(run_here):
    """The target of real transitions: r where terminated, r + γ V(s') where truncated."""
    run = run_here(*COUNTER, "--supervisor", "none", "--total-timesteps", "300")
    batch = run.rb.sample(2_000)
    target = script.td_target(batch, torch.full((2_000,), 100.0), gamma=0.5)
    ends_terminated = (batch.observations[:, 1] % 2 == 0) & (batch.next_observations[:, 2] == 5)
    assert (target[ends_terminated] == batch.rewards[ends_terminated]).all()
    assert (target[~ends_terminated] == batch.rewards[~ends_terminated] + 50).all()


def test_executed_clipped_action_is_in_the_buffer(run_here, tmp_path):
    """a = clip(a_rl + a_g, low, high) per environment, with a_g at that environment's own episode step.

    a_rl is the learner's action, also before learning begins, where an unguided step is uniformly random: the actor,
    here the one that the seed makes, is asked again in the same states with the same noise.
    """
    (tmp_path / "rule.py").write_text(RULE)
    run = run_here(*COUNTER, "--guide-policy", "rule.py", "--advisor-always", "--num-envs", "3", "--total-timesteps",
                   "300", "--learning-starts", "300")  # fmt: skip
    observations, ours = run.rb.transitions.observations[:300], run.rb.transitions.actions[:300, 0]
    torch.manual_seed(run.args.seed)
    actor = script.Actor(run.envs)
    _ = script.SoftQNetwork(run.envs), script.SoftQNetwork(run.envs)  # which draw their weights too
    with torch.no_grad():
        learned = torch.cat([actor.get_action(x)[0][:, 0] for x in observations.split(3)])
    residual = torch.where(observations[:, 2] % 2 == 1, 0.4, -0.1)
    torch.testing.assert_close(ours, (learned + residual).clamp(-0.5, 0.5), rtol=0, atol=1e-6)
    torch.testing.assert_close(run.rb.transitions.next_observations[:300, 3], ours)  # what the environment got
    assert (ours == 0.5).any() and (ours == -0.5).any() and ((ours - learned).abs() > 0.05).float().mean() > 0.8
    assert scalars(run.run_name)["charts/guidance_active"] == [(0, 1.0), (299, 1.0), (300, 0.0)]


def test_guidance_ends_at_guide_end(run_here, tmp_path):
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 0.5\n")
    run = run_here(*COUNTER, "--guide-policy", "rule.py", "--advisor-always", "--guide-start", "30", "--guide-window",
                   "40", "--guide-end", "95", "--total-timesteps", "140", "--learning-starts", "140")  # fmt: skip
    plain = run_here(*COUNTER, "--supervisor", "none", "--total-timesteps", "140", "--learning-starts", "140")
    changed = (run.rb.transitions.actions != plain.rb.transitions.actions)[:140, 0]
    assert changed[30:95].all() and not changed[:30].any() and not changed[95:].any()
    assert scalars(run.run_name)["charts/guidance_active"] == [
        (0, 0.0), (29, 0.0), (30, 1.0), (70, 1.0), (94, 1.0), (95, 0.0), (140, 0.0),
    ]  # fmt: skip


def weights(run) -> list[torch.Tensor]:
    return [p.detach() for module in (run.actor, run.qf, run.qf_target) for p in module.parameters()]


def test_unguided_equals_a_script_without_supervision(run_here, no_supervisor):
    """--supervisor none, and a model that never intervenes, change no bit of the learning, pictures included.

    Asked for the first time when each of the two environments is ten steps, a tenth of a window, away from its reset.
    """
    flags = ["--env-id", "MountainCarContinuous-v0", "--total-timesteps", "350", "--num-envs", "2",
             "--batch-size", "32"]  # fmt: skip
    none = run_here(*flags, "--supervisor", "none")
    with Endpoint(lambda body, n: CONTENT) as endpoint:
        content = run_here(*flags, "--llm-base-url", endpoint.url, "--guide-window", "100")
    no_supervisor()
    without = run_here(*flags)
    logged = scalars(content.run_name)
    assert logged["charts/guidance_active"] == [(step, 0.0) for step in (0, 20, 120, 220, 320, 350)]
    assert len(endpoint.requests) == 4 and logged["supervisor/guided_steps"][-1] == (350, 0.0)
    for other in (none, content):
        assert all(torch.equal(a, b) for a, b in zip(weights(without), weights(other), strict=True))
        assert torch.equal(without.rb.transitions.actions[:350], other.rb.transitions.actions[:350])
        a, b = scalars(without.run_name), scalars(other.run_name)
        assert all(a[tag] == b[tag] for tag in a if tag != "charts/SPS") and "losses/qf_loss" in a


def test_evaluation_leaves_training_as_it_was(run_here):
    flags = ["--env-id", "MountainCarContinuous-v0", "--supervisor", "none", "--total-timesteps", "250",
             "--batch-size", "32", "--max-episode-steps", "50"]  # fmt: skip
    plain = run_here(*flags)
    evaluated = run_here(*flags, "--eval-frequency", "100", "--eval-episodes", "2")
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(evaluated), strict=True))
    assert [step for step, _ in scalars(evaluated.run_name)["eval/episodic_return"]] == [0, 100, 200, 250]
    assert "eval/episodic_return" not in scalars(plain.run_name)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--no-compile", pytest.param("--compile", marks=needs_compiler)])
def test_same_seed_gives_the_same_weights_in_another_process(tmp_path, flag):
    runs = []
    for name in ("first", "second"):
        process = run_process("--total-timesteps", "300", "--save-model", "--exp-name", name, "--guide-window", "150",
                              "--batch-size", "32", flag)  # fmt: skip
        assert process.returncode == 0, process.stderr
        assert "step 0: supervisor: no unguided episode is over yet; guiding\n" in process.stdout
        (path,) = tmp_path.glob(f"runs/*{name}*/{name}.cleanrl_model")
        runs.append(torch.load(path, weights_only=True))
    for ours, theirs in zip(*runs, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_rule_that_fails_while_training_only_ends_the_guidance(run_here, tmp_path):
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 0.5 if t < 230 else [1] / 0\n")
    run = run_here("--guide-policy", "rule.py", "--advisor-always", "--total-timesteps", "300", "--learning-starts",
                   "290")  # fmt: skip
    assert run.global_step == 300
    logged = scalars(run.run_name)
    assert logged["charts/guidance_active"] == [(0, 1.0), (229, 1.0), (230, 0.0), (300, 0.0)]
    assert logged["supervisor/failures"][-1] == (230, 1.0)
    assert "TypeError" in texts(run.run_name, "supervisor/verdict")[-1]


def test_alpha_is_learned_toward_the_target_entropy_and_can_be_fixed(run_here):
    learned = run_here(*COUNTER, "--supervisor", "none", "--total-timesteps", "200", "--alpha-lr", "0.01")
    fixed = run_here(*COUNTER, "--supervisor", "none", "--total-timesteps", "200", "--no-autotune", "--alpha", "0.3")
    assert learned.target_entropy == -1.0
    # a fresh policy's entropy (near log 2 > −1) is above the target, so α falls
    assert scalars(learned.run_name)["losses/alpha"][-1][1] < 0.9
    assert [round(v, 6) for _, v in scalars(fixed.run_name)["losses/alpha"]] == [0.3, 0.3]


def test_policy_frequency_delays_and_makes_up_and_targets_wait(run_here):
    """Every third update three steps of the actor; every fifth the targets, which with τ = 1 become the critics.

    With one environment an iteration is a step, and those that learn are 21, …, T: 40 steps of the critics up to
    T = 60, 44 up to T = 64. The multiples of 3 among them are 20 − 6 = 14 and 21 − 6 = 15, with 3 steps of the actor
    each: 42 and 45. The last multiple of 5 is 60 in both runs: at T = 64 the targets are still the critics of T = 60.
    """
    flags = ["--env-id", "MountainCarContinuous-v0", "--supervisor", "none", "--learning-starts", "20", "--batch-size",
             "16", "--policy-frequency", "3", "--target-network-frequency", "5", "--tau", "1"]  # fmt: skip
    first, second = (run_here(*flags, "--total-timesteps", steps) for steps in ("60", "64"))
    for run, critic_steps, actor_steps in ((first, 40, 42), (second, 44, 45)):
        assert run.q_optimizer.state[next(iter(run.qf.parameters()))]["step"].item() == critic_steps
        assert run.actor_optimizer.state[next(iter(run.actor.parameters()))]["step"].item() == actor_steps
    for run in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(first.online, run.targets, strict=True))
    assert all((a != b).any() for a, b in zip(second.online, second.targets, strict=True))


# -- the command line -------------------------------------------------------------------------------------------------


def test_paper_settings_are_defaults_and_flags_win(run_here, capsys):
    run = run_here("--env-id", "MountainCarContinuous-v0", "--supervisor", "none", "--total-timesteps", "5",
                   "--tau", "0.01")  # fmt: skip
    assert (run.args.guide_window, run.args.guide_end, run.args.learning_starts) == (1_000, 3_000, 0)
    assert run.sources["guide_end"] == "environment" and run.sources["tau"] == "command line"
    assert run.sources["buffer_size"] == "default"
    header = capsys.readouterr().out.splitlines()
    assert any(line.strip().startswith("command line:") and "tau=0.01" in line for line in header)
    assert any(line.strip().startswith("environment:") and "guide_end=3000" in line for line in header)
    assert "|guide_end|3000|environment|" in texts(run.run_name, "hyperparameters")[0]


def test_humanoid_has_the_papers_47_variables(run_here):
    run = run_here("--env-id", "Humanoid-v5", "--supervisor", "none", "--total-timesteps", "3")
    assert run.envs.single_observation_space.shape == (47,)
    assert (run.args.guide_end, run.args.learning_starts) == (900_000, 100)
    public = run_here("--env-id", "Humanoid-v5", "--supervisor", "none", "--total-timesteps", "3", "--env-kwargs", "{}")
    assert public.envs.single_observation_space.shape == (348,)


def test_cleanrl_tools_can_drive_the_script(run_here):
    """What CleanRL's tuner does: runpy, --key=value, the global run_name, scalars under runs/{run_name}."""
    run = run_here("--env-id=MountainCarContinuous-v0", "--seed=3", "--total-timesteps=150", "--supervisor=none",
                   "--q-lr=0.001", "--save-model", "--eval-frequency=100", "--eval-episodes=2")  # fmt: skip
    assert re.fullmatch(r"MountainCarContinuous-v0__guided_sac_continuous_none__3__\d+", run.run_name)
    logged = scalars(run.run_name)
    losses = ("qf1_values", "qf2_values", "qf1_loss", "qf2_loss", "qf_loss", "actor_loss", "alpha", "alpha_loss")
    names = {"charts/SPS", "eval/episodic_return", *(f"losses/{name}" for name in losses)}
    assert names <= set(logged)
    assert all(math.isfinite(value) for tag in names for _, value in logged[tag])
    path = f"runs/{run.run_name}/guided_sac_continuous_none.cleanrl_model"
    make_env = script.make_env
    returns = evaluate(path, make_env, "MountainCarContinuous-v0", 2, "eval", script.Actor)
    act = lambda obs: run.act(obs, True)  # noqa: E731
    envs = [make_env("MountainCarContinuous-v0", 0, i, False, "x")() for i in range(2)]
    assert returns == pytest.approx(episode_returns(envs, act, seeds=[0, 1]))


def test_greedy_returns_by_hand():
    """CounterEnv's episodes alternate 15 and 28, whatever the policy; two environments are asked together."""
    envs = [script.make_env("Counter-v0", 0, i, False, "x")() for i in range(3)]
    sizes = []

    def policy(obs: np.ndarray) -> np.ndarray:
        sizes.append(len(obs))
        return np.zeros((len(obs), 1))

    assert episode_returns(envs[:2], policy, seeds=[0, 1]) == [15.0, 15.0]
    assert episode_returns(envs, policy, seeds=[0, 1, 2]) == [28.0, 28.0, 15.0]
    assert sizes == [2] * 5 + [3] * 5 + [2] * 2  # ended ones are no longer stepped


BAD = {
    "unknown env": (["--env-id", "NoSuchEnv-v0"], "NoSuchEnv"),
    "discrete actions": (["--env-id", "CartPole-v1", "--supervisor", "none"], "guided_sac_discrete.py"),
    "rule unreadable": (["--guide-policy", "missing.py"], "missing.py"),
    "rule empty": (["--guide-policy", "empty.py"], "empty.py"),
    "rule syntax": (["--guide-policy", "syntax.py"], "syntax"),
    "rule wrong shape": (["--guide-policy", "shape.py"], "shape"),
    "rule NaN": (["--guide-policy", "nan.py"], "finite"),
    "rule raises at the reset": (["--guide-policy", "reset.py"], "t=0"),
    "env-kwargs no JSON": (["--env-kwargs", "{goal_velocity: 1"], "--env-kwargs must be a JSON object"),
    "env-kwargs no object": (["--env-kwargs", "[1]"], "--env-kwargs must be a JSON object"),
    "env-kwargs refused": (["--env-kwargs", '{"nonsense": 1}'], "nonsense"),
    "guidance ends before it begins": (["--supervisor", "bundled", "--guide-start", "5000"], "--guide-end 3000"),
    "guidance begins before the run": (["--supervisor", "bundled", "--guide-start", "-1"], "--guide-start -1"),
    "targets that stand still": (["--tau", "0"], "--tau"),
    "no key": (["--supervisor", "llm"], "OPENAI_API_KEY"),
    "prompt folder lacks a file": (["--supervisor", "llm", "--llm-base-url", "http://127.0.0.1:9", "--prompt-dir",
                                    "half"], "coder.md"),
    "bundled folder lacks a file": (["--supervisor", "bundled", "--prompt-dir", "half"], "bundled.toml"),
    "nobody can supervise": (["--env-id", "Pendulum-v1"], "--supervisor none"),
    "run folder": (["--supervisor", "none"], "runs"),
    "gamma": (["--gamma", "1.5"], "--gamma"),
    "batch size": (["--batch-size", "0"], "--batch-size"),
    "window": (["--guide-window", "0"], "--guide-window"),
    "learning rate": (["--q-lr", "-1"], "--q-lr"),
    "no time limit": (["--env-id", "Counter-v0", "--supervisor", "none", "--eval-frequency", "5"], "--max-episode"),
    "no such module": (["--env-id", "no_such_module:Env-v0"], "no_such_module"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(case, run_here, tmp_path):
    rules = {
        "empty": "", "syntax": "def policy(obs, t)\n    return 0", "shape": "def policy(obs, t):\n    return [0, 0]\n",
        "nan": "def policy(obs, t):\n    return float('nan')\n",
        "reset": "def policy(obs, t):\n    return [0][7 if t == 0 else 0]\n",
    }  # fmt: skip
    for name, text in rules.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "advisor.md").write_text((ROOT / "prompts" / "default" / "advisor.md").read_text())
    if case == "run folder":
        (tmp_path / "runs").write_text("a file where the folder should be")
    before = sorted(tmp_path.rglob("*"))
    flags, expected = BAD[case]
    with pytest.raises(SystemExit) as exit_info:
        run_here(*flags, "--total-timesteps", "10")
    message = str(exit_info.value.code)
    assert expected in message and "\n" not in message and message.startswith("guided_sac_continuous.py: error: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["guided_sac_continuous.py", "rnd_sac.py"])
@pytest.mark.parametrize(
    ("space", "usable"),
    [
        (gym.spaces.Box(-1, 1, (2,), np.float32), True),
        (gym.spaces.Box(-1, 1, (2, 3), np.float64), True),
        (gym.spaces.Box(0, 3, (2,), np.int64), False),  # a Gaussian's action lies between its members
        (gym.spaces.Box(-1, 1, (), np.float32), False),
        (gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), False),
    ],
)  # fmt: skip
def test_actions_that_a_gaussian_cannot_take_are_refused(name, space, usable):
    check_spaces = runpy.run_path(str(ROOT / name))["check_spaces"]
    env = gym.Env()
    env.spec = gym.spec("Pendulum-v1")
    env.observation_space, env.action_space = gym.spaces.Box(-1, 1, (3,)), space
    with nullcontext() if usable else pytest.raises(ValueError, match="a bounded Box of floats"):
        check_spaces(env)


@pytest.mark.parametrize(
    ("script", "env_id", "flag", "default"),
    [
        ("guided_sac_continuous.py", "Humanoid-v5", "--guide-end", "900000"),
        ("guided_sac_discrete.py", "CliffWalking-v1", "--batch-size", "1024"),
        ("rnd_sac.py", "FrozenLake-v1", "--batch-size", "64"),
    ],
)
def test_help_shows_the_environments_defaults(script, env_id, flag, default, run_here, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as ended:
        run_here("--env-id", env_id, "--help", script=ROOT / script)
    assert ended.value.code == 0
    (line,) = re.findall(rf"{flag} INT .*", capfd.readouterr().out)
    assert f"(default: {default})" in line


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_tracking_without_its_package_is_one_clear_line(tmp_path):
    process = run_process("--track", "--supervisor", "none")
    assert process.returncode == 1 and "No module named 'wandb'" in process.stderr and not list(tmp_path.iterdir())
    assert process.stderr.startswith("guided_sac_continuous.py: error: ") and process.stderr.strip().count("\n") == 0


def test_bad_input_ends_a_process_with_one_line_on_stderr(tmp_path):
    process = run_process("--env-id", "CartPole-v1")
    assert process.returncode == 1 and not list(tmp_path.iterdir())
    assert process.stderr.strip().count("\n") == 0 and "guided_sac_discrete.py" in process.stderr


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_guided_sac_solves_mountain_car(run_here):
    """The paper's claim for MountainCarContinuous at one seed: the unguided greedy policy has it by step 4,000."""
    run = run_here("--total-timesteps", "4000", "--eval-frequency", "4000", "--eval-episodes", "20", "--seed", "1",
                   "--replay-frames", "0")  # fmt: skip
    assert scalars(run.run_name)["eval/episodic_return"][-1][1] >= 90
