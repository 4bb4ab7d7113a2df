"""What single actions do to the next observation, measured on steps that training took."""

from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from supervision.episodes import Stretch
from supervision.sandbox.messages import Observation
from supervision.tables import action_text

MOST_STEPS = 4_000  # that are looked at, the latest ones
MOST_NUMBERS = 1_000  # of an observation; of a larger one, as an image is, nothing is measured
ROWS_A_NUMBER, MORE_ROWS = 5, 10  # steps needed for each number that is fitted, and so many more
FALSE_ALARMS = 0.01  # chance that anything of a table without effects would be called one
OWN_SHARE = 0.1  # of an action's variance that the observation must leave unexplained
SHOWN, SHOWN_CHANGES = 5, 3  # effects of an action, changes of a discrete observation


def measured_effects(stretches: Sequence[Stretch], observation: Observation) -> tuple[str, bool]:
    """The table of effects in words ("" where too little is known), and whether uniformly random actions made it."""
    known = [s for s in stretches if s.obs and s.obs[0].size <= MOST_NUMBERS]
    uniform = [min(s.uniform_steps, len(s.obs)) for s in known]
    whole = [len(s.obs) for s in known]
    for steps in (uniform, whole):
        if sum(steps) and (text := _in_words(*_first_steps(known, steps), observation, steps == uniform)):
            return text, steps == uniform
    return "", False


def _first_steps(
    stretches: Sequence[Stretch], steps: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """So many of each stretch, one behind the other: observations, actions, next observations and rewards."""
    lists = ([], [], [], [])
    for s, n in zip(stretches, steps, strict=True):
        for whole, part in zip(lists, (s.obs, s.actions, s.next_obs, s.rewards), strict=True):
            whole += part[:n]
    return tuple(np.array(whole[-MOST_STEPS:]) for whole in lists)


def _in_words(
    obs: np.ndarray,
    actions: np.ndarray,
    after: np.ndarray,
    rewards: np.ndarray,
    observation: Observation,
    uniform: bool,
) -> str:
    how = f"{len(obs):,} steps of {'uniformly random' if uniform else 'sampled'} actions, without guidance"
    if observation.kind != "floats":
        lines = _counted(obs, actions, after, rewards)
        return f"What an action did to the observation, counted in {how}:\n" + "\n".join(lines) if lines else ""
    discrete = actions.ndim == 1
    lines = _fitted(
        obs.reshape(len(obs), -1).astype(np.float64), after.reshape(len(obs), -1).astype(np.float64),
        actions if discrete else actions.reshape(len(obs), -1).astype(np.float64), uniform,
    )  # fmt: skip
    what = "against the mean of all actions" if discrete else "per unit of the action"
    return (
        f"What an action does to the observation within one step, {what} ± standard error, fitted on {how} "
        f"(only what is certain):\n" + "\n".join(lines)
        if lines
        else ""
    )


def fit(x: np.ndarray, others: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of y (n, d) on x (n, k), given the others (n, m).

    Returns:
        Coefficients (k, d), their standard errors (k, d), and the share (k,) of x's variance that the others leave.
    """
    others = np.column_stack([np.ones(len(x)), others])
    basis, scale, _ = np.linalg.svd(others, full_matrices=False)
    basis = basis[:, scale > 1e-8 * scale[0]]
    x_left, y_left = (values - basis @ (basis.T @ values) for values in (x, y))  # Frisch, Waugh and Lovell
    variance = x.var(axis=0)
    share = np.where(variance > 0, x_left.var(axis=0) / np.where(variance > 0, variance, 1.0), 0.0)
    inverse = np.linalg.pinv(x_left.T @ x_left, hermitian=True)
    coefficients = inverse @ x_left.T @ y_left
    free = max(len(x) - basis.shape[1] - x.shape[1], 1)
    noise = (y_left - x_left @ coefficients).var(axis=0) * len(x) / free
    return coefficients, np.sqrt(np.outer(np.diag(inverse), noise)), share


def student_t(probability: float, free: int) -> float:
    """Quantile of Student's t of so many degrees of freedom (Abramowitz and Stegun, 26.7.5), 1 % too low at 13."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / free**i for i, term in enumerate(terms, 1))


def _fitted(obs: np.ndarray, after: np.ndarray, actions: np.ndarray, uniform: bool) -> list[str]:
    """A line for each component of the action, or each discrete action, that has an effect."""
    names = [f"action[{i}]" for i in range(actions.shape[1])] if actions.ndim == 2 else []
    if actions.ndim == 1:
        values, number = np.unique(actions, return_inverse=True)
        if len(values) < 2:
            return []
        names = [f"action {value}" for value in values]
        x = np.eye(len(values))[number] - 1 / len(values)
        x = x[:, :-1] - x[:, -1:]  # effects that sum to zero: against the mean of all actions
    else:
        x = actions
    moving = np.flatnonzero(np.ptp(obs, axis=0) > 0)
    others = obs[:, moving]
    if len(obs) < ROWS_A_NUMBER * (others.shape[1] + x.shape[1]) + MORE_ROWS:
        if not uniform:  # without the observation, what a policy did because of it would look like an effect
            return []
        others = others[:, :0]
    if len(obs) < ROWS_A_NUMBER * x.shape[1] + MORE_ROWS:
        return []
    coefficients, errors, share = fit(x, others, after - obs)
    usable = share > OWN_SHARE
    if actions.ndim == 1:
        coefficients = np.vstack([coefficients, -coefficients.sum(axis=0)])
        errors, usable = np.vstack([errors, np.sqrt((errors**2).sum(axis=0))]), np.full(len(names), usable.all())
    free = len(obs) - 1 - others.shape[1] - x.shape[1]
    threshold = student_t(1 - FALSE_ALARMS / (2 * coefficients.size), free)
    size = np.abs(coefficients)
    certain = (size > threshold * errors) & (size > 1e-6 * np.abs(after - obs).max(axis=0)) & (size > 1e-12)
    # a component's share of its own usual change says how much an effect matters
    weight = size / np.maximum((after - obs).std(axis=0), 1e-12)
    lines = []
    for i in np.flatnonzero(usable):
        strongest = [j for j in np.argsort(-weight[i], kind="stable") if certain[i, j]]
        if strongest:
            effects = [f"obs[{j}] {coefficients[i, j]:+.3g} ± {errors[i, j]:.1g}" for j in strongest[:SHOWN]]
            more = f", {len(strongest) - SHOWN} weaker ones" if len(strongest) > SHOWN else ""
            lines.append(f"{names[i]}: {', '.join(effects)}{more}")
    return lines


def _counted(obs: np.ndarray, actions: np.ndarray, after: np.ndarray, rewards: np.ndarray) -> list[str]:
    """A line for each action: the most frequent changes of an observation of integers, and the mean reward."""
    lines = []
    for action in np.unique(actions, axis=0):
        mine = actions == action if actions.ndim == 1 else (actions == action).all(axis=1)
        changes = Counter(map(tuple, (after[mine] - obs[mine]).reshape(mine.sum(), -1).tolist()))
        told = [f"{_change(change)} ({count / mine.sum():.0%})" for change, count in changes.most_common(SHOWN_CHANGES)]
        rest = ", others" if len(changes) > SHOWN_CHANGES else ""
        mean = rewards[mine].mean()
        lines.append(
            f"action {action_text(action)}, {mine.sum()} times: obs {', '.join(told)}{rest}; reward {mean:.3g}"
        )
    return lines


def _change(change: tuple[int, ...]) -> str:
    return f"{change[0]:+d}" if len(change) == 1 else "(" + ", ".join(f"{c:+d}" for c in change) + ")"
