"""GuidedSAC's theory (Lemmas 1-4, Theorems 1-2, Proposition 1, Appendix B) on tabular Markov decision processes.

A process has S states and A actions. Transition rows may sum to less than one: what is missing ends the episode,
and a finished episode is worth nothing more (`terminated` cuts the bootstrap). Compared values come
from different formulas: policies are evaluated by a linear solve for V and by iterating the backup on Q, the optimum
is found by log-sum-exp without any policy, and two small processes are worked out by hand.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-8
examples = settings(max_examples=60, deadline=None, derandomize=True)
few_examples = settings(max_examples=15, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Mdp:
    """A finite Markov decision process with the temperature of its soft values."""

    reward: Array  # (S, A)
    transition: Array  # (S, A, S), rows sum to at most 1
    gamma: float
    alpha: float


@dataclass(frozen=True)
class Case:
    """A random process, a learner with full support, a guidance policy, a hard gate and two tables of Q."""

    mdp: Mdp
    learned: Array  # (S, A), every entry positive
    guide: Array  # (S, A), one-hot or full support
    gate: Array  # (S,), entries 0 or 1
    q1: Array  # (S, A)
    q2: Array  # (S, A)


@st.composite
def cases(
    draw: st.DrawFn,
    gammas: tuple[float, float] = (0.5, 0.95),
    alphas: tuple[float, float] = (0.05, 2.0),
    max_states: int = 6,
    max_actions: int = 4,
    always_ends: bool = False,
) -> Case:
    """Draw a case. Every action may end the episode, or (half of the cases, unless `always_ends`) none does."""
    n_states, n_actions = draw(st.integers(2, max_states)), draw(st.integers(2, max_actions))
    gamma, alpha = draw(st.floats(*gammas)), draw(st.floats(*alphas))
    ends = always_ends or draw(st.booleans())
    deterministic = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    shape = (n_states, n_actions)
    survival = rng.uniform(0.6, 0.95, shape) if ends else np.ones(shape)  # (S, A)
    transition = survival[:, :, None] * rng.dirichlet(np.ones(n_states), shape)  # (S, A, S)
    mdp = Mdp(rng.uniform(-1.0, 1.0, shape), transition, gamma, alpha)
    learned = with_floor(rng.dirichlet(np.ones(n_actions), n_states), 0.05)
    guide = (
        one_hot(rng.integers(n_actions, size=n_states), n_actions)
        if deterministic
        else with_floor(rng.dirichlet(np.ones(n_actions), n_states), 0.05)
    )
    gate = rng.integers(0, 2, n_states).astype(float)
    return Case(mdp, learned, guide, gate, rng.normal(size=shape), rng.normal(size=shape))


def learnable_cases() -> st.SearchStrategy[Case]:
    """Small cases at a high temperature: positive coverage is enough for a limit, but convergence is as slow as the
    rarest pair is rare, and the rarest is about exp(-range of Q / alpha)."""
    return cases(gammas=(0.5, 0.8), alphas=(1.0, 2.0), max_states=4, max_actions=3, always_ends=True)


def one_hot(actions: NDArray[np.int64], n_actions: int) -> Array:
    """The deterministic policy that plays actions[s], (S, A)."""
    return np.eye(n_actions)[actions]


def with_floor(pi: Array, floor: float) -> Array:
    """Mix with the uniform policy, so that every action keeps probability, (S, A)."""
    return (1.0 - floor) * pi + floor / pi.shape[1]


def mixture(learned: Array, guide: Array, gate: Array) -> Array:
    """pi_mix = (1 - w) pi_theta + w pi_guided, (S, A) (Eq. 3)."""
    return (1.0 - gate)[:, None] * learned + gate[:, None] * guide


def soft_value(q: Array, pi: Array, alpha: float) -> Array:
    """V(s) = E_pi[Q - alpha log pi], (S,); an action of probability zero adds no entropy."""
    log_pi = np.log(np.where(pi > 0.0, pi, 1.0))
    return (pi * (q - alpha * log_pi)).sum(axis=1)


def backup(mdp: Mdp, q: Array, pi: Array) -> Array:
    """T^pi Q = r + gamma E_s'[V(s')], (S, A) (Eq. 10)."""
    return mdp.reward + mdp.gamma * mdp.transition @ soft_value(q, pi, mdp.alpha)


def boltzmann(q: Array, alpha: float) -> Array:
    """The improved policy, proportional to exp(Q / alpha), (S, A) (Eq. 4 and 12)."""
    weight = np.exp((q - q.max(axis=1, keepdims=True)) / alpha)
    return weight / weight.sum(axis=1, keepdims=True)


def solve_q(mdp: Mdp, pi: Array) -> Array:
    """Q^pi without iterating: solve (I - gamma P_pi) V = r_pi + alpha H(pi), then back up V once, (S, A)."""
    entropy = np.array([-sum(p * math.log(p) for p in row if p > 0.0) for row in pi.tolist()])  # (S,)
    reward = np.einsum("sa,sa->s", pi, mdp.reward) + mdp.alpha * entropy  # (S,)
    chain = np.einsum("sa,sat->st", pi, mdp.transition)  # (S, S)
    value = np.linalg.solve(np.eye(len(pi)) - mdp.gamma * chain, reward)  # (S,)
    return mdp.reward + mdp.gamma * np.einsum("sat,t->sa", mdp.transition, value)


def best_value(q: Array, alpha: float) -> Array:
    """max_pi E_pi[Q - alpha log pi] = alpha log sum exp(Q / alpha), (S,)."""
    return alpha * np.logaddexp.reduce(q / alpha, axis=1)


def optimal_backup(mdp: Mdp, q: Array) -> Array:
    """T* Q = r + gamma E_s'[alpha log sum exp(Q(s', .) / alpha)], (S, A)."""
    return mdp.reward + mdp.gamma * mdp.transition @ best_value(q, mdp.alpha)


def optimal_q(mdp: Mdp) -> Array:
    """The optimal soft Q by soft value iteration, (S, A)."""
    q = mdp.reward
    for _ in range(math.ceil(math.log(1e-13) / math.log(mdp.gamma))):
        q = optimal_backup(mdp, q)
    return q


def data_weights(mdp: Mdp, behaviour: Array, start: Array) -> Array:
    """d_mix, the share of each (s, a) in data of whole episodes from the given starts, (S, A)."""
    chain = np.einsum("sa,sat->st", behaviour, mdp.transition)  # (S, S)
    visits = np.linalg.solve(np.eye(len(chain)) - chain.T, start)  # (S,)
    pairs = visits[:, None] * behaviour
    return pairs / pairs.sum()


def evaluate_on_data(mdp: Mdp, q: Array, pi: Array, weight: Array, sweeps: int) -> Array:
    """Expected critic updates Q += eta d_mix (T^pi_theta Q - Q), eta = 1 / max d_mix (target: pi_theta alone)."""
    step = weight / weight.max()
    for _ in range(sweeps):
        q = q + step * (backup(mdp, q, pi) - q)
    return q


def guided_learning(mdp: Mdp, q: Array, guide: Array, gate: Array, sweeps: int) -> Array:
    """Alternate evaluation on data of the current pi_mix and improvement until no pair in the data moves."""
    for _ in range(50_000):
        learned = boltzmann(q, mdp.alpha)
        weight = data_weights(mdp, mixture(learned, guide, gate), start=np.ones(len(q)))
        residual = backup(mdp, q, learned) - q
        if np.abs(residual)[weight > 0.0].max() < 1e-9:
            return q
        q = q + weight / weight.max() * residual  # the first sweep
        q = evaluate_on_data(mdp, q, learned, weight, sweeps - 1)
    raise AssertionError("guided learning did not converge")


# A process worked out by hand. gamma = 1/2 and alpha = 1 / ln 2, so that exp(Q / alpha) = 2^Q and entropy counts
# bits. Write L = log2 3. Action a leads to state a. Rewards:  r = [[-1, L - 2], [1 + L, 0]].
#
# Optimum, V = (2, 4): Q*(0, .) = (-1 + 1, L - 2 + 2) = (0, L), log2(1 + 3) = 2;
#                      Q*(1, .) = (1 + L + 1, 0 + 2) = (2 + L, 2), log2(12 + 4) = 4. So pi* = [[1/4, 3/4], [3/4, 1/4]].
#
# Uniform pi_theta (1 bit): V(0) = 1 + (L - 3)/2 + m/2 and V(1) = 1 + (1 + L)/2 + m/2 with m = (V(0) + V(1))/2.
#   Averaging, m = 1 + (L - 1)/2 + m/2, so m = 1 + L and V = (L, 2 + L). Then Q = r + V(a)/2 is
#   [[L/2 - 1, 3L/2 - 1], [3L/2 + 1, L/2 + 1]]; rows differ by L = log2 3, so one improvement step gives pi*.
#
# pi_mix, gate (1, 0), guidance a = 1 (0 bits in state 0):
#   V(0) = L - 2 + V(1)/2 and V(1) = 1 + (1 + L)/2 + (V(0) + V(1))/4.
#   Insert: (5/8) V(1) = (3 + L)/2 + (L - 2)/4, so V(1) = (8 + 6L)/5 and V(0) = (8L - 6)/5.
#
# Always a = 0: V(0) = -1 + V(0)/2 = -2 and V(1) = 1 + L + V(0)/2 = L, so Q = [[-2, 3L/2 - 2], [L, L/2]].
L = math.log2(3.0)
BY_HAND = Mdp(
    reward=np.array([[-1.0, L - 2.0], [1.0 + L, 0.0]]),
    transition=np.broadcast_to(np.eye(2), (2, 2, 2)),  # (S, A, S)
    gamma=0.5,
    alpha=1.0 / math.log(2.0),
)
BY_HAND_OPTIMUM = np.array([[0.0, L], [2.0 + L, 2.0]])
BY_HAND_UNIFORM = np.array([[L / 2 - 1, 3 * L / 2 - 1], [3 * L / 2 + 1, L / 2 + 1]])
BY_HAND_MIX = BY_HAND.reward + np.array([8 * L - 6, 8 + 6 * L]) / 10
BY_HAND_ALWAYS_0 = np.array([[-2.0, 3 * L / 2 - 2], [L, L / 2]])
UNIFORM = np.full((2, 2), 0.5)
ALWAYS_0, ALWAYS_1 = one_hot(np.array([0, 0]), 2), one_hot(np.array([1, 1]), 2)


@pytest.mark.parametrize(
    ("pi", "expected"),
    [
        (UNIFORM, BY_HAND_UNIFORM),
        (mixture(UNIFORM, ALWAYS_1, np.array([1.0, 0.0])), BY_HAND_MIX),
        (ALWAYS_0, BY_HAND_ALWAYS_0),
        (np.array([[0.25, 0.75], [0.75, 0.25]]), BY_HAND_OPTIMUM),
    ],
    ids=["uniform", "mixture", "deterministic", "optimal"],
)
def test_hand_worked_evaluation(pi: Array, expected: Array) -> None:
    """Lemma 1 by hand: the hand's Q^pi solves the linear system and is a fixed point of the backup."""
    np.testing.assert_allclose(solve_q(BY_HAND, pi), expected, atol=1e-12)
    np.testing.assert_allclose(backup(BY_HAND, expected, pi), expected, atol=1e-12)


def test_hand_worked_improvement() -> None:
    """Lemma 2 by hand: one step leads from the uniform policy to the optimal one, which is then kept."""
    optimal = np.array([[0.25, 0.75], [0.75, 0.25]])
    np.testing.assert_allclose(boltzmann(BY_HAND_UNIFORM, BY_HAND.alpha), optimal, atol=1e-12)
    np.testing.assert_allclose(boltzmann(BY_HAND_OPTIMUM, BY_HAND.alpha), optimal, atol=1e-12)
    np.testing.assert_allclose(best_value(BY_HAND_OPTIMUM, BY_HAND.alpha), [2.0, 4.0], atol=1e-12)
    np.testing.assert_allclose(optimal_q(BY_HAND), BY_HAND_OPTIMUM, atol=1e-12)


@examples
@given(cases(), st.floats(-5.0, 5.0))
def test_lemma_1_contraction(case: Case, shift: float) -> None:
    """Lemma 1/3, Eq. 11: T^pi_mix is a gamma-contraction, and a constant shift shrinks by exactly gamma P(survive)."""
    mix = mixture(case.learned, case.guide, case.gate)
    image1, image2 = backup(case.mdp, case.q1, mix), backup(case.mdp, case.q2, mix)
    assert np.abs(image1 - image2).max() <= case.mdp.gamma * np.abs(case.q1 - case.q2).max() + 1e-12

    moved = backup(case.mdp, case.q1 + shift, mix) - image1
    np.testing.assert_allclose(moved, case.mdp.gamma * shift * case.mdp.transition.sum(axis=2), atol=1e-12)


@examples
@given(cases())
def test_lemma_1_converges_to_the_value_of_the_mixture(case: Case) -> None:
    """Lemma 1/3: T^pi_mix, iterated from any Q, goes geometrically to the Q^pi_mix of the linear solve."""
    mix = mixture(case.learned, case.guide, case.gate)
    target = solve_q(case.mdp, mix)
    q, start = case.q1, np.abs(case.q1 - target).max()
    for k in range(1, math.ceil(math.log(1e-11) / math.log(case.mdp.gamma))):
        q = backup(case.mdp, q, mix)
        assert np.abs(q - target).max() <= case.mdp.gamma**k * start + 1e-10
    np.testing.assert_allclose(q, target, atol=TOLERANCE)


@examples
@given(cases(), st.data())
def test_deterministic_guidance_has_no_entropy(case: Case, data: st.DataObject) -> None:
    """Eq. 10 with 0 log 0 = 0: a substituted action is backed up without any bonus, and T^pi is continuous there."""
    n_states, n_actions = case.q1.shape
    actions = np.array(data.draw(st.lists(st.integers(0, n_actions - 1), min_size=n_states, max_size=n_states)))
    guide, always = one_hot(actions, n_actions), np.ones(n_states)
    substituted = backup(case.mdp, case.q1, mixture(case.learned, guide, always))
    plain = case.mdp.reward + case.mdp.gamma * case.mdp.transition @ case.q1[np.arange(n_states), actions]
    np.testing.assert_allclose(substituted, plain, atol=1e-12)

    almost = backup(case.mdp, case.q1, with_floor(guide, 1e-9))
    np.testing.assert_allclose(substituted, almost, atol=1e-6)


@examples
@given(cases())
def test_lemma_2_one_step(case: Case) -> None:
    """Lemma 2/4, Eq. 14: exp(Q/alpha)/Z has soft value alpha log Z, above any policy's by alpha KL(pi || pi_new)."""
    alpha = case.mdp.alpha
    improved = boltzmann(case.q1, alpha)
    best = soft_value(case.q1, improved, alpha)
    np.testing.assert_allclose(best, best_value(case.q1, alpha), atol=1e-10)

    for pi in (case.learned, mixture(case.learned, case.guide, case.gate)):
        log_improved = case.q1 / alpha - np.logaddexp.reduce(case.q1 / alpha, axis=1, keepdims=True)
        divergence = [
            sum(p * (math.log(p) - log_p) for p, log_p in zip(row, log_row, strict=True) if p > 0.0)
            for row, log_row in zip(pi.tolist(), log_improved.tolist(), strict=True)
        ]  # (S,)
        gain = best - soft_value(case.q1, pi, alpha)
        assert gain.min() >= -1e-12
        np.testing.assert_allclose(gain, alpha * np.array(divergence), atol=1e-10)


@examples
@given(cases())
def test_lemma_2_never_lowers_q(case: Case) -> None:
    """Lemma 2/4, Eq. 15: Q^pi_new >= T* Q^pi >= Q^pi, whether pi is the learner or the mixture."""
    for pi in (case.learned, mixture(case.learned, case.guide, case.gate)):
        before = solve_q(case.mdp, pi)
        after = solve_q(case.mdp, boltzmann(before, case.mdp.alpha))
        assert (after - before).min() >= -TOLERANCE
        assert (after - optimal_backup(case.mdp, before)).min() >= -TOLERANCE


@examples
@given(cases(), st.integers(0, 2**32 - 1))
def test_theorem_1_as_printed(case: Case, seed: int) -> None:
    """Theorem 1/2 as printed: evaluate pi_mix, improve, repeat.

    The printed assumption, Q^pi_mix >= Q^pi_theta everywhere, is met by opening the gate only where guidance has a
    soft advantage. Then Q^pi_theta rises at every entry and closes on the optimum at least as fast as gamma^k.
    """
    rng = np.random.default_rng(seed)
    mdp, learned = case.mdp, case.learned
    best, q = optimal_q(mdp), solve_q(mdp, learned)
    start = np.abs(best - q).max()
    for k in range(1, 12):
        guide = rng.dirichlet(np.ones(q.shape[1]), len(q))  # (S, A)
        gate = (soft_value(q, guide, mdp.alpha) >= soft_value(q, learned, mdp.alpha)).astype(float)  # (S,)
        q_mix = solve_q(mdp, mixture(learned, guide, gate))
        learned = boltzmann(q_mix, mdp.alpha)
        q_next = solve_q(mdp, learned)
        assert (q_mix - q).min() >= -TOLERANCE
        assert (q_next - q_mix).min() >= -TOLERANCE
        q = q_next
        assert np.abs(best - q).max() <= mdp.gamma**k * start + TOLERANCE


def test_theorem_1_as_printed_needs_its_assumption() -> None:
    """Were pi_mix itself evaluated, a gate that never closes would hold any learner at its guidance's value.

    By hand: guidance always plays 0, so Q^pi_mix = [[-2, 3L/2 - 2], [L, L/2]] whatever the learner does, and each
    improvement returns odds 3^(3/2) for action 1 in state 0, where the optimum has 3. GuidedSAC escapes because its
    target uses pi_theta alone (`test_theorem_1_limit_ignores_the_guidance`).
    """
    learned = UNIFORM
    for _ in range(3):
        q_mix = solve_q(BY_HAND, mixture(learned, ALWAYS_0, np.ones(2)))
        np.testing.assert_allclose(q_mix, BY_HAND_ALWAYS_0, atol=1e-12)
        learned = boltzmann(q_mix, BY_HAND.alpha)
    assert learned[0, 1] / learned[0, 0] == pytest.approx(3.0**1.5)
    assert (BY_HAND_OPTIMUM - solve_q(BY_HAND, learned)).min() > 0.01


@few_examples
@given(learnable_cases())
def test_data_weights_count_visits(case: Case) -> None:
    """The d_mix of the next tests, by walking: push a start distribution forward until every episode has ended."""
    mix = mixture(case.learned, case.guide, case.gate)
    start = case.learned[:, 0]
    here, visits = start, np.zeros_like(mix)  # (S,), (S, A)
    for _ in range(600):
        pairs = here[:, None] * mix
        visits += pairs
        here = np.tensordot(pairs, case.mdp.transition, axes=2)
    np.testing.assert_allclose(data_weights(case.mdp, mix, start), visits / visits.sum(), atol=1e-10)


@pytest.mark.parametrize("guidance", ["none", "best action", "worst action", "random"])
@pytest.mark.parametrize("sweeps", [1, 5])
@few_examples
@given(case=learnable_cases(), hard=st.booleans())
def test_theorem_1_limit_ignores_the_guidance(sweeps: int, guidance: str, case: Case, hard: bool) -> None:
    """Theorem 1/2 as GuidedSAC runs it: data of pi_mix, target of pi_theta, any guidance, one limit, the optimum.

    Every action keeps probability in one of two ways: a hard gate with guidance that tries everything, or
    deterministic guidance with a gate that is open 80 % of the time. With one sweep per improvement any start will do
    (the update is a contraction). With more, start below all values, from where every update rises.
    """
    mdp, best = case.mdp, optimal_q(case.mdp)
    guide = {
        "none": case.learned,
        "best action": one_hot(best.argmax(axis=1), best.shape[1]),
        "worst action": one_hot(best.argmin(axis=1), best.shape[1]),
        "random": case.guide,
    }[guidance]
    guide, gate = (with_floor(guide, 0.2), case.gate) if hard else (guide, 0.8 * case.gate)
    if guidance == "none":
        gate = np.zeros_like(gate)
    below = np.full_like(best, min(mdp.reward.min(), 0.0) / (1.0 - mdp.gamma))
    q = guided_learning(mdp, case.q1 if sweeps == 1 else below, guide, gate, sweeps)
    np.testing.assert_allclose(q, best, atol=1e-7)


@few_examples
@given(learnable_cases(), st.sampled_from([-1.0, -0.5, 0.5, 1.0]))
def test_theorem_1_needs_coverage(case: Case, error: float) -> None:
    """Theorem 1/2 without coverage fails: what substitution never tries keeps its initial value for good.

    Start at Q* + error, with the gate always open and deterministic guidance. The untried pairs stay there to the
    bit; the tried ones come to within gamma |error| of Q*, so the learner's preferences end up wrong by at least
    (1 - gamma) |error|. Close the gate and the learner's own data repairs it: the fault was the data, not the target.
    """
    mdp, best = case.mdp, optimal_q(case.mdp)
    tried = one_hot(best.argmin(axis=1), best.shape[1])
    start = best + error
    q = guided_learning(mdp, start, tried, np.ones(len(best)), sweeps=1)
    assert (q[tried == 0.0] == start[tried == 0.0]).all()
    assert np.abs(q - best)[tried == 1.0].max() <= mdp.gamma * abs(error) + TOLERANCE

    repaired = guided_learning(mdp, q, tried, np.zeros(len(best)), sweeps=1)
    np.testing.assert_allclose(repaired, best, atol=1e-7)


@examples
@given(cases(), st.booleans(), st.integers(0, 2**32 - 1))
def test_proposition_1_better_guidance_raises_the_bound(case: Case, unguided: bool, seed: int) -> None:
    """Proposition 1, the provable reading: better guidance raises the lower bound on the first improved policy.

    "Better" is the one-step soft advantage E_g[Q - alpha log g] on the gated states, under the Q of what it replaces:
    the learner itself (no guidance) or other guidance behind the same gate. Then Q^pi_mix rises everywhere, V^pi_mix
    by at least the advantage where the gate is open, and with it both bounds of Lemma 2 on the next policy,
    Q^pi_new >= T* Q^pi_mix >= Q^pi_mix. Read from right to left: worse guidance lowers the bounds (never the limit).
    """
    mdp, alpha = case.mdp, case.mdp.alpha
    worse = case.learned if unguided else case.guide
    mix_worse = mixture(case.learned, worse, case.gate)
    q_worse = solve_q(mdp, mix_worse)

    challenger = np.random.default_rng(seed).dirichlet(np.ones(worse.shape[1]), len(worse))  # (S, A)
    wins = soft_value(q_worse, challenger, alpha) > soft_value(q_worse, worse, alpha)  # (S,)
    better = np.where(wins[:, None], challenger, worse)
    mix_better = mixture(case.learned, better, case.gate)
    q_better = solve_q(mdp, mix_better)

    assert (q_better - q_worse).min() >= -TOLERANCE
    advantage = case.gate * (soft_value(q_worse, better, alpha) - soft_value(q_worse, worse, alpha))
    lift = soft_value(q_better, mix_better, alpha) - soft_value(q_worse, mix_worse, alpha)
    assert (lift - advantage).min() >= -TOLERANCE

    assert (optimal_backup(mdp, q_better) - optimal_backup(mdp, q_worse)).min() >= -TOLERANCE
    improved = solve_q(mdp, boltzmann(q_better, alpha))
    assert (improved - optimal_backup(mdp, q_better)).min() >= -TOLERANCE


def test_proposition_1_needs_the_entropy() -> None:
    """Proposition 1 with "better" read as a higher E_g[Q] is false: a substituted action must also pay its entropy.

    By hand: in state 0 the uniform learner has Q = (L/2 - 1, 3L/2 - 1), so always playing 1 gains L/2 = 0.79 in
    expected Q and loses one bit of entropy. Q^pi_mix falls below Q^pi_theta everywhere.
    """
    gate = np.array([1.0, 0.0])
    assert BY_HAND_UNIFORM[0, 1] > BY_HAND_UNIFORM[0].mean()
    assert (solve_q(BY_HAND, mixture(UNIFORM, ALWAYS_1, gate)) < solve_q(BY_HAND, UNIFORM)).all()


# A fork worked out by hand, same units (gamma = 1/2, entropy in bits). State 0 pays nothing and leads to state 1
# (action 0) or state 2 (action 1); both end the episode. Rewards, as powers of two: state 1 pays log2 (1, 255),
# state 2 pays log2 (16, 48).
#
#   optimum:            V*(1) = log2 256 = 8,       V*(2) = log2 64 = 6,     Q*(0, .) = (4, 3), pi*(0) = (2/3, 1/3)
#   uniform pi_theta:   V(1) = 1 + log2(255)/2 = 5.00,  V(2) = 1 + (8 + L)/2 = 5.79,  Q(0, .) = (2.50, 2.90)
FORK = Mdp(
    reward=np.log2(np.array([[1.0, 1.0], [1.0, 255.0], [16.0, 48.0]])),
    transition=np.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], np.zeros((2, 3)), np.zeros((2, 3))]),  # (S, A, S)
    gamma=0.5,
    alpha=BY_HAND.alpha,
)
FORK_LEARNED = np.full((3, 2), 0.5)
FORK_OPTIMAL = np.array([[2 / 3, 1 / 3], [1 / 256, 255 / 256], [1 / 4, 3 / 4]])


def test_proposition_1_bounds_the_improvement_but_does_not_order_it() -> None:
    """Proposition 1 with "larger improvement" read as the improved policy's own value is false.

    By hand: optimal guidance in state 2 only lifts Q(0, .) from (2.50, 2.90) to (2.50, 3). The mixture is better
    everywhere, and the bound rises. Yet it flatters the branch that is really the worse one, 3 against 4: the improved
    policy takes the good branch with probability 0.414, and without guidance with 0.431. Either way it is then
    optimal in states 1 and 2, so its value in state 0 is 3 + p + H(p): 4.393 with guidance, 4.418 without.
    """
    q_plain = solve_q(FORK, FORK_LEARNED)
    mix = mixture(FORK_LEARNED, FORK_OPTIMAL, np.array([0.0, 0.0, 1.0]))
    q_mix = solve_q(FORK, mix)
    np.testing.assert_allclose(q_plain[0], [(1 + math.log2(255) / 2) / 2, (5 + L / 2) / 2], atol=1e-12)
    np.testing.assert_allclose(q_mix[0], [(1 + math.log2(255) / 2) / 2, 3.0], atol=1e-12)
    assert (q_mix >= q_plain).all()
    assert (soft_value(q_mix, mix, FORK.alpha) >= soft_value(q_plain, FORK_LEARNED, FORK.alpha)).all()

    def improved_value(q: Array) -> Array:
        improved = boltzmann(q, FORK.alpha)
        return soft_value(solve_q(FORK, improved), improved, FORK.alpha)

    np.testing.assert_allclose(improved_value(q_mix), [4.393, 8.0, 6.0], atol=5e-4)
    np.testing.assert_allclose(improved_value(q_plain), [4.418, 8.0, 6.0], atol=5e-4)


def test_proposition_1_optimal_guidance_on_part_of_the_states_may_hurt() -> None:
    """Even pi* is no better guidance behind a gate that leaves the learner to finish the job.

    By hand: with the gate open in state 0 only, pi*(0) = (2/3, 1/3) walks to state 1 for the 8 that only pi* earns
    there. With Q(0, .) = (2.50, 2.90), V(0) = 2/3 2.50 + 1/3 2.90 + H(1/3) = 3.549, below the 3.697 of the uniform
    learner left alone. With the gate open everywhere Q^pi_mix = Q*, and guidance is better again.
    """
    plain = soft_value(solve_q(FORK, FORK_LEARNED), FORK_LEARNED, FORK.alpha)
    mix = mixture(FORK_LEARNED, FORK_OPTIMAL, np.array([1.0, 0.0, 0.0]))
    guided = soft_value(solve_q(FORK, mix), mix, FORK.alpha)
    assert (guided[0], plain[0]) == (pytest.approx(3.549, abs=5e-4), pytest.approx(3.697, abs=5e-4))

    everywhere = solve_q(FORK, mixture(FORK_LEARNED, FORK_OPTIMAL, np.ones(3)))
    np.testing.assert_allclose(everywhere, optimal_q(FORK), atol=1e-12)


@few_examples
@given(learnable_cases())
def test_proposition_1_is_about_data_when_the_target_is_the_learner(case: Case) -> None:
    """GuidedSAC's critic, run to the end on pi_mix's data, holds Q^pi_theta and not Q^pi_mix, whatever guides.

    So the bounds of Proposition 1 describe the printed algorithm; in the implemented one the first improvement step
    after a complete evaluation is the same for good and for bad guidance, and guidance acts only through which pairs
    the data moves first (the next test).
    """
    mdp, best = case.mdp, optimal_q(case.mdp)
    expected = solve_q(mdp, case.learned)
    for actions in (best.argmax(axis=1), best.argmin(axis=1)):
        guide = with_floor(one_hot(actions, best.shape[1]), 0.2)
        weight = data_weights(mdp, mixture(case.learned, guide, case.gate), start=np.ones(len(guide)))
        rate = 1.0 - (1.0 - mdp.gamma) * weight.min() / weight.max()
        sweeps = math.ceil(math.log(1e-9) / math.log(rate))
        np.testing.assert_allclose(evaluate_on_data(mdp, case.q1, case.learned, weight, sweeps), expected, atol=1e-7)


def test_proposition_1_good_data_makes_a_larger_first_step() -> None:
    """Proposition 1 as GuidedSAC can enjoy it: where rewards are far, guided data carries the first update to them.

    A corridor of six states: action 1 moves on, action 0 ends the episode. One expected update from Q = 0 and one
    improvement, with equally many samples and a uniform learner. If only leaving the far end pays, the policy gains
    more with guidance towards it than without, and least with guidance away from it. If the first step pays, the same
    guidance makes the gain smaller: its samples are spent further on. So this too is no general order.
    """
    length = 6
    transition = np.zeros((length, 2, length))  # (S, A, S)
    transition[np.arange(length - 1), 1, np.arange(1, length)] = 1.0
    learned = np.full((length, 2), 0.5)

    def gain(paid_state: int, action: int, gate: float) -> float:
        reward = np.zeros((length, 2))  # (S, A)
        reward[paid_state, 1] = 10.0
        mdp = Mdp(reward, transition, gamma=0.95, alpha=1.0)
        guide = one_hot(np.full(length, action), 2)
        weight = data_weights(mdp, mixture(learned, guide, np.full(length, gate)), start=np.eye(length)[0])
        improved = boltzmann(weight * backup(mdp, np.zeros((length, 2)), learned), mdp.alpha)
        before = soft_value(solve_q(mdp, learned), learned, mdp.alpha)
        return (soft_value(solve_q(mdp, improved), improved, mdp.alpha) - before)[0]

    far, near = length - 1, 0
    assert gain(far, action=1, gate=0.8) > gain(far, action=1, gate=0.0) > gain(far, action=0, gate=0.8)
    assert gain(near, action=1, gate=0.8) < gain(near, action=1, gate=0.0)


def log_mixture(
    logits: torch.Tensor, guide: Array, gate: Array, states: NDArray[np.int64], actions: NDArray[np.int64]
) -> torch.Tensor:
    """log pi_mix(a|s) of N sampled steps with pi_theta = softmax(logits), (N,) (Eq. 17).

    The steps are picked before the logarithm: the log of a whole table holds -inf for the actions that deterministic
    guidance never takes, and 0 * inf turns the gradient of their states into NaN.
    """
    closed = torch.from_numpy(1.0 - gate)[:, None]  # (S, 1)
    mix = closed * torch.softmax(logits, dim=1) + torch.from_numpy(gate[:, None] * guide)  # (S, A)
    return torch.log(mix[states, actions])


@examples
@given(cases(), st.integers(0, 2**32 - 1))
def test_appendix_b_hard_switch_masks_the_policy_gradient(case: Case, seed: int) -> None:
    """Appendix B, Eq. 19: on intervened steps the gradient is 0.0, elsewhere mean of A (1[a = b] - pi_theta(b|s))."""
    rng = np.random.default_rng(seed)
    n_states, n_actions = case.learned.shape
    states = rng.integers(n_states, size=64)  # (N,)
    mix = mixture(case.learned, case.guide, case.gate)
    actions = np.array([rng.choice(n_actions, p=mix[s]) for s in states])  # (N,), sampled from pi_mix
    advantages = rng.normal(size=64)  # (N,)

    logits = torch.tensor(np.log(case.learned) + rng.normal(size=(n_states, 1)), requires_grad=True)  # (S, A)
    log_pi = log_mixture(logits, case.guide, case.gate, states, actions)
    (log_pi * torch.tensor(advantages)).mean().backward()
    gradient = logits.grad.numpy()

    expected = np.zeros((n_states, n_actions))
    for s, a, advantage in zip(states, actions, advantages, strict=True):
        if case.gate[s] == 0.0:
            expected[s] += advantage * (np.eye(n_actions)[a] - case.learned[s]) / len(states)
    assert (gradient[case.gate == 1.0] == 0.0).all()
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


@examples
@given(cases(), st.floats(0.1, 0.9))
def test_appendix_b_soft_gate_scales_the_policy_gradient(case: Case, openness: float) -> None:
    """Appendix B before the hard switch: the gradient of log pi_mix is that of log pi_theta times (1-w) pi/pi_mix."""
    gate = np.full(len(case.learned), openness)
    logits = torch.tensor(np.log(case.learned), requires_grad=True)  # (S, A)
    log_mixture(logits, case.guide, gate, np.array([0]), np.array([0])).sum().backward()
    share = (
        (1.0 - openness) * case.learned[0, 0] / ((1.0 - openness) * case.learned[0, 0] + openness * case.guide[0, 0])
    )
    assert 0.0 < share <= 1.0
    score = np.eye(case.learned.shape[1])[0] - case.learned[0]  # (A,)
    np.testing.assert_allclose(logits.grad.numpy()[0], share * score, atol=1e-12)


# -- what guided_sac_discrete.py adds to the paper --------------------------------------------------------------------
#
# Exact improvement is Lemma 2's projection itself, a stochastic gate leaves every action some probability: both keep
# the limit of Theorem 1. The conservative term does not while it counts. With d (S, A) the shares of the pairs in the
# data, g <= d those of the guided ones, and T the term's temperature, the critic minimises per state
#   sum_a d (Q - y)^2 + lambda (sum_a g) T log sum_b exp(Q_b / T) - lambda sum_a g Q.
# Setting the gradient to zero, with p = softmax(Q / T):  Q + lambda / (2 d) ((sum_b g_b) p - g) = y.


def conservative_q(y: Array, data: Array, guided: Array, weight: float, temperature: float = 1.0) -> Array:
    """The minimiser Q (S, A) of the critic's loss with the conservative term for targets y, by damped Newton steps."""

    def loss(q: Array) -> Array:
        lse = temperature * np.logaddexp.reduce(q / temperature, axis=1)
        return (data * (q - y) ** 2).sum(1) + weight * (guided.sum(1) * lse - (guided * q).sum(1))  # (S,)

    q, share = y.copy(), guided.sum(axis=1)
    for _ in range(200):
        p = boltzmann(q, temperature)
        gradient = 2 * data * (q - y) + weight * (share[:, None] * p - guided)
        if np.abs(gradient).max() < 1e-14:
            break
        curvature = [
            np.diag(2 * d) + weight * g / temperature * (np.diag(row) - np.outer(row, row))
            for d, g, row in zip(data, share, p, strict=True)
        ]
        step = np.linalg.solve(np.array(curvature), gradient[:, :, None])[:, :, 0]
        damping, slope = np.ones((len(q), 1)), (gradient * step).sum(1)
        while (flat := loss(q - damping * step) > loss(q) - 0.1 * damping[:, 0] * slope + 1e-15).any():
            damping[flat] /= 2
        q = q - damping * step
    return q


def conservative_limit(mdp: Mdp, start: Array, data: Array, guided: Array, weight: float) -> Array:
    """Alternate the optimal backup and the conservative fit until nothing moves, (S, A)."""
    q = start
    for _ in range(math.ceil(math.log(1e-11) / math.log(mdp.gamma))):
        q = conservative_q(optimal_backup(mdp, q), data, guided, weight)
    return q


def shares(case: Case) -> tuple[Array, Array]:
    """A data distribution with full support, (S, A), and its guided part: the rule's action where the gate is open."""
    data = case.learned / case.learned.sum()
    return data, 0.5 * data * (case.gate[:, None] * one_hot(case.guide.argmax(axis=1), data.shape[1]))


@examples
@given(cases(), st.integers(0, 2**32 - 1))
def test_exact_improvement_is_the_actors_best(case: Case, seed: int) -> None:
    """Eq. 9 is minimised by the Boltzmann policy of the twin critics' minimum; its gradient is zero there."""
    low = np.minimum(case.q1, case.q2)
    logits = torch.tensor(low / case.mdp.alpha, requires_grad=True)  # (S, A)
    log_pi = torch.log_softmax(logits, dim=1)
    loss = (log_pi.exp() * (case.mdp.alpha * log_pi - torch.tensor(low))).sum()
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), 0.0, atol=1e-12)
    np.testing.assert_allclose(log_pi.exp().detach().numpy(), boltzmann(low, case.mdp.alpha), atol=1e-12)
    assert loss.item() == pytest.approx(-best_value(low, case.mdp.alpha).sum())

    other = np.random.default_rng(seed).dirichlet(np.ones(low.shape[1]), len(low))
    assert -soft_value(low, other, case.mdp.alpha).sum() > loss.item()


@examples
@given(cases())
def test_exact_improvement_keeps_the_limit_with_twin_critics(case: Case) -> None:
    """Two critics that share the target of their minimum, each at its own pace, both end at the optimal soft Q."""
    mdp, best = case.mdp, optimal_q(case.mdp)
    q1, q2 = case.q1, case.q2
    for _ in range(math.ceil(math.log(1e-12) / math.log(0.5 + 0.5 * mdp.gamma))):
        low = np.minimum(q1, q2)
        target = backup(mdp, low, boltzmann(low, mdp.alpha))
        q1, q2 = target, 0.5 * q2 + 0.5 * target
    np.testing.assert_allclose(q1, best, atol=TOLERANCE)
    np.testing.assert_allclose(q2, best, atol=TOLERANCE)


@pytest.mark.parametrize("probability", [0.5, 0.9])
@few_examples
@given(case=learnable_cases())
def test_stochastic_gate_keeps_the_limit(probability: float, case: Case) -> None:
    """--guide-probability below 1: even the worst deterministic rule in every state, for ever, leaves Q* the limit."""
    best = optimal_q(case.mdp)
    worst = one_hot(best.argmin(axis=1), best.shape[1])
    q = guided_learning(case.mdp, case.q1, worst, np.full(len(best), probability), sweeps=1)
    np.testing.assert_allclose(q, best, atol=1e-7)


# One state, every action ends the episode, so y = r. Half of the data is guided and plays 0, the other half is the
# learner's and plays 1: Q_0 = r_0 + lambda p_1 / 2, Q_1 = r_1 - lambda p_1 / 2. With lambda = 1 and r = (0, 1/2) this
# is solved by p_1 = 1/2 at every temperature: Q = (1/4, 1/4). The rule's action is held as good as one better by 1/2.
@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0])
def test_conservative_shift_by_hand(temperature: float) -> None:
    data, guided = np.array([[0.5, 0.5]]), np.array([[0.5, 0.0]])
    rewards = np.array([[0.0, 0.5]])
    shifted = conservative_q(rewards, data, guided, 1.0, temperature)
    np.testing.assert_allclose(shifted, [[0.25, 0.25]], atol=1e-12)
    np.testing.assert_allclose(conservative_q(rewards, data, guided, 0.0, temperature), rewards, atol=1e-12)


@few_examples
@given(cases(gammas=(0.5, 0.9)), st.floats(0.1, 2.0))
def test_conservative_term_shifts_the_limit_by_a_bounded_amount(case: Case, weight: float) -> None:
    """While it is on: one limit from any start, not Q*, no further away than max |shift of a fit| / (1 - gamma).

    The fit is nonexpansive in the sup norm (the Jacobian of its inverse is an M-matrix with row sums one), so fit after
    backup is a gamma-contraction. In the first fit of Q* the rule's action rises and the others fall, and a guided pair
    moves by at most lambda g / (2 d).
    """
    mdp, best = case.mdp, optimal_q(case.mdp)
    data, guided = shares(case)
    fit = [conservative_q(q, data, guided, weight) for q in (case.q1, case.q2, best)]
    assert np.abs(fit[0] - fit[1]).max() <= np.abs(case.q1 - case.q2).max() + 1e-10

    limits = [conservative_limit(mdp, start, data, guided, weight) for start in (case.q1, case.q2)]
    np.testing.assert_allclose(limits[0], limits[1], atol=1e-7)
    share = guided.sum(axis=1, keepdims=True)
    residual = limits[0] + weight / (2 * data) * (share * boltzmann(limits[0], 1.0) - guided)
    np.testing.assert_allclose(residual, optimal_backup(mdp, limits[0]), atol=1e-7)

    shift = fit[2] - best
    assert (shift[guided > 0.0] > 0.0).all() and (shift[(guided == 0.0) & (share > 0.0)] < 0.0).all()
    assert (shift[np.broadcast_to(share, shift.shape) == 0.0] == 0.0).all()
    assert np.abs(shift).max() <= weight * (share / (2 * data)).max() + 1e-12
    assert np.abs(limits[0] - best).max() <= np.abs(shift).max() / (1.0 - mdp.gamma) + TOLERANCE
    assert (np.abs(limits[0] - best).max() > 1e-6) == (guided.max() > 0.0)


@few_examples
@given(cases(gammas=(0.5, 0.9)))
def test_conservative_term_is_forgotten(case: Case) -> None:
    """Once it is off the limit is Q* again, from wherever it led; and the shift fades with the guided share."""
    mdp, best = case.mdp, optimal_q(case.mdp)
    data, guided = shares(case)
    shifted = conservative_limit(mdp, case.q1, data, guided, weight=1.0)
    np.testing.assert_allclose(conservative_limit(mdp, shifted, data, guided, weight=0.0), best, atol=TOLERANCE)

    for fraction in (1e-2, 1e-4):
        faded = conservative_limit(mdp, shifted, data, fraction * guided, weight=1.0)
        bound = fraction * (guided.sum(axis=1, keepdims=True) / (2 * data)).max() / (1.0 - mdp.gamma)
        assert np.abs(faded - best).max() <= bound + TOLERANCE
