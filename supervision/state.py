"""What a checkpoint holds of the supervision: plain data, from which a run goes on to the bit."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.texts import say


class Interrupted(Exception):
    """The run is to end while a consultation waits for a model's answer."""


class Deferred:
    """Takes the place of a run's writer during a consultation, which is logged whole or, interrupted, not at all."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple, dict]] = []

    @property
    def file_writer(self) -> "Deferred":
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self.calls.append((name, args, options))

    def write_to(self, writer: Any) -> None:
        """Log what was taken in."""
        for name, args, options in self.calls:
            getattr(writer if hasattr(writer, name) else writer.file_writer, name)(*args, **options)


def state_of(supervisor: Any) -> dict[str, Any]:
    """The state of a `Supervisor` between two consultations; one that goes on is begun again."""
    if supervisor.mode == "none":
        return {"mode": "none"}
    policy, chat = supervisor.policy, supervisor.chat
    return {
        "mode": supervisor.mode, "ended": supervisor.ended, "failures": supervisor.failures,
        "seconds": supervisor.seconds, "consultations": supervisor.consultations, "history": list(supervisor.history),
        "steps": [supervisor.preparing_steps, supervisor.recorder.steps, supervisor.auditions.steps],
        "rule": None if policy is None else {
            "source": policy.source, "memory": policy.memory(), "step": policy.step,
        },
        "guiding": supervisor.guidance is not None, "waiting": supervisor.waiting,
        "chat": None if chat is None else chat.state_dict(),
    }  # fmt: skip


def load_state(supervisor: Any, state: dict[str, Any]) -> None:
    """Bring a prepared `Supervisor` there. One of another kind, in a fork, begins anew, with a consultation."""
    if state["mode"] != supervisor.mode or supervisor.mode == "none":
        supervisor.begin_again = supervisor.mode != "none"
        return
    supervisor.failures, supervisor.seconds = state["failures"], state["seconds"]
    supervisor.consultations, supervisor.ended = state["consultations"], state["ended"]
    supervisor.history.extend(state["history"])
    supervisor.preparing_steps, supervisor.recorder.steps, supervisor.auditions.steps = state["steps"]
    supervisor.begin_again = state["waiting"]
    if supervisor.chat is not None and state["chat"] is not None:
        supervisor.chat.load_state_dict(state["chat"])
    if state["rule"] is None or state["ended"]:
        return
    rule, guiding = state["rule"], state["guiding"]
    try:
        supervisor.policy = supervisor.start(rule["source"])
        supervisor.policy.restore(rule["memory"])
        step = rule.get("step", -math.inf)  # which the first checkpoints lack
        supervisor.policy.guide(step, supervisor.chat.failure if supervisor.chat else None)
        supervisor.guidance = supervisor.policy if guiding else None
    except (PolicyError, SandboxError) as error:
        lost = f"it could not be started again: {error}"
        supervisor.policy = None
        if guiding:
            supervisor.guidance = _failing(lost)
        else:
            say(f"supervisor: the last rule is gone: {lost}")


def _failing(why: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A rule that fails at its first call, where training reports and records it as of any other rule."""

    def fail(obs: np.ndarray, t: np.ndarray) -> np.ndarray:
        raise PolicyError(why)

    return fail
