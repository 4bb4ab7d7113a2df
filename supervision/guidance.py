"""A rule as training calls it: it knows how far training is, and fails again where it failed in an earlier run."""

import math
from typing import Any

import numpy as np

from supervision.sandbox.messages import CPU_BUDGET, PolicyError
from supervision.sandbox.policy import SandboxedPolicy

# Of a repeated run: whether a rule was in time is the recorded machine's word, and this one may be slower.
PATIENT = {"call_timeout": 60.0, "start_timeout": 60.0}


class Guidance(SandboxedPolicy):
    """A rule that may guide training.

    What ends a rule in training may be the machine's doing: a deadline, a budget, too little memory. So where the run
    is repeated, or goes on from a checkpoint before that, the rule acts until the same step and ends there in the same
    words, whatever would become of it here.

    Args:
        source: Python source that `check_source` accepts.
        repeated: whether the run repeats another, so that no time is too long.
        settings: as for `SandboxedPolicy`.

    Raises:
        As `SandboxedPolicy`.
    """

    def __init__(self, source: str, *, repeated: bool, **settings: Any):
        super().__init__(source, **settings, **(PATIENT if repeated else {"cpu_budget": CPU_BUDGET}))
        self.step = -math.inf  # global step of the next call
        self.failure: tuple[int, str] | None = None  # global step of the call that failed, and what was said of it

    def guide(self, step: float, failure: tuple[int, str] | None) -> None:
        """From this global step on the rule guides, until it fails where and as it did in an earlier run (None: not).

        Args:
            step: −inf where nobody knows; then no failure comes again.
        """
        self.step, self.failure = step, failure

    def __call__(self, obs: np.ndarray, t: np.ndarray, lanes: np.ndarray | None = None) -> np.ndarray:
        if lanes is None:  # else a trial's rows, or those of which `restore` reminds the rule
            if self.failure is not None and self.step >= self.failure[0]:
                self.close()
                raise PolicyError(self.failure[1])
            self.step += len(t)
        return super().__call__(obs, t, lanes)
