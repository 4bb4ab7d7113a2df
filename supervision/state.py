"""What a checkpoint holds of the supervision: plain data, from which a run goes on to the bit."""

from dataclasses import asdict, replace
from typing import Any

from supervision.chat import Question
from supervision.consultation import Known
from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.texts import say
from supervision.trial import Trial, Verdict


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
        self.calls = []


def state_of(supervisor: Any) -> dict[str, Any]:
    """The state of a `Supervisor` between two consultations; one that goes on is begun again."""
    if supervisor.mode == "none":
        return {"mode": "none"}
    chat, held = supervisor.chat, supervisor.consultations
    rule, good, asked = held.rule, held.good, held.asked
    return {
        "mode": supervisor.mode, "files": files_of(supervisor), "ended": supervisor.ended,
        "seconds": supervisor.seconds, "count": held.count,
        "failures": held.failures, "ends": held.ends, "mend": held.mend, "history": list(held.history),
        "rule": None if rule is None else {"source": rule.source, "memory": rule.memory()},
        "verdict": None if held.verdict is None else asdict(held.verdict),
        "good": None if good is None else {"source": good.source, "trial": good.trial.state_dict()},
        "good_guides": good is not None and good.trial is supervisor.guidance.trial,
        "asked": None if asked is None else asdict(replace(asked, pictures=[])),
        "guiding": supervisor.guiding is not None, "guidance": supervisor.guidance.state_dict(),
        "waiting": supervisor.waiting, "active": supervisor.active, "unseen": supervisor.unseen,
        "facts": None if held.questions is None else dict(held.questions.facts),
        "chat": None if chat is None else chat.state_dict(), "report": supervisor.report.state_dict(),
        "camera": supervisor.camera.state_dict(),
    }  # fmt: skip


def files_of(supervisor: Any) -> list[str | None]:
    """Where a rule that no model writes, or the prompts, are from."""
    return [supervisor.args.guide_policy, supervisor.args.prompt_dir]


def load_state(supervisor: Any, state: dict[str, Any]) -> None:
    """Bring a prepared `Supervisor` there. A fork's of another kind or rule begins anew, with a consultation."""
    if (state["mode"], state.get("files")) != (supervisor.mode, files_of(supervisor)) or supervisor.mode == "none":
        supervisor.begin_again = supervisor.mode != "none"
        return
    held = supervisor.consultations
    for name in ("report", "camera"):  # the first checkpoints lack them
        if name in state:
            getattr(supervisor, name).load_state_dict(state[name])
    supervisor.seconds, supervisor.ended = state["seconds"], state["ended"]
    supervisor.begin_again, supervisor.unseen = state["waiting"], state["unseen"]
    supervisor.active = tuple(state["active"])
    held.count, held.failures, held.ends, held.mend = (state[name] for name in ("count", "failures", "ends", "mend"))
    held.history.extend(state["history"])
    held.verdict = None if state["verdict"] is None else Verdict(**state["verdict"])
    if held.questions is not None and state["facts"] is not None:
        held.questions.facts = dict(state["facts"])
    if state["good"] is not None:
        held.good = Known(state["good"]["source"], Trial.from_state(state["good"]["trial"]))
    held.asked = Question(**state["asked"]) if state["asked"] else None
    if supervisor.chat is not None and state["chat"] is not None:
        supervisor.chat.load_state_dict(state["chat"])
    if state["rule"] is not None and not state["ended"]:
        try:
            held.rule = supervisor.start(state["rule"]["source"])
            held.rule.restore(state["rule"]["memory"])
        except (PolicyError, SandboxError) as error:
            held.rule, lost = None, f"it could not be started again: {error}"
            if state["guiding"]:  # reported and recorded behind the first step, as of any other rule
                supervisor.guidance.failure = PolicyError(lost)
            else:
                say(f"supervisor: the last rule is gone: {lost}")
    supervisor.guidance.load_state_dict(state["guidance"], held.rule if state["guiding"] else None)
    if state["good_guides"]:
        held.good.trial = supervisor.guidance.trial
    supervisor.guidance.recorded = supervisor.chat.failure if supervisor.chat is not None else None
