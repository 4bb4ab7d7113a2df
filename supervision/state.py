"""What a checkpoint holds of the supervision: plain data, from which a run goes on to the bit."""

from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

from supervision.chat import Question
from supervision.episodes import Stretch, packed, unpacked
from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.texts import say


@dataclass
class Known:
    """A rule that a trial found good, to which the supervisor may return."""

    source: str
    guided: deque[Stretch]  # the episodes that it guided last


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
    policy, chat, good, asked = supervisor.policy, supervisor.chat, supervisor.good, supervisor.asked
    return {
        "mode": supervisor.mode, "ended": supervisor.ended, "failures": supervisor.failures,
        "seconds": supervisor.seconds, "consultations": supervisor.consultations, "history": list(supervisor.history),
        "rule": None if policy is None else {"source": policy.source, "memory": policy.memory()},
        "good": None if good is None else {"source": good.source, "guided": [packed(s) for s in good.guided]},
        "asked": None if asked is None else asdict(replace(asked, pictures=[])),
        "mend": supervisor.mend, "ends": supervisor.ends, "unseen": supervisor.unseen,
        "guiding": supervisor.guiding is not None, "guidance": supervisor.guidance.state_dict(),
        "waiting": supervisor.waiting, "chat": None if chat is None else chat.state_dict(),
    }  # fmt: skip


def load_state(supervisor: Any, state: dict[str, Any]) -> None:
    """Bring a prepared `Supervisor` there. One of another kind, in a fork, begins anew, with a consultation."""
    if state["mode"] != supervisor.mode or supervisor.mode == "none":
        supervisor.begin_again = supervisor.mode != "none"
        return
    supervisor.failures, supervisor.seconds = state["failures"], state["seconds"]
    supervisor.consultations, supervisor.ended = state["consultations"], state["ended"]
    supervisor.history.extend(state["history"])
    supervisor.mend, supervisor.ends, supervisor.unseen = state["mend"], state["ends"], state["unseen"]
    if state["good"] is not None:
        supervisor.good = Known(state["good"]["source"], deque(map(unpacked, state["good"]["guided"])))
    if state["asked"] is not None:
        supervisor.asked = Question(**state["asked"])
    supervisor.begin_again = state["waiting"]
    if supervisor.chat is not None and state["chat"] is not None:
        supervisor.chat.load_state_dict(state["chat"])
    if state["rule"] is not None and not state["ended"]:
        try:
            supervisor.policy = supervisor.start(state["rule"]["source"])
            supervisor.policy.restore(state["rule"]["memory"])
        except (PolicyError, SandboxError) as error:
            supervisor.policy = None
            say(f"supervisor: the rule could not be started again, unguided until the next window: {error}")
    supervisor.guidance.load_state_dict(state["guidance"], supervisor.policy if state["guiding"] else None)
