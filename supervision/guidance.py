"""Where the rule acts: episodes are marked as probes, which the learner acts alone, or as guided ones."""

from collections.abc import Callable
from typing import Any

import numpy as np

from supervision.episodes import Episodes, Stretch
from supervision.sandbox.messages import BoxAction, DiscreteAction, PolicyError
from supervision.sandbox.policy import SandboxedPolicy
from supervision.trial import WINDOWS, Trial, Verdict

FOLLOWED = 2  # times the longest guided episode for which a probe is followed


class Guidance:
    """The rule, in the environments whose present episode it guides.

        a_g, mask = guidance(obs, t)

    The unit is the episode. A rule's first episodes are a guided one and a probe in turn; later an episode is a probe
    whenever unguided steps are fewer than their share. A probe that is longer than P = twice the longest guided episode
    (before one is over: a tenth of a window) goes on with the rule, so that the learner sees how to come out of where
    it got stuck; what is left of that episode is neither a probe nor a guided episode. No episode is reset early.

    Args:
        num_envs: environments that are stepped side by side.
        action: what the rule returns.
        window: environment steps of a guided window.
        pairs: episodes of each kind before a trial is looked at; 0: no trial.
        share: of all steps while there is a rule that are unguided at least, in [0, 1).
        learning_starts: steps of the run before which the learner's part is uniformly random.
        guide_start: step of the run from which on steps are counted.
        begun: is told of each stretch of environment 0 that begins, before its first step (behind it where a run begins
            an episode anew).
    """

    def __init__(
        self,
        num_envs: int,
        action: BoxAction | DiscreteAction,
        window: int,
        pairs: int,
        share: float,
        learning_starts: int = 0,
        guide_start: int = 0,
        begun: Callable[[Stretch], None] = lambda stretch: None,
    ):
        self.num_envs, self.window, self.pairs, self.share = num_envs, window, pairs, share
        self.learning_starts, self.guide_start, self.begun = learning_starts, guide_start, begun
        discrete = isinstance(action, DiscreteAction)
        self.nothing = np.zeros(num_envs, np.int64) if discrete else np.zeros((num_envs, *action.low.shape))
        self.mask = np.zeros(num_envs, dtype=bool)  # where the rule acts
        self.marked = np.zeros(num_envs, dtype=bool)  # where the present episode is a probe or a guided one so far
        self.episodes = Episodes(num_envs)
        self.policy: SandboxedPolicy | None = None
        self.trial = Trial(pairs)
        self.failure: PolicyError | None = None  # of the rule, in the last call
        # where (global step) and how the rule fails in the run that this one repeats or goes on from. What ends a rule
        # may be the machine's doing, so it acts until that step and ends there, whatever would become of it here
        self.recorded: tuple[int, str] | None = None
        self.now = 0  # global step of the next call
        self.t = np.zeros(num_envs, dtype=np.int64)  # and the steps of the episodes there
        self.steps = 0  # since `guide_start`
        self.guided_steps, self.alone = 0, 0  # with the rule, and of the learner alone while there was a rule

    def __call__(self, obs: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the rule does, and where.

        Args:
            obs: (N, *obs).
            t: (N,) int64, steps of the environments' episodes.

        Returns:
            Its actions (N, *action), zeros where it does not act, and where it does, (N,) bool. A rule that fails acts
            nowhere any more; whoever holds the guidance finds the reason in `failure`.
        """
        actions, mask = self.nothing.copy(), self.mask.copy()
        if self.policy is not None:
            try:
                if self.recorded is not None and self.now >= self.recorded[0]:
                    raise PolicyError(self.recorded[1])
                if mask.any():
                    actions[mask] = self.policy(obs[mask], t[mask], np.flatnonzero(mask))
            except PolicyError as error:
                self.failure = error
                self.mask[:] = self.marked[:] = mask[:] = False
        return actions, mask

    def begin(self, policy: SandboxedPolicy, trial: Trial) -> None:
        """From here on this rule acts; one that acts already goes on."""
        if policy is self.policy:
            return
        self.stop()
        self.policy, self.trial, fresh = policy, trial, not (trial.guided or trial.probes)
        for env in range(self.num_envs):
            present = self.episodes.present[env]
            if present is not None and len(present):
                self._hand_over(env)
                if fresh and not present.start:
                    trial.add(present, 0)  # the probe before the rule's first episode
            else:
                self.episodes.present[env] = None
                self._mark(env)
        self.open()

    def stop(self) -> None:
        """No rule acts any more; what is left of the guided episodes goes unguided and counts for neither side."""
        for env, present in enumerate(self.episodes.present):
            if present is not None and present.guided:  # also where a failed rule acts no more by now
                self.episodes.end(env, "cut")
        self.mask[:] = self.marked[:] = False
        self.policy = None
        self.open()

    def open(self) -> None:
        """Stretches begin where none is going on."""
        for env, present in enumerate(self.episodes.present):
            if present is None:
                start, guided, uniform = int(self.t[env]), bool(self.mask[env]), self.now < self.learning_starts
                stretch = self.episodes.begin(env, self.now, start, guided, uniform)
                if env == 0:
                    self.begun(stretch)

    def follow(
        self,
        global_step: int,
        obs: np.ndarray,
        t: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_obs: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> Verdict | None:
        """Take in a step of all environments, mark the episodes that begin, and judge the rule when it is time.

        Args:
            global_step: of the run, before the step.
            obs, t, actions, rewards, next_obs, terminations, truncations: (N, …), of the step; next_obs are the true
                successors.
        """
        verdict, dones = None, terminations | truncations
        self.now, self.t = global_step + self.num_envs, np.where(dones, 0, t + 1)
        for env in range(self.num_envs):
            present, uniform = self.episodes.present[env], global_step < self.learning_starts
            # where a resumed run begins an episode anew
            if anew := present is None or t[env] != present.start + len(present):
                present = self.episodes.begin(env, global_step, int(t[env]), bool(self.mask[env]), uniform)
            present.add(obs[env], actions[env], rewards[env], next_obs[env], sampled=not uniform)
            if anew and env == 0 and not dones[env]:
                self.begun(present)
            if global_step >= self.guide_start:
                self.steps += 1
                self.guided_steps += present.guided
                self.alone += self.policy is not None and not present.guided
            if dones[env]:
                self.episodes.end(env, "terminated" if terminations[env] else "truncated")
                verdict = self._compare(present, global_step) or verdict
                self._mark(env)
            elif self.marked[env] and not present.guided and len(present) >= self.patience:
                self._hand_over(env, followed=True)
                verdict = self._compare(present, global_step) or verdict
        self.open()
        return verdict

    @property
    def patience(self) -> int:
        """P: steps after which a probe goes on with the rule."""
        return FOLLOWED * self.trial.longest or max(self.window // 10, 1)

    def _hand_over(self, env: int, followed: bool = False) -> None:
        """The rule takes an episode over in the middle, a probe after P steps."""
        self.episodes.end(env, "cut", followed)
        self.policy.forget([env])
        self.mask[env], self.marked[env] = True, False

    def _compare(self, stretch: Stretch, global_step: int) -> Verdict | None:
        if self.policy is None or stretch.start or (stretch.guided and not stretch.whole):
            return None
        self.trial.add(stretch, global_step - WINDOWS * self.window)
        return self.trial.look() if self.pairs else None

    def _mark(self, env: int) -> None:
        """An episode begins."""
        self.marked[env] = False
        self.mask[env] = self.policy is not None and self._next_is_guided()
        self.marked[env] = self.policy is not None

    def _next_is_guided(self) -> bool:
        trial = self.trial
        if self.pairs and not trial.looked:
            probes = len(trial.comparable()) if trial.guided else len(trial.probes)
            guided = len(trial.guided) + np.count_nonzero(self.marked & self.mask)
            return bool(guided <= probes + np.count_nonzero(self.marked & ~self.mask))
        return self.alone >= self.share * (self.guided_steps + self.alone)

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint; the rule itself is no part of it."""
        return {
            "mask": self.mask.copy(), "marked": self.marked.copy(), "episodes": self.episodes.state_dict(),
            "trial": self.trial.state_dict(), "now": self.now, "t": self.t.copy(),
            "steps": self.steps, "guided_steps": self.guided_steps, "alone": self.alone,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any], policy: SandboxedPolicy | None) -> None:
        """Go on from there with the rule that acted."""
        self.policy, self.mask[:] = policy, state["mask"] if policy is not None else False
        self.marked[:] = state["marked"] if policy is not None else False
        self.episodes.load_state_dict(state["episodes"])
        self.trial = Trial.from_state(state["trial"] | {"pairs": self.pairs})  # a fork may have others
        self.steps, self.guided_steps, self.alone = state["steps"], state["guided_steps"], state["alone"]
        self.now = state["now"]
        self.t = state["t"]
