"""What a rule must go through before it may guide: a dry run on states, and the audition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from torch.utils.tensorboard import SummaryWriter

from supervision.chat import IN_AUDITION
from supervision.sandbox.messages import TRIAL_LANES, PolicyError
from supervision.sandbox.policy import SandboxedPolicy

RANDOM_STATES = 200  # on which a fixed rule is tried before training


class AuditionFailed(PolicyError):
    """The guided behaviour did worse than the unguided one."""


def random_states(env: gym.Env, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States (T, *obs) of random episodes and their steps (T,), T = `RANDOM_STATES`."""
    env.action_space.seed(seed)
    obs_list, steps = [], []
    obs, _ = env.reset(seed=seed)
    t = 0
    for _ in range(RANDOM_STATES):
        obs_list.append(obs)
        steps.append(t)
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        t += 1
        if terminated or truncated:
            obs, t = env.reset()[0], 0
    return np.array(obs_list), np.array(steps)


def dry_run(policy: SandboxedPolicy, obs: np.ndarray, t: np.ndarray) -> SandboxedPolicy:
    """Call a rule on states (T, *obs) at steps (T,), one by one, as in training, so that its deadline is tested too.

    Returns:
        The rule.

    Raises:
        PolicyError: it failed, and is closed.
    """
    try:
        for i in range(len(t)):
            policy(obs[i : i + 1], t[i : i + 1], np.array([TRIAL_LANES]))  # a lane that training does not use
    except PolicyError:
        policy.close()
        raise
    return policy


@dataclass
class Audition:
    """Returns of the guided and of the unguided behaviour, pair by pair from equal seeds and over equal horizons."""

    guided: list[float]
    unguided: list[float]
    steps: int  # environment steps that it took

    @property
    def passed(self) -> bool:
        """Whether the guided behaviour did at least as well."""
        return float(np.mean(self.guided)) >= float(np.mean(self.unguided))


def run_audition(
    envs: Sequence[gym.Env],
    act: Callable[[np.ndarray, bool], np.ndarray],
    intervene: Callable[[np.ndarray, np.ndarray], np.ndarray],
    policy: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    *,
    max_steps: int,
    seed: int,
) -> Audition:
    """Compare the two behaviours as they would act in training (sampled actions), in rounds of len(envs) / 2 pairs.

    All lanes of a round advance together, so that where the budget ends a round early, every return is over the same
    horizon. Rounds go on until the mean paired difference is two standard errors from zero or the budget is spent.

    Args:
        envs: 2K environments; the first K go unguided, the others guided, and pair i starts from one seed.
    """
    pairs = len(envs) // 2
    guided, unguided, steps, last_round = [], [], 0, 0
    while steps + last_round < max_steps:
        seeds = [seed + len(guided) + i for i in range(pairs)] * 2
        obs = [env.reset(seed=s)[0] for env, s in zip(envs, seeds, strict=True)]
        returns, running, t, before = np.zeros(2 * pairs), list(range(2 * pairs)), 0, steps
        while running and steps + len(running) <= max_steps:
            batch = np.stack([obs[i] for i in running])
            actions = act(batch, False)
            rule = np.array([i >= pairs for i in running])
            if rule.any():
                lanes = TRIAL_LANES + np.array(running)[rule]
                actions[rule] = intervene(actions[rule], policy(batch[rule], np.full(rule.sum(), t), lanes))
            for i, action in zip(running.copy(), actions, strict=True):
                obs[i], reward, terminated, truncated, _ = envs[i].step(action)
                returns[i] += float(reward)
                if terminated or truncated:
                    running.remove(i)
            steps += len(actions)
            t += 1
        unguided += returns[:pairs].tolist()
        guided += returns[pairs:].tolist()
        last_round = steps - before
        difference = np.subtract(guided, unguided)
        if len(difference) > 1 and abs(difference.mean()) > 2 * difference.std(ddof=1) / len(difference) ** 0.5:
            break
    return Audition(guided, unguided, steps)


class Auditions:
    """Lets rules through whose guided behaviour does at least as well, in environments of their own.

    Args:
        args: the flags of SupervisorArgs, and seed.
        env_fn: makes an environment; called at the first audition.
        act, intervene: as for `run_audition`.
    """

    def __init__(
        self,
        args: Any,
        env_fn: Callable[[str | None], gym.Env],
        act: Callable[[np.ndarray, bool], np.ndarray],
        intervene: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ):
        self.args, self.env_fn, self.act, self.intervene = args, env_fn, act, intervene
        self.envs: list[gym.Env] = []
        self.steps = 0  # environment steps so far

    def hold(self, policy: SandboxedPolicy, global_step: int, writer: SummaryWriter) -> str:
        """Let a rule through, and say how it did.

        Raises:
            AuditionFailed: the guided behaviour did worse.
            PolicyError: the rule failed on the way.
        """
        if not self.args.audition_episodes:
            return "guiding, without audition"
        while len(self.envs) < 2 * self.args.audition_episodes:
            self.envs.append(self.env_fn(None))
        try:
            result = run_audition(
                self.envs, self.act, self.intervene, policy, max_steps=self.args.audition_max_steps,
                seed=self.args.seed + global_step + 1_000,
            )  # fmt: skip
        except PolicyError as error:
            raise PolicyError(f"{IN_AUDITION}{error}") from None
        self.steps += result.steps
        guided, unguided = float(np.mean(result.guided)), float(np.mean(result.unguided))
        writer.add_scalar("supervisor/audition_guided_return", guided, global_step)
        writer.add_scalar("supervisor/audition_unguided_return", unguided, global_step)
        verdict = f"return {guided:.4g} guided, {unguided:.4g} unguided ({len(result.guided)} pairs of episodes)"
        if not result.passed:
            raise AuditionFailed(f"audition failed: {verdict}; the rule makes the behaviour worse")
        return f"guiding, audition passed: {verdict}"

    def close(self) -> None:
        """Close the environments, as many as were needed."""
        for env in self.envs:
            env.close()
