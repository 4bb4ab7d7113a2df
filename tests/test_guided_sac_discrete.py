"""guided_sac_discrete.py: losses, networks, observations, loop, guidance and the contract with CleanRL's tools."""

import json
import math
import re
import runpy
from functools import partial
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import OBSERVATIONS, ROOT, Endpoint, TabularEnv, run_process, scalars, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import CONTENT
from test_theory import Mdp, optimal_q

from guided_utils.environments import integer_space
from guided_utils.evaluation import episode_returns, evaluate

SCRIPT = ROOT / "guided_sac_discrete.py"
script = SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="imported"))

QUIET = ["--replay-frames", "0"]  # consultations without pictures
COUNTER = ["--env-id", "DiscreteCounter-v0", "--learning-starts", "20", "--batch-size", "16", "--guide-end", "400",
           *QUIET]  # fmt: skip
EXACT = ["--env-id", "Taxi-v4", "--learning-starts", "30", "--batch-size", "32", "--supervisor", "none"]
ALPHA = torch.tensor(0.5)


@pytest.fixture
def run(run_here):
    """Run the script in this process; returns its globals."""
    return partial(run_here, script=SCRIPT)


def spaces(obs: gym.Space, actions: gym.spaces.Discrete, num_envs: int = 1) -> SimpleNamespace:
    """What the networks and the replay buffer ask of a vector environment."""
    return SimpleNamespace(num_envs=num_envs, single_observation_space=obs, single_action_space=actions)


def softmax(x: np.ndarray) -> np.ndarray:
    weight = np.exp(x - x.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def gradients(parameters) -> list[torch.Tensor]:
    return [p.grad.clone() for p in parameters]


# -- losses -----------------------------------------------------------------------------------------------------------


def test_soft_values_and_targets_by_hand():
    """Powers of two, α = 1 / ln 2 (entropy counts bits): V = Σ π min Q + H(π)."""
    alpha = torch.tensor(1 / math.log(2))
    log_pi = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()  # (B, |A|)
    q = torch.tensor([[[4.0, 8.0], [1.0, 3.0]], [[8.0, 0.0], [5.0, 1.0]]])  # (2, B, |A|), minima (4, 0) and (1, 1)
    value = script.expected_soft_value(q, log_pi, alpha)
    entropy = 0.25 * 2 + 0.75 * (2 - math.log2(3))
    torch.testing.assert_close(value, torch.tensor([0.25 * 4 + entropy, 1.0 + 1.0]))
    data = script.Batch(None, None, None, torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0]), None)
    torch.testing.assert_close(script.td_target(data, value, gamma=0.9), torch.tensor([1.0, -1.0 + 0.9 * 2.0]))
    losses = script.critic_losses(torch.tensor([[1.0, 4.0], [2.0, 3.0]]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(losses, torch.tensor([(0 + 4) / 2, (1 + 1) / 2]))


def test_improved_policy_by_hand():
    """exp(min Q / α) with α = 1 / ln 2 is 2^min Q: minima (2, 1, 0) give (4, 2, 1) / 7."""
    q = torch.tensor([[[2.0, 5.0, 0.0]], [[3.0, 1.0, 0.0]]])
    log_pi = script.improved_policy(q, torch.tensor(1 / math.log(2)))
    torch.testing.assert_close(log_pi.exp(), torch.tensor([[4 / 7, 2 / 7, 1 / 7]]))
    # the softmax saturates, its logarithm and the value do not: min Q / α = (200, 0, −200)
    extreme = torch.tensor([[[2.0, 0.0, -2.0]], [[2.0, 0.0, -2.0]]])
    log_pi = script.improved_policy(extreme, torch.tensor(0.01))
    torch.testing.assert_close(log_pi, torch.tensor([[0.0, -200.0, -400.0]]))
    torch.testing.assert_close(script.expected_soft_value(extreme, log_pi, torch.tensor(0.01)), torch.tensor([2.0]))


def test_conservative_losses_by_hand():
    """log Σ exp Q_i(s, b) − Q_i(s, a) on guided transitions, with Q the logarithms of (1, 3) and (4, 4)."""
    q = torch.tensor([[[1.0, 3.0], [4.0, 4.0]], [[6.0, 2.0], [1.0, 1.0]]]).log()  # (2, B, |A|)
    losses = script.conservative_losses(q, torch.tensor([1, 0]), torch.tensor([True, True]))
    torch.testing.assert_close(losses, torch.tensor([math.log(4 / 3) + math.log(2), math.log(4) + math.log(2)]) / 2)
    # an unguided transition counts as 0, in the mean too
    losses = script.conservative_losses(q, torch.tensor([1, 0]), torch.tensor([True, False]))
    torch.testing.assert_close(losses, torch.tensor([math.log(4 / 3), math.log(4)]) / 2)


@given(seed=st.integers(0, 10_000), actions=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_conservative_loss_is_the_rules_surprise(seed, actions):
    """With equal critics it is −α log π(a|s) of the improved policy at α = 1, and 0 is its infimum."""
    rng = np.random.default_rng(seed)
    q = rng.normal(scale=3.0, size=(8, actions))
    a = rng.integers(actions, size=8)
    surprise = -np.log(softmax(q)[np.arange(8), a]).mean()
    both = torch.tensor(np.stack([q, q]))
    losses = script.conservative_losses(both, torch.as_tensor(a), torch.ones(8, dtype=torch.bool))
    torch.testing.assert_close(losses, torch.full((2,), surprise, dtype=torch.float64))
    log_pi = script.improved_policy(both, torch.tensor(1.0))
    torch.testing.assert_close(F.nll_loss(log_pi, torch.as_tensor(a)), losses[0])
    certain = both + 100 * F.one_hot(torch.as_tensor(a), actions)
    assert 0 <= script.conservative_losses(certain, torch.as_tensor(a), torch.ones(8, dtype=torch.bool)).max() < 1e-9


@given(seed=st.integers(0, 10_000), actions=st.integers(2, 6), alpha=st.floats(0.05, 3.0))
@settings(max_examples=30, deadline=None)
def test_improved_policy_minimises_the_actors_loss(seed, actions, alpha):
    """Σ π (α log π − min Q) is larger for every other policy, by α KL(π ‖ π_new), and its gradient there is zero."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(2, 1, actions))
    best = script.improved_policy(torch.tensor(q), torch.tensor(alpha, dtype=torch.float64)).exp().numpy()[0]

    def loss(pi: np.ndarray) -> float:
        return float(np.sum(pi * (alpha * np.log(pi) - q.min(axis=0)[0])))

    for pi in rng.dirichlet(np.ones(actions), 20):
        assert loss(pi) - loss(best) == pytest.approx(alpha * np.sum(pi * np.log(pi / best)), abs=1e-9)
        assert loss(pi) >= loss(best)
    logits = torch.tensor(np.log(best)[None], requires_grad=True)
    log_pi = logits.log_softmax(dim=1)
    (-script.expected_soft_value(torch.tensor(q), log_pi, torch.tensor(alpha, dtype=torch.float64))).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-9, rtol=0)


def test_improved_policy_is_where_a_softmax_actor_ends():
    """Long training of free logits on Σ π (α log π − min Q) leads to the closed form."""
    q = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 2.0, 1.0]], [[0.5, 1.0, 0.7], [3.0, 0.0, 1.5]]])
    logits = torch.zeros(2, 3, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(2_000):
        pi = logits.softmax(dim=1)
        loss = (pi * (0.5 * pi.log() - torch.minimum(*q))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(script.improved_policy(q, ALPHA).exp(), logits.softmax(1).detach(), atol=1e-4, rtol=0)


def sampled(run) -> tuple:
    """A batch of a finished run, and what the loop hands to `update_critic` and to `update_actor` with it."""
    data = run.rb.sample(32)
    states = script.distinct(data, run.places)
    x, rows, _, _ = states
    log_pi = run.log_policy(x)
    return data, (data, states, run.qf(x), log_pi.detach()), (x, rows, log_pi)


@torch.no_grad()
def target_by_hand(run, data) -> torch.Tensor:
    """y (B,) = r + γ (1 − d) Σ π(a|s') [min Q̄(s', a) − α log π(a|s')] of a run without the value network."""
    alpha = run.log_alpha.exp()
    if run.args.exact_improvement:
        pi = (torch.minimum(*run.qf(data.next_observations)) / alpha).softmax(1)
    else:
        pi = run.actor(data.next_observations).exp()
    value = (pi * (torch.minimum(*run.qf_target(data.next_observations)) - alpha * pi.log())).sum(1)
    return data.rewards + run.args.gamma * (1 - data.terminations) * value


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "actor"])
def test_critic_update_by_hand(run, exact):
    """The gradient of Σ_i E[(Q_i − y)²] on rows of a real run, one row at a time, y from Q̄ and the learner's π(s')."""
    flags = [] if exact else ["--no-exact-improvement"]
    run = run(*EXACT, "--total-timesteps", "60", "--no-autotune", "--alpha", "0.5", *flags)
    data, critics_input, _ = sampled(run)
    y = target_by_hand(run, data)
    q = run.qf(data.observations)
    taken = torch.stack([q[:, i, a] for i, a in enumerate(data.actions)], dim=1)  # (2, B)
    loss = sum(((taken[i] - y) ** 2).mean() for i in range(2))
    expected = torch.autograd.grad(loss, [*run.qf.parameters()])
    logs = run.update_critic(*critics_input)
    assert logs["qf_losses"].sum().item() == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(gradients(run.qf.parameters()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_value_network_update_by_hand(run):
    """--value-network: y = r + γ (1 − d) V̄(s'), J_V = ½ (V − Σ π (min Q − α log π))², V̄ follows V (Eq. 6-8)."""
    run = run(*EXACT, "--total-timesteps", "60", "--no-autotune", "--alpha", "0.5", "--value-network")
    data, critics_input, _ = sampled(run)
    with torch.no_grad():
        y = data.rewards + run.args.gamma * (1 - data.terminations) * run.vf_target(data.next_observations)
        min_q = torch.minimum(*run.qf(data.observations))
        value = 0.5 * (min_q / 0.5).logsumexp(1)  # of the exact improvement: α log Σ exp(min Q / α)
    taken = run.qf(data.observations).gather(2, data.actions.expand(2, -1)[..., None])[..., 0]
    loss = ((taken - y) ** 2).mean(1).sum() + (0.5 * (run.vf(data.observations) - value) ** 2).mean()
    parameters = [*run.qf.parameters(), *run.vf.parameters()]
    expected = torch.autograd.grad(loss, parameters)
    run.update_critic(*critics_input)
    for ours, theirs in zip(gradients(parameters), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert all(a is b for a, b in zip(run.targets, run.vf_target.parameters(), strict=True))
    assert any((a != b).any() for a, b in zip(run.targets, run.vf.parameters(), strict=True))


def test_conservative_update_by_hand(run, tmp_path):
    """The weighted term on exactly the guided rows of the batch, on both critics, beside the TD loss."""
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 2\n")
    flags = [*COUNTER, "--guide-policy", "rule.py", "--advisor-always", "--total-timesteps", "60", "--no-autotune",
             "--alpha", "0.5", "--guide-probability", "0.5"]  # fmt: skip
    run = run(*flags, "--guide-conservatism", "3")
    data, critics_input, _ = sampled(run)
    guided = run.guided_rows[data.rows]
    assert guided.any() and not guided.all()
    y = target_by_hand(run, data)
    q, place = run.qf(data.observations), data.actions - 2
    taken = q.gather(2, place.expand(2, -1)[..., None])[..., 0]
    conservative = -(q.log_softmax(2).gather(2, place.expand(2, -1)[..., None])[..., 0] * guided).mean(1).sum()
    loss = ((taken - y) ** 2).mean(1).sum() + 3 * conservative
    expected = torch.autograd.grad(loss, [*run.qf.parameters()])
    logs = run.update_critic(*critics_input)
    assert logs["conservative_loss"].item() == pytest.approx(conservative.item(), rel=1e-4)
    for ours, theirs in zip(gradients(run.qf.parameters()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_actor_and_temperature_updates_by_hand(run):
    """∇ of E[Σ π (α log π − min Q)] for the actor; ∇ of α (H(π) − H̄) for log α: α rises while H < H̄."""
    run = run(*EXACT, "--total-timesteps", "60", "--no-exact-improvement", "--autotune", "--alpha", "0.5",
              "--target-entropy-scale", "0.7")  # fmt: skip
    data, _, actors_input = sampled(run)
    alpha = run.log_alpha.exp().item()
    min_q = torch.minimum(*run.qf(data.observations)).detach()
    pi = run.actor(data.observations).exp()
    loss = (pi * (alpha * pi.log() - min_q)).sum(1).mean()
    expected = torch.autograd.grad(loss, [*run.actor.parameters()])
    entropy = -(pi * pi.log()).sum(1).mean().item()
    logs = run.update_actor(*actors_input)
    for ours, theirs in zip(gradients(run.actor.parameters()), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert logs["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert run.target_entropy == pytest.approx(0.7 * math.log(6))
    assert run.log_alpha.grad.item() == pytest.approx(alpha * (entropy - 0.7 * math.log(6)), rel=1e-3)
    assert logs["alpha_loss"].item() == pytest.approx(alpha * (entropy - 0.7 * math.log(6)), rel=1e-3)


# -- networks and observations ----------------------------------------------------------------------------------------


def batch_of(obs: torch.Tensor, next_obs: torch.Tensor):
    zeros = torch.zeros(len(obs))
    return script.Batch(obs, next_obs, zeros.long(), zeros, zeros, torch.arange(len(obs)))


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 40), nvec=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_distinct_gives_the_observations_back(seed, batch, nvec):
    """Of k integers, whatever their starts: s and s' together, each once, and the batch again by its rows."""
    space = gym.spaces.MultiDiscrete(nvec, start=np.random.default_rng(seed).integers(-3, 3, len(nvec)), seed=seed)
    obs, next_obs = (torch.as_tensor(np.stack([space.sample() for _ in range(batch)])) for _ in range(2))
    x, s, next_x, next_s = script.distinct(batch_of(obs, next_obs), script.place_values(space, torch.device("cpu")))
    assert next_x is x and x.dtype == obs.dtype and s.shape == next_s.shape == (batch,)
    assert torch.equal(x[s], obs) and torch.equal(x[next_s], next_obs)
    assert len(x) == len({tuple(row) for row in torch.cat([obs, next_obs]).tolist()})


def test_observations_that_are_no_small_integers_are_left_as_they_are():
    """Floats, and integers of which there are 2⁶⁴ combinations; 2⁶² are still counted."""
    for space in (OBSERVATIONS["box"], gym.spaces.MultiDiscrete([2**32, 2**32])):
        assert script.place_values(space, torch.device("cpu")) is None
    obs, next_obs = torch.randn(2, 6, 2, 3)
    x, s, next_x, next_s = script.distinct(batch_of(obs, next_obs), None)
    assert torch.equal(x[s], obs) and torch.equal(next_x[next_s], next_obs) and len(x) == len(next_x) == 6
    obs = torch.tensor([[2**31 - 1, 0], [0, 2**31 - 1], [2**31 - 1, 0], [2**31 - 2, 2**31 - 1]])
    x, s, _, next_s = script.distinct(
        batch_of(obs, obs.flip(0)), script.place_values(gym.spaces.MultiDiscrete([2**31, 2**31]), torch.device("cpu"))
    )
    assert torch.equal(x[s], obs) and torch.equal(x[next_s], obs.flip(0)) and len(x) == 3


@given(seed=st.integers(0, 1_000), kind=st.sampled_from(["discrete", "tuple", "multi", "matrix"]))
@settings(max_examples=20, deadline=None)
def test_stacked_networks_equal_separate_ones_on_one_hot_inputs(seed, kind):
    """Outputs and gradients, against plain products with weights cut out by hand and one-hot vectors by Gymnasium."""
    torch.manual_seed(seed)
    space = integer_space(OBSERVATIONS[kind])
    net = script.StackedMLP(spaces(space, gym.spaces.Discrete(3)), networks=2, outputs=3, hidden=8)
    space.seed(seed)
    samples = [space.sample() for _ in range(5)]
    one_hot = torch.tensor(np.stack([gym.spaces.flatten(space, sample) for sample in samples]), dtype=torch.float32)
    out = net(torch.as_tensor(np.stack(samples)))
    assert out.shape == (2, 5, 3)
    weight = torch.randn(2, 5, 3)
    ours = torch.autograd.grad((out * weight).sum(), [*net.weights, *net.biases])
    first = net.weights[0].detach().clone().requires_grad_()
    others = [p.detach().clone().requires_grad_() for p in [*net.weights[1:], *net.biases]]
    outputs = []
    for i in range(2):
        x = (one_hot @ first[:, 8 * i : 8 * (i + 1)] + others[2][i, 0]).relu()
        x = (x @ others[0][i] + others[3][i, 0]).relu()
        outputs.append(x @ others[1][i] + others[4][i, 0])
    expected = torch.stack(outputs)
    torch.testing.assert_close(out, expected)
    theirs = torch.autograd.grad((expected * weight).sum(), [first, *others])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_networks_take_flat_and_shaped_boxes():
    """A (2, 3) Box is read row by row, as PyTorch's own Flatten and Linear do."""
    torch.manual_seed(0)
    net = script.StackedMLP(spaces(OBSERVATIONS["box"], gym.spaces.Discrete(3)), networks=2, outputs=3, hidden=8)
    obs = torch.randn(5, 2, 3)
    for i in range(2):
        plain = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(),
            torch.nn.Linear(8, 3),
        )  # fmt: skip
        with torch.no_grad():
            for layer, w, b in zip(plain[1::2], [net.weights[0][:, 8 * i : 8 * (i + 1)], net.weights[1][i],
                                                 net.weights[2][i]], net.biases, strict=True):  # fmt: skip
                layer.weight.copy_(w.T)
                layer.bias.copy_(b[i, 0])
        torch.testing.assert_close(net(obs)[i], plain(obs))


@pytest.mark.parametrize("kind", [k for k in OBSERVATIONS if k not in ("dict", "sequence")])
def test_observations_round_trip(kind):
    """What the learner sees is the environment's own observation as integers in order, and can be turned back."""
    space = OBSERVATIONS[kind]
    env = script.make_env("AnyObservation-v0", 0, 0, False, "x", env_kwargs={"kind": kind}, max_episode_steps=9)()
    obs, _ = env.reset(seed=3)
    for _ in range(6):
        assert env.observation_space.contains(obs)
        own = env.unwrapped.last
        match kind:
            case "discrete":
                assert obs.tolist() == [own] and obs.dtype == np.int64
            case "tuple":
                assert tuple(obs.tolist()) == tuple(int(part) for part in own)
            case "multi" | "matrix":
                assert np.array_equal(obs.reshape(space.shape), own)
            case "box":
                assert np.array_equal(obs, own) and integer_space(space) is None
        obs, *_ = env.step(0)
    # the one-hot positions behind it, as Gymnasium flattens the environment's own space
    if kind != "box":
        net = script.StackedMLP(spaces(env.observation_space, gym.spaces.Discrete(3)), 1, 1, hidden=2)
        flat = gym.spaces.flatten(space, env.unwrapped.last)
        rows = (torch.as_tensor(obs) + net.offsets).tolist()
        assert np.flatnonzero(flat).tolist() == sorted(rows) and len(flat) == len(net.weights[0])


def test_no_integers_for_other_spaces():
    for space in (OBSERVATIONS["dict"], gym.spaces.MultiBinary(3), gym.spaces.Text(3),
                  gym.spaces.Tuple([OBSERVATIONS["discrete"], OBSERVATIONS["box"]])):  # fmt: skip
        assert integer_space(space) is None


@pytest.mark.parametrize("kind", [k for k in OBSERVATIONS if k != "sequence"])
def test_rules_get_the_environments_own_observation(kind, run, tmp_path):
    """Through a whole run with actions from −1 on: the stored action is the rule's answer to its own observation."""
    rules = {
        "discrete": ("assert isinstance(obs, int)\n    return obs % 3 - 1", lambda o: o[0] % 3 - 1),
        "tuple": ("assert isinstance(obs, tuple)\n    return sum(obs) % 3 - 1", lambda o: (o[0] + o[1]) % 3 - 1),
        "multi": ("assert obs.shape == (2,)\n    return int(obs[0] + obs[1]) % 3 - 1", lambda o: sum(o) % 3 - 1),
        "matrix": ("assert obs.shape == (2, 3)\n    return int(obs[1, 0] + obs[0, 2]) % 3 - 1",
                   lambda o: (o[3] + o[2]) % 3 - 1),
        "box": ("assert obs.shape == (2, 3)\n    return int(obs[1, 0] > 0) - int(obs[0, 2] > 0)",
                lambda o: int(o[1][0] > 0) - int(o[0][2] > 0)),
        "dict": ("assert obs.shape == (2,)\n    return int(obs[1]) - 1", lambda o: int(o[1]) - 1),  # flattened
    }  # fmt: skip
    text, expected = rules[kind]
    (tmp_path / "rule.py").write_text(f"def policy(obs, t):\n    {text}\n")
    run = run("--env-id", "AnyObservation-v0", "--env-kwargs", json.dumps({"kind": kind}), "--max-episode-steps", "50",
              "--guide-policy", "rule.py", "--advisor-always", "--guide-end", "40", "--total-timesteps", "80",
              "--learning-starts", "60", "--batch-size", "16", *QUIET)  # fmt: skip
    obs = run.rb.transitions.observations[:80].tolist()
    actions = run.rb.transitions.actions[:80].tolist()
    assert actions[:40] == [expected(o) for o in obs[:40]]
    assert actions[40:] != [expected(o) for o in obs[40:]] and set(actions) == {-1, 0, 1}
    assert run.rb.transitions.actions.dtype == torch.int64


def test_large_integers_are_stored_exactly():
    """2²⁴ + 1 is no float32: integers stay integers in the buffer."""
    space = integer_space(gym.spaces.Discrete(2**30))
    buffer = script.ReplayBuffer(4, spaces(space, gym.spaces.Discrete(2)), torch.device("cpu"))
    buffer.add(np.array([[2**24 + 1]]), np.array([[2**29 + 3]]), np.array([1]), np.zeros(1), np.zeros(1))
    batch = buffer.sample(1)
    assert batch.observations.item() == 2**24 + 1 and batch.next_observations.item() == 2**29 + 3


# -- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [[], ["--no-exact-improvement", "--policy-lr", "0.003"], ["--value-network"]],
    ids=["exact", "actor", "value network"],
)
def test_learned_q_is_the_exact_soft_q(run, flags):
    """On a random process with every pair in the data: within 2 % of soft value iteration."""
    run = run("--env-id", "Tabular-v0", "--env-kwargs", '{"seed": 1}', "--supervisor", "none", "--no-autotune",
              "--alpha", "0.5", "--gamma", "0.8", "--learning-starts", "4000", "--total-timesteps", "6000",
              "--batch-size", "4096", "--q-lr", "0.0003", "--tau", "0.05", *flags)  # fmt: skip
    env = TabularEnv(seed=1)
    transition = np.array([[[np.mean(env.successors[s, a] == s2) for s2 in range(5)] for a in range(3)]
                           for s in range(5)])  # fmt: skip
    best = optimal_q(Mdp(env.reward, transition, gamma=0.8, alpha=0.5))
    visited = np.zeros((5, 3))
    data = run.rb.take(torch.arange(6000))
    np.add.at(visited, (data.observations[:, 0].numpy(), data.actions.numpy()), 1)
    assert visited.min() > 100
    with torch.no_grad():
        q = run.qf(torch.arange(5)[:, None]).numpy()
    for i in range(2):
        assert np.abs(q[i] - best).max() < 0.02 * np.abs(best).max()
    with torch.no_grad():
        pi = run.log_policy(torch.arange(5)[:, None]).exp().numpy()
    np.testing.assert_allclose(pi, softmax(best / 0.5), atol=0.05)


# The fixed point of the conservative term by hand: one state, every step ends the episode, half of the data is guided
# and plays 0, the other half is the learner's and plays 1. Setting the gradient of
#   ½ (Q₀ − r₀)² + ½ (Q₁ − r₁)² + ½ λ (log(e^Q₀ + e^Q₁) − Q₀)
# to zero gives Q₀ = r₀ + λ p₁ / 2 and Q₁ = r₁ − λ p₁ / 2, where p₁ is the softmax of Q at 1. With λ = 1, r = (0, ½) it
# is solved by p₁ = ½: Q = (¼, ¼). So the learner holds equal what differs by ½, in favour of the rule.
def test_conservative_term_shifts_the_fixed_point_by_hand():
    q = torch.full((2, 4, 2), 0.25, dtype=torch.float64, requires_grad=True)
    actions, guided = torch.tensor([0, 0, 1, 1]), torch.tensor([True, True, False, False])
    rewards = torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.float64)

    def td_loss() -> torch.Tensor:
        return script.critic_losses(q.gather(2, actions.expand(2, -1)[..., None]).squeeze(2), rewards).sum()

    (gradient,) = torch.autograd.grad(td_loss() + script.conservative_losses(q, actions, guided).sum(), q)
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(2, 2, dtype=torch.float64))  # all rows are one state
    # and without the term the same table is none: ∂/∂Q₀ = (¼ − 0), ∂/∂Q₁ = (¼ − ½)
    (gradient,) = torch.autograd.grad(td_loss(), q)
    torch.testing.assert_close(gradient.sum(dim=1), torch.tensor([[0.25, -0.25]] * 2, dtype=torch.float64))


# -- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [1, 3])
def test_every_stored_transition_is_a_real_one(run, num_envs):
    """In SAME_STEP mode: s' is the true successor also at an episode's end; only a termination is stored as one."""
    run = run(*COUNTER, "--supervisor", "none", "--num-envs", str(num_envs), "--total-timesteps", "300")
    batch = run.rb.sample(3_000)
    s, s2 = batch.observations, batch.next_observations
    assert (s[:, 0] == s2[:, 0]).all() and (s[:, 1] == s2[:, 1]).all()  # same environment, same episode
    assert (s2[:, 2] == s[:, 2] + 1).all() and (batch.rewards == s2[:, 2]).all()
    assert torch.equal(s2[:, 3].long(), batch.actions)  # the action that the environment got
    terminated = (s[:, 1] % 2 == 0) & (s2[:, 2] == 5)
    assert (batch.terminations.bool() == terminated).all()
    assert terminated.any() and ((s[:, 1] % 2 == 1) & (s2[:, 2] == 7)).any()
    assert len(torch.unique(s[:, 0])) == num_envs and len(run.rb) == 300
    assert set(batch.actions.tolist()) == {2, 3, 4}
    target = script.td_target(batch, torch.full((3_000,), 100.0), gamma=0.5)  # a truncation bootstraps
    assert torch.equal(target, batch.rewards + 50 * ~terminated)
    logged = scalars(run.run_name)
    assert {value for _, value in logged["charts/episodic_return"]} == {15.0, 28.0}  # 1+…+5 and 1+…+7
    assert logged["charts/episodic_return"][0][0] == 5 * num_envs  # global_step counts environment transitions


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_substituted_action_is_what_the_buffer_holds(run, tmp_path, probability):
    """Among 20,000 actions the rule plays 3 and 4. Where the gate leaves a guided step to the learner, also before
    learning begins, it is the policy's own action; behind the guided time, what an unguided run plays at random.

    The policy, here the one that the seed makes, is asked again in the same states with the same random numbers.
    """
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    assert t == obs[2]\n    return 3 + t % 2\n")
    flags = ["--env-id", "DiscreteCounter-v0", "--env-kwargs", '{"n": 20000}', "--num-envs", "3", "--total-timesteps",
             "600", "--learning-starts", "600", "--buffer-size", "600", *QUIET]  # fmt: skip
    guided = run(*flags, "--guide-policy", "rule.py", "--advisor-always", "--guide-end", "450", "--guide-probability",
                 str(probability))  # fmt: skip
    plain = run(*flags, "--supervisor", "none")
    ours, uniform = (r.rb.transitions.actions[:600] for r in (guided, plain))
    rows = guided.guided_rows[:600]
    assert not plain.guided_rows.any() and not ((uniform == 3) | (uniform == 4)).any()
    assert torch.equal(rows, (ours == 3) | (ours == 4))
    torch.manual_seed(guided.args.seed)
    _ = script.DiscreteSoftQNetwork(guided.envs), script.DiscreteSoftQNetwork(guided.envs)  # which draw their weights
    learned, gate = [], []
    for obs in guided.rb.transitions.observations[:450].split(3):
        learned.append(torch.as_tensor(guided.act(obs.numpy(), deterministic=False)))
        gate.append(torch.rand(3) < probability)
    learned, gate = torch.cat(learned), torch.cat(gate)
    assert torch.equal(rows[:450], gate) and torch.equal(ours[:450][~gate], learned[~gate])
    assert torch.equal(ours[450:], uniform[450:]) and not rows[450:].any()
    assert (learned != uniform[:450]).float().mean() > 0.9
    share = rows[:450].float().mean().item()
    assert abs(share - probability) <= 5 * math.sqrt(probability * (1 - probability) / 450)
    in_step = rows[:450].view(150, 3).sum(1)
    assert probability == 1.0 or ((in_step > 0) & (in_step < 3)).any()  # each environment draws for itself
    newest = guided.rb.sample(500)
    noted = guided.guided_rows[newest.rows]
    t = newest.observations[:, 2].long()
    assert torch.equal(newest.actions[noted], 3 + t[noted] % 2)  # at that environment's own episode step
    assert torch.equal(newest.next_observations[:, 3].long(), newest.actions)  # what the environment got


def test_guided_rows_follow_the_ring(run, tmp_path):
    """A buffer of 118 rows, no multiple of the 3 environments, written four times over: a row's mark is its owner's."""
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 3\n")
    run = run("--env-id", "DiscreteCounter-v0", "--env-kwargs", '{"n": 20000}', "--num-envs", "3", "--total-timesteps",
              "501", "--learning-starts", "501", "--buffer-size", "118", "--guide-policy", "rule.py",
              "--advisor-always", "--guide-end", "450", "--guide-probability", "0.5", *QUIET)  # fmt: skip
    assert run.rb.size == 118 and len(run.guided_rows) == 118
    assert torch.equal(run.guided_rows, run.rb.transitions.actions == 3)
    last = [(500 - i) % 118 for i in range(48)]  # the 48 youngest that lie behind step 450
    assert not run.guided_rows[last].any() and run.guided_rows.any()


def test_guidance_ends_at_guide_end(run, tmp_path):
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 7\n")
    flags = ["--env-id", "DiscreteCounter-v0", "--env-kwargs", '{"n": 20000}', "--total-timesteps", "140",
             "--learning-starts", "140", *QUIET]  # fmt: skip
    run = run(*flags, "--guide-policy", "rule.py", "--advisor-always", "--guide-start", "30", "--guide-window", "40",
              "--guide-end", "95", "--guide-probability", "1")  # fmt: skip
    changed = run.rb.transitions.actions[:140] == 7
    assert changed[30:95].all() and not changed[:30].any() and not changed[95:].any()
    assert torch.equal(run.guided_rows[:140], changed)
    assert scalars(run.run_name)["charts/guidance_active"] == [
        (0, 0.0), (29, 0.0), (30, 1.0), (70, 1.0), (94, 1.0), (95, 0.0), (140, 0.0),
    ]  # fmt: skip


def test_intervene_by_hand():
    actions, guidance = np.array([1, 2, 3]), np.array([4, 5, 6])
    assert [x.tolist() for x in script.intervene(actions, guidance, 1.0)] == [[4, 5, 6], [True] * 3]
    assert [x.tolist() for x in script.intervene(actions, guidance, 0.0)] == [[1, 2, 3], [False] * 3]
    torch.manual_seed(0)
    executed, guided = script.intervene(np.zeros(100_000, int), np.ones(100_000, int), 0.3)
    assert np.array_equal(executed == 1, guided)
    assert guided.mean() == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 100_000))


def weights(run) -> list[torch.Tensor]:
    return [p.detach() for module in (*run.modules, run.qf_target) for p in module.parameters()]


def test_unguided_equals_a_script_without_supervision(run, no_supervisor):
    """--supervisor none, and a model that never intervenes, change no bit of the learning."""
    flags = ["--env-id", "Taxi-v4", "--total-timesteps", "250", "--num-envs", "2", "--batch-size", "64"]
    none = run(*flags, "--supervisor", "none")
    with Endpoint(lambda body, n: CONTENT) as endpoint:
        content = run(*flags, "--llm-base-url", endpoint.url, "--guide-window", "100", *QUIET)
    no_supervisor()
    without = run(*flags)
    logged = scalars(content.run_name)
    assert logged["charts/guidance_active"] == [(step, 0.0) for step in (0, 20, 120, 220, 250)]
    assert len(endpoint.requests) == 3 and logged["supervisor/guided_steps"][-1] == (250, 0.0)
    for other in (none, content):
        assert all(torch.equal(a, b) for a, b in zip(weights(without), weights(other), strict=True))
        assert torch.equal(without.rb.transitions.actions[:250], other.rb.transitions.actions[:250])
        a, b = scalars(without.run_name), scalars(other.run_name)
        assert all(a[tag] == b[tag] for tag in a if tag != "charts/SPS") and "losses/qf_loss" in a


def test_each_seed_is_evaluated_from_starts_of_its_own(run):
    """Equal at every evaluation of a run; no two training seeds share an episode, or their evaluations would agree."""
    for seed in (0, 1):
        evaluated = run(*EXACT, "--total-timesteps", "20", "--eval-frequency", "10", "--eval-episodes", "3",
                        "--seed", str(seed))  # fmt: skip
        starts = [env.unwrapped.np_random_seed for env in evaluated.evaluator.envs]
        assert starts == [(1 + seed) * 1_000_000 + i for i in range(3)]


def test_evaluation_leaves_training_as_it_was(run):
    plain = run(*EXACT, "--total-timesteps", "150")
    evaluated = run(*EXACT, "--total-timesteps", "150", "--eval-frequency", "60", "--eval-episodes", "2")
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(evaluated), strict=True))
    assert [step for step, _ in scalars(evaluated.run_name)["eval/episodic_return"]] == [0, 60, 120, 150]
    assert "eval/episodic_return" not in scalars(plain.run_name)


def test_same_seed_gives_the_same_weights_in_another_process(run, tmp_path):
    """With random numbers in every place: the gate, the learner's actions, the batches, the probes."""
    flags = ["--env-id", "CliffWalking-v1", "--total-timesteps", "150", "--save-model", "--batch-size", "64", *QUIET,
             "--guide-probability", "0.7", "--supervisor", "bundled"]  # fmt: skip
    process = run_process(*flags, "--exp-name", "other", script="guided_sac_discrete.py")
    assert process.returncode == 0, process.stderr
    assert "step 0: supervisor: no unguided episode is over yet; guiding\n" in process.stdout
    (path,) = tmp_path.glob("runs/*other*/other.cleanrl_model")
    other = [p for part in torch.load(path, weights_only=True) for p in part.values()]
    here, elsewhere = ([p for module in run(*flags, "--seed", seed).modules for p in module.state_dict().values()]
                       for seed in ("1", "2"))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(here, other, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(elsewhere, other, strict=True))


def test_rule_that_fails_while_training_only_ends_the_guidance(run, tmp_path):
    (tmp_path / "rule.py").write_text("def policy(obs, t):\n    return 1 if t < 230 else [1] / 0\n")
    run = run("--env-id", "CliffWalking-v1", "--guide-policy", "rule.py", "--advisor-always", "--total-timesteps",
              "260", "--learning-starts", "260", "--max-episode-steps", "1000",
              *QUIET)  # fmt: skip
    assert run.global_step == 260
    logged = scalars(run.run_name)
    assert logged["charts/guidance_active"] == [(0, 1.0), (229, 1.0), (230, 0.0), (260, 0.0)]
    assert logged["supervisor/failures"][-1] == (230, 1.0)
    assert run.guided_rows[:230].all() and not run.guided_rows[230:].any()
    assert "TypeError" in texts(run.run_name, "supervisor/verdict")[-1]


def test_alpha_is_learned_toward_the_target_entropy_and_can_be_fixed(run):
    """α falls where π, uniform at a high α, has more entropy than 0.3 log|A|; it rises toward the entropy log|A|."""
    flags = [*COUNTER, "--supervisor", "none", "--total-timesteps", "200", "--alpha-lr", "0.01", "--gamma", "0"]
    falls = run(*flags, "--autotune", "--target-entropy-scale", "0.3", "--alpha", "10")
    rises = run(*flags, "--autotune", "--target-entropy-scale", "1", "--alpha", "0.1")
    fixed = run(*flags, "--no-autotune", "--alpha", "0.3")
    assert falls.target_entropy == pytest.approx(0.3 * math.log(3))
    assert falls.log_alpha.exp().item() < 9 and rises.log_alpha.exp().item() > 0.15
    assert [round(v, 6) for _, v in scalars(fixed.run_name)["losses/alpha"]] == [0.3, 0.3]


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "actor"])
def test_policy_frequency_delays_and_makes_up_and_targets_wait(run, exact):
    """Of what there is to learn beside the critics, the actor or α alone: every third update three steps. Every fifth
    the targets, which with τ = 1 become the critics.

    With one environment an iteration is a step, and those that learn are 21, …, T: 40 steps of the critics up to
    T = 60, 44 up to T = 64. The multiples of 3 among them are 20 − 6 = 14 and 21 − 6 = 15, with 3 steps of the rest
    each: 42 and 45. The last multiple of 5 is 60 in both runs: at T = 64 the targets are still the critics of T = 60.
    """
    flags = [*EXACT, "--learning-starts", "20", "--policy-frequency", "3", "--target-network-frequency", "5", "--tau",
             "1", "--autotune", *([] if exact else ["--no-exact-improvement"])]  # fmt: skip
    first, second = (run(*flags, "--total-timesteps", steps) for steps in ("60", "64"))
    for ended, critic_steps, rest_steps in ((first, 40, 42), (second, 44, 45)):
        learned = ended.log_alpha if exact else next(iter(ended.actor.parameters()))
        assert ended.q_optimizer.state[next(iter(ended.qf.parameters()))]["step"].item() == critic_steps
        assert ended.actor_optimizer.state[learned]["step"].item() == rest_steps
    for ended in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(first.online, ended.targets, strict=True))
    assert all((a != b).any() for a, b in zip(second.online, second.targets, strict=True))


# -- environments -----------------------------------------------------------------------------------------------------

RULES = {
    "CartPole-v1": ("return int(obs[2] + obs[3] > 0)", lambda o: o[2] + o[3] > 0),
    "Acrobot-v1": ("return 2 if obs[4] > 0 else 0", lambda o: 2 * (o[4] > 0)),
    "MountainCar-v0": ("return 2 if obs[1] >= 0 else 0", lambda o: 2 * (o[1] >= 0)),
}
OPTIONS = {
    "Blackjack-v1": ["--value-network"], "CliffWalking-v1": ["--num-envs", "2"], "FrozenLake-v1": ["--autotune"],
    "Taxi-v4": ["--no-exact-improvement", "--autotune"], "CartPole-v1": ["--num-envs", "2", "--autotune"],
    "Acrobot-v1": ["--value-network", "--no-exact-improvement"], "MountainCar-v0": ["--value-network", "--autotune"],
}  # fmt: skip
STEPS = ["--total-timesteps", "200", "--learning-starts", "60", "--batch-size", "32"]


def check_learning(run) -> None:
    """Every network has moved, every logged value is finite, every action is one of the environment's."""
    logged = scalars(run.run_name)
    assert {"losses/qf_loss", "losses/alpha"} <= set(logged)
    assert all(math.isfinite(value) for tag in logged for _, value in logged[tag])
    assert all((a != b).any() for a, b in zip(run.online, run.targets, strict=True))
    assert ("losses/vf_loss" in logged) == run.args.value_network
    assert ("losses/actor_loss" in logged) != run.args.exact_improvement
    assert ("losses/alpha_loss" in logged) == run.args.autotune
    actions = run.rb.transitions.actions[:200]
    assert actions.min() >= 0 and actions.max() < run.envs.single_action_space.n
    with torch.no_grad():
        pi = run.log_policy(run.rb.take(torch.arange(200)).observations).exp()
    torch.testing.assert_close(pi.sum(1), torch.ones(len(pi)))


@pytest.mark.parametrize("env_id", OPTIONS)
def test_every_environment_runs_unguided(run, env_id):
    run = run("--env-id", env_id, "--supervisor", "none", *STEPS, *OPTIONS[env_id])
    check_learning(run)
    assert not run.guided_rows.any()


@pytest.mark.parametrize("env_id", OPTIONS)
def test_every_environment_runs_guided(run, env_id, tmp_path):
    if env_id in RULES:
        (tmp_path / "rule.py").write_text(f"def policy(obs, t):\n    {RULES[env_id][0]}\n")
    who = ["--guide-policy", "rule.py"] if env_id in RULES else ["--supervisor", "bundled"]
    run = run("--env-id", env_id, *STEPS, *OPTIONS[env_id], *who, "--advisor-always", "--guide-end", "150",
              "--guide-window", "100", "--guide-probability", "1", *QUIET)  # fmt: skip
    check_learning(run)
    assert run.guided_rows[:150].all() and not run.guided_rows[150:].any()
    if env_id in RULES:
        expected = [int(RULES[env_id][1](o)) for o in run.rb.transitions.observations[:150].tolist()]
        assert run.rb.transitions.actions[:150].tolist() == expected


# -- the command line -------------------------------------------------------------------------------------------------

PAPER_TABLE = {  # guide_window, guide_end, batch_size, gamma, tau, alpha, learning_starts (paper, C.1)
    "Blackjack-v1": (2_000, 5_000, 256, 0.5, 0.005, "auto", 1_000),
    "CliffWalking-v1": (2_000, 10_000, 1_024, 0.99, 0.005, 0.01, 0),
    "FrozenLake-v1": (100, 5_000, 64, 0.99, 0.005, 0.01, 0),
    "Taxi-v4": (2_000, 5_000, 256, 0.99, 0.005, 0.01, 0),
}


@pytest.mark.parametrize("env_id", PAPER_TABLE)
def test_papers_table_is_in_force_with_paper(run, env_id):
    run = run("--env-id", env_id, "--paper", "--supervisor", "none", "--total-timesteps", "3")
    a = run.args
    alpha = "auto" if a.autotune else a.alpha
    assert PAPER_TABLE[env_id] == (a.guide_window, a.guide_end, a.batch_size, a.gamma, a.tau, alpha, a.learning_starts)
    assert (a.value_network, a.exact_improvement, a.guide_probability, a.guide_conservatism) == (True, False, 1.0, 0.0)
    assert a.trial_pairs == 0  # its rules are not tried
    assert hasattr(run, "vf") and hasattr(run, "actor")
    assert run.sources["value_network"] == run.sources["exact_improvement"] == "paper"


def test_settings_say_where_they_come_from(run, capsys):
    run = run("--env-id", "CliffWalking-v1", "--supervisor", "none", "--total-timesteps", "5", "--tau", "0.01")
    assert run.envs.envs[0].spec.max_episode_steps == 200
    assert run.sources["max_episode_steps"] == "environment" and run.sources["tau"] == "command line"
    header = capsys.readouterr().out.splitlines()
    assert any(line.strip().startswith("command line:") and "tau=0.01" in line for line in header)
    assert any(line.strip().startswith("environment:") and "max_episode_steps=200" in line for line in header)
    assert "|guide_end|10000|environment|" in texts(run.run_name, "hyperparameters")[0]


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "actor"])
def test_cleanrl_tools_can_drive_the_script(run, exact):
    """What CleanRL's tuner does: runpy, --key=value, the global run_name, scalars under runs/{run_name}; evaluate."""
    flags = ["--exact-improvement" if exact else "--no-exact-improvement"]
    run = run("--env-id=Taxi-v4", "--seed=3", "--total-timesteps=150", "--supervisor=none", "--q-lr=0.001",
              "--save-model", "--eval-frequency=100", "--eval-episodes=3", "--autotune", *flags)  # fmt: skip
    assert re.fullmatch(r"Taxi-v4__guided_sac_discrete_none__3__\d+", run.run_name)
    logged = scalars(run.run_name)
    losses = ["qf1_values", "qf2_values", "qf1_loss", "qf2_loss", "qf_loss", "alpha", "alpha_loss"]
    names = {"charts/SPS", "eval/episodic_return", *(f"losses/{name}" for name in losses)}
    assert names <= set(logged) and all(math.isfinite(value) for tag in names for _, value in logged[tag])
    path = f"runs/{run.run_name}/guided_sac_discrete_none.cleanrl_model"
    model = run.DiscreteSoftQNetwork if exact else run.Actor
    saved = torch.load(path, weights_only=True)
    assert len(saved) == (1 if exact else 2)
    for part, module in zip(saved, run.modules, strict=True):
        assert all(torch.equal(part[k], v) for k, v in module.state_dict().items())
    returns = evaluate(path, script.make_env, "Taxi-v4", 3, "eval", model)
    envs = [script.make_env("Taxi-v4", 0, i, False, "x")() for i in range(3)]
    assert returns == pytest.approx(episode_returns(envs, lambda obs: run.act(obs, True), seeds=range(3)))


def test_evaluate_plays_the_best_action_with_an_offset(tmp_path):
    """A saved critic that prefers the action −1 + 2 = 1 in every state: six steps of reward 1."""
    env = partial(script.make_env, env_kwargs={"kind": "discrete"}, max_episode_steps=50)
    envs = spaces(integer_space(OBSERVATIONS["discrete"]), gym.spaces.Discrete(3, start=-1))
    for model in (script.DiscreteSoftQNetwork, script.Actor):
        net = model(envs)
        with torch.no_grad():
            net.biases[2][:] = torch.tensor([0.0, 1.0, 100.0])
        torch.save((net.state_dict(),), tmp_path / "model")
        assert evaluate(str(tmp_path / "model"), env, "AnyObservation-v0", 2, "x", model) == [6.0, 6.0]


def test_alpha_zero_is_possible_for_an_actor(run):
    """J_π = −E[Σ π min Q] without entropy; only the exact improvement and --autotune need α > 0."""
    run = run(*COUNTER, "--supervisor", "none", "--total-timesteps", "130", "--no-exact-improvement", "--no-autotune",
              "--alpha", "0")  # fmt: skip
    assert all(math.isfinite(value) for tag, values in scalars(run.run_name).items() for _, value in values)
    assert "losses/actor_loss" in scalars(run.run_name)


TAXI = ["--env-id", "Taxi-v4", "--supervisor", "none"]
BAD = {
    "unknown env": (["--env-id", "NoSuchEnv-v0"], "NoSuchEnv"),
    "before any video": ([*TAXI, "--guide-probability", "2", "--capture-video"], "--guide-probability"),
    "paper and a trial": ([*TAXI, "--paper", "--trial-pairs", "3"], "--trial-pairs 0"),
    "continuous actions": (["--env-id", "Pendulum-v1", "--supervisor", "none"], "guided_sac_continuous.py"),
    "observations without a length": (["--env-id", "AnyObservation-v0", "--env-kwargs", '{"kind": "sequence"}',
                                       "--supervisor", "none"], "its part ['x'] is Sequence("),
    "paper and conservatism": ([*TAXI, "--paper", "--guide-conservatism", "0.5"], "--paper"),
    "paper and a gate": ([*TAXI, "--paper", "--guide-probability", "0.5"], "--paper"),
    "paper and exact improvement": ([*TAXI, "--paper", "--exact-improvement"], "--paper"),
    "paper without value network": ([*TAXI, "--paper", "--no-value-network"], "--paper"),
    "paper and the default conservatism": ([*TAXI, "--paper", "--guide-conservatism",
                                            str(script.Args().guide_conservatism)], "--paper"),
    "probability": ([*TAXI, "--guide-probability", "1.5"], "--guide-probability"),
    "negative probability": ([*TAXI, "--guide-probability", "-0.1"], "--guide-probability"),
    "entropy scale": ([*TAXI, "--target-entropy-scale", "2"], "--target-entropy-scale"),
    "conservatism": ([*TAXI, "--guide-conservatism", "-1"], "--guide-conservatism"),
    "conservatism NaN": ([*TAXI, "--guide-conservatism", "nan"], "--guide-conservatism"),
    "alpha 0": ([*TAXI, "--no-autotune", "--alpha", "0"], "--alpha"),
    "alpha 0, tuned": ([*TAXI, "--autotune", "--alpha", "0"], "--alpha"),
    "gamma": ([*TAXI, "--gamma", "1.5"], "--gamma"),
    "env-kwargs refused": ([*TAXI, "--env-kwargs", '{"nonsense": 1}'], "nonsense"),
    "env-kwargs refused by a lookup": (["--env-id", "FrozenLake-v1", "--env-kwargs", '{"map_name": "9x9"}',
                                        "--supervisor", "none"], "KeyError: '9x9'"),
    "rule raises": (["--env-id", "Taxi-v4", "--guide-policy", "raises.py"], "t=0"),
    "rule's action": (["--env-id", "Taxi-v4", "--guide-policy", "six.py"], "6"),
    "rule's float": (["--env-id", "Taxi-v4", "--guide-policy", "float.py"], "int"),
    "nobody can supervise": (["--env-id", "CartPole-v1"], "--supervisor none"),
    "no time limit": (["--env-id", "DiscreteCounter-v0", "--supervisor", "none", "--eval-frequency", "5"],
                      "--max-episode"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(case, run, tmp_path):
    rules = {"raises": "[0][7 if t == 0 else 0]", "six": "6", "float": "1.5"}
    for name, text in rules.items():
        (tmp_path / f"{name}.py").write_text(f"def policy(obs, t):\n    return {text}\n")
    before = sorted(tmp_path.rglob("*"))
    flags, expected = BAD[case]
    with pytest.raises(SystemExit) as exit_info:
        run(*flags, "--total-timesteps", "10")
    message = str(exit_info.value.code)
    assert expected in message and "\n" not in message and message.startswith("guided_sac_discrete.py: error: ")
    assert sorted(tmp_path.rglob("*")) == before


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_guided_sac_solves_cliff_walking(tmp_path, seed):
    """The unguided greedy policy walks the shortest way, −13, by step 2,000."""
    process = run_process(
        "--env-id", "CliffWalking-v1", "--total-timesteps", "2000", "--eval-frequency", "2000", "--eval-episodes", "1",
        "--seed", str(seed), *QUIET, script="guided_sac_discrete.py",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    (run,) = tmp_path.glob("runs/*")
    assert scalars(run.name)["eval/episodic_return"][-1] == (2_000, -13.0)
