"""The questions of a run to its models: what was asked, what came back, what it cost, and the record of it."""

import base64
import difflib
import json
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch.utils.tensorboard import SummaryWriter

from supervision.answers import (
    ADVICE_SCHEMA,
    MAX_QUOTED_CHARS,
    Advice,
    SupervisionError,
    gist,
    parse_advice,
    parse_code,
    without_thoughts,
)
from supervision.sandbox.messages import PolicyError, SandboxError
from supervision.texts import for_console


@dataclass
class Question:
    """A conversation whose next turn is a model's."""

    role: Literal["advisor", "coder"]
    model: str
    step: int  # global step of the consultation
    prompt_sha256: str  # of the prompt file
    messages: list[dict[str, str]]  # text turns: system, user, then assistant and user in turn
    pictures: list[tuple[str, bytes]] = field(default_factory=list)  # (what it shows, JPEG), for the first turn

    def answered(self, answer: str, reply: str) -> "Question":
        """The conversation after an answer that was not usable and our reply to it."""
        said = without_thoughts(answer).strip()[:MAX_QUOTED_CHARS] or "(nothing)"  # servers refuse empty turns
        turns = [{"role": "assistant", "content": said}, {"role": "user", "content": reply}]
        return replace(self, messages=self.messages + turns)

    def request(
        self, schema: bool, pictures: bool, system: bool = True, room: dict[str, int] | None = None
    ) -> dict[str, Any]:
        """The arguments of a chat completion, with or without what not every server takes.

        Args:
            system: whether the system text has a turn of its own; else it stands at the head of the first user turn.
            room: for the answer, in tokens, under the name that the server knows.
        """
        messages: list[dict[str, Any]] = list(self.messages)
        first = 1
        if not system:
            head, turn = messages[:2]
            messages[:2], first = [{"role": "user", "content": f"{head['content']}\n\n{turn['content']}"}], 0
        if pictures and self.pictures:
            shown = ", ".join(what for what, _ in self.pictures)
            text = f"{messages[first]['content']}\n\nPictures of steps that are in the tables above, in order: {shown}."
            urls = [f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" for _, jpeg in self.pictures]
            messages[first] = {"role": "user", "content": [{"type": "text", "text": text}]
                               + [{"type": "image_url", "image_url": {"url": url}} for url in urls]}  # fmt: skip
        request = {"model": self.model, "messages": messages, **(room or {})}
        if schema and self.role == "advisor":
            named = {"name": "advice", "strict": True, "schema": ADVICE_SCHEMA}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        return request

    def estimated_usage(self, answer: str, pictures: bool) -> dict[str, Any]:
        """Tokens of the question and of an answer, at four characters each, and 300 for a picture of 512 pixels."""
        asked = sum(len(turn["content"]) for turn in self.messages) // 4 + 300 * pictures * len(self.pictures)
        said = len(answer) // 4
        return {
            "prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said, "estimated": True,
        }  # fmt: skip

    def transcript(self) -> list[str]:
        """The text of the question, line by line; pictures differ from machine to machine and are left out."""
        turns = "\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in self.messages)
        return f"{self.role} at step {self.step}\n{turns}".split("\n")


@dataclass
class Result:
    """What became of a question: an answer or an error."""

    answer: str | None = None
    error: str | None = None
    usage: dict[str, Any] | None = None  # prompt_tokens, completion_tokens, and whether they are our estimate
    refused: list[str] = field(default_factory=list)  # what the server would not have: "schema", "pictures", "system"
    cut: bool = False  # whether the server ended the answer at its limit of tokens
    attempts: list[dict[str, Any]] = field(default_factory=list)  # requests before this one, how put, what came of them
    calls: int = 1  # 0 for a question that was not asked
    seconds: float = 0.0
    final: bool = False  # whether no further question will be asked in the run


class Exchange:
    """A question on its way to a model; it is over when there is a result or the deadline has passed."""

    def __init__(self, question: Question, timeout: float):
        self.question, self.timeout = question, timeout
        self.started = time.monotonic()
        self.done = threading.Event()
        self.result = Result()
        self.attempts: list[dict[str, Any]] = []  # as in the result, while there is none

    def resolve(self, result: Result) -> None:
        """Bring the result."""
        self.result = result
        self.done.set()

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.done.is_set() or time.monotonic() - self.started > self.timeout

    def wait(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Block until it is over; False where the run is to end before."""
        while not self.over:
            if interrupted():
                return False
            self.done.wait(min(0.2, self.started + self.timeout - time.monotonic()))
        return True


@dataclass
class Cost:
    """What the questions to one role took so far."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False  # whether a server did not count its tokens, so that ours are in the sums
    seconds: float = 0.0

    def __str__(self) -> str:
        about = "about " if self.estimated else ""
        return (f"{self.calls} calls, {about}{self.prompt_tokens:,} + {self.completion_tokens:,} tokens, "
                f"{self.seconds / max(self.calls, 1):.1f} s a call")  # fmt: skip


LATER = ("cut", "attempts")  # fields that the first records lack
UNWRITTEN = logging.getLogger("guided_sac.unwritten")  # error(what, reason), info(what) when it was written after all
# words of verdicts
LATE, REFUSED, NOT_TRIED = "took longer than", "refused: ", "not tried: "
IN_TRAINING = re.compile(r"at step (\d+): (.*)", re.DOTALL)  # of a rule that failed while it guided


class Chat:
    """The questions of a run: what they cost, and one JSON file an exchange, its pictures beside it.

    Args:
        log_dir: the folder of these files.
    """

    timeout = math.inf

    def __init__(self, log_dir: Path, asynchronous: bool = False):
        self.log_dir, self.asynchronous = log_dir, asynchronous
        self.costs = {"advisor": Cost(), "coder": Cost()}
        self.closed = ""  # why no further question is asked
        self.path, self.record = log_dir, {}  # of the last exchange
        self.cut = False  # whether the server cut the last answer
        self.number = 0  # of the next exchange
        self.latest: dict[str, Question] = {}  # the last question to each role
        self.waiting: dict[Path, bytes] = {}  # files for which the disk has had no room yet
        # exchanges behind the checkpoint of a run that goes on: question, result, failure of the rule that came of it
        self.paid: deque[tuple[list[str], Result, tuple[int, str] | None]] = deque()
        # where the rule failed in training between the last exchange and the next, in the run that is repeated or was
        # cut off: global step and message
        self.failure: tuple[int, str] | None = None

    def ask(self, question: Question) -> Exchange:
        """Send a question on its way; one that was answered before the run was cut off gets that answer."""
        exchange = Exchange(question, self.timeout)
        self.failure, self.latest[question.role] = None, question
        if self.paid:
            asked, result, failure = self.paid.popleft()
            if asked == question.transcript():
                self.failure = failure
                exchange.resolve(result)
                return exchange
            self.paid.clear()  # from here on it is another run
        self._send(exchange)
        return exchange

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "costs": {role: asdict(cost) for role, cost in self.costs.items()}, "closed": self.closed,
            "number": self.number,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; what was recorded behind it answers the same questions again."""
        self.costs = {role: Cost(**cost) for role, cost in state["costs"].items()}
        self.closed, self.number = state["closed"], state["number"]
        for path in recorded(self.log_dir):
            record = json.loads(path.read_text(encoding="utf-8"))
            if int(path.name.partition("-")[0]) < self.number:
                self.path, self.record, self.failure = path, record, failure_in(record)
            else:
                self.paid.append((transcript_of(record), result_of(record), failure_in(record)))

    def open(self) -> None:
        """Make ready before training."""

    def _send(self, exchange: Exchange) -> None:
        """See to it that the exchange is resolved, now or from another thread."""
        raise NotImplementedError

    def scalars(self) -> dict[str, float]:
        """The costs so far, for TensorBoard."""
        return {
            f"llm/{role}_{name}": value
            for role, cost in self.costs.items()
            for name, value in (
                ("calls", cost.calls), ("prompt_tokens", cost.prompt_tokens),
                ("completion_tokens", cost.completion_tokens), ("seconds", cost.seconds / max(cost.calls, 1)),
            )
        }  # fmt: skip

    def finish(self, exchange: Exchange) -> str:
        """Book and log an exchange that is over (or given up), and return its answer.

        Raises:
            SupervisionError: there is none: a failure of the server, a passed deadline, a spent budget.
        """
        question = exchange.question
        if exchange.done.is_set():
            result = exchange.result
        else:  # what was asked is paid for also where the answer comes too late
            result = Result(
                error=self._silence(exchange), seconds=time.monotonic() - exchange.started,
                usage=question.estimated_usage("", pictures=True), attempts=list(exchange.attempts),
            )  # fmt: skip
        cost = self.costs[question.role]
        cost.calls += result.calls
        cost.seconds += result.seconds
        if result.usage:
            cost.prompt_tokens += result.usage["prompt_tokens"]
            cost.completion_tokens += result.usage["completion_tokens"]
            cost.estimated |= result.usage["estimated"]
        if result.final:
            self.closed = str(result.error)
        self.cut = result.cut
        self._log(question, result)
        if result.answer is None:
            raise SupervisionError(f"the {question.role} ({question.model}): {result.error}")
        return result.answer

    def close(self, exchange: Exchange | None, global_step: int, writer: SummaryWriter) -> None:
        """Say what the questions cost; an answer that is still to come is not waited for."""
        if exchange is not None:
            with suppress(SupervisionError):
                self.finish(exchange)
        summary = "; ".join(f"{role} {cost}" for role, cost in self.costs.items())
        print(f"supervisor: models: {summary}", flush=True)
        writer.add_text("llm/summary", summary, global_step)
        for tag, value in self.scalars().items():
            writer.add_scalar(tag, value, global_step)

    def _silence(self, exchange: Exchange) -> str:
        return f"no answer within {exchange.timeout:g} s" if exchange.over else "given up: the guided time was over"

    def _log(self, question: Question, result: Result) -> None:
        name = f"{self.number:04d}-{question.role}"
        self.number += 1
        names = [f"{name}-frame-{re.sub('[^a-z0-9]+', '-', what)}.jpg" for what, _ in question.pictures]
        for image_name, (_, jpeg) in zip(names, question.pictures, strict=True):
            self._keep(self.log_dir / image_name, jpeg)
        self.path = self.log_dir / f"{name}.json"
        self.record = {
            "role": question.role, "model": question.model, "global_step": question.step,
            "asynchronous": self.asynchronous, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "prompt_sha256": question.prompt_sha256, "messages": question.messages, "images": names,
            **asdict(result), "verdict": None,
        }  # fmt: skip
        self._write()

    def _write(self) -> None:
        self._keep(self.path, json.dumps(self.record, indent=1, ensure_ascii=False).encode())

    def _keep(self, path: Path, content: bytes) -> None:
        """Write a file whole, and what waits since the disk did not take it; no disk's failure leaves this method."""
        self.waiting[path] = content
        while self.waiting:
            path, content = next(iter(self.waiting.items()))
            part = path.with_name(path.name + ".part")
            try:
                self.log_dir.mkdir(parents=True, exist_ok=True)
                part.write_bytes(content)
                part.replace(path)
            except OSError as error:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
                UNWRITTEN.error("exchanges with models", error)
                return
            del self.waiting[path]
        UNWRITTEN.info("exchanges with models")

    def note(self, key: str, value: str) -> None:
        """Add to the record of the last exchange what became of its answer."""
        self.record[key] = value
        self._write()

    def clean(self, text: str) -> str:
        """A server's text as it may be written down: without halves of characters, and without the key."""
        return text.encode("utf-8", "replace").decode("utf-8")

    def advice_in(self, answer: str, has_rule: bool) -> Advice:
        """What the advisor's last answer says; raises as `parse_advice` does, in a repeated run as it was there."""
        self.repeat_failure()
        return parse_advice(answer, has_rule, self.cut)

    def code_in(self, answer: str) -> str:
        """The rule in the coder's last answer; raises as `parse_code` and `repeat_failure` do."""
        self.repeat_failure()
        return parse_code(answer, self.cut)

    def repeat_failure(self) -> None:
        """In a repeated run: raise again what was made of the last answer there.

        Raises:
            SupervisionError: the advisor's answer was refused.
            PolicyError: the coder's rule was refused, or too slow for that machine.
            SandboxError: the rule's process could not be started there.
        """


def recorded(folder: Path) -> list[Path]:
    """The files of a run's exchanges in their order."""
    return sorted(folder.glob("*.json"), key=lambda path: int(path.name.partition("-")[0]))


def transcript_of(record: dict[str, Any]) -> list[str]:
    """The recorded question, as `Question.transcript` has it."""
    names = ("role", "model", "global_step", "prompt_sha256", "messages")
    return Question(*(record[name] for name in names)).transcript()


def result_of(record: dict[str, Any]) -> Result:
    """What became of the recorded question."""
    return Result(**{f.name: record[f.name] for f in fields(Result) if f.name in record or f.name not in LATER})


def failure_in(record: dict[str, Any]) -> tuple[int, str] | None:
    """Where (global step) and how the rule failed in training behind the recorded exchange; None: nowhere.

    With --llm-async another run's windows may begin elsewhere, so there it says nothing.
    """
    found = None if record["asynchronous"] else IN_TRAINING.fullmatch(record.get("rule_failed", ""))
    return (int(found[1]), found[2]) if found else None


class RecordedChat(Chat):
    """The exchanges of an earlier run, in their order; recorded failures fail again.

    Args:
        folder: that run's `llm` folder.

    Raises:
        ValueError: the folder holds no record that can be repeated exactly.
    """

    def __init__(self, folder: Path, log_dir: Path):
        super().__init__(log_dir)
        self.folder, self.used = folder, 0
        try:
            self.records = [json.loads(path.read_text(encoding="utf-8-sig")) for path in recorded(folder)]
            causes = [cause for record in self.records if (cause := self._unrepeatable(record))]
            self.asked = [transcript_of(record) for record in self.records]
            self.results = [result_of(record) for record in self.records]
            self.failures = [failure_in(record) for record in self.records]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"--llm-log {folder} cannot be read: {type(error).__name__}: {error}") from None
        if not self.records:
            raise ValueError(f"--llm-log {folder} holds no exchanges; give the folder runs/<run>/llm of a run")
        if causes:
            raise ValueError(f"--llm-log {folder} cannot be repeated exactly: {causes[0]}")

    @staticmethod
    def _unrepeatable(record: dict[str, Any]) -> str | None:
        """What in an exchange depended on the clock and cannot be made up for."""
        if record["asynchronous"]:
            return "it was recorded with --llm-async, where the time that an answer takes decides when a window begins"
        if failure_in(record):
            return None
        failure = record.get("rule_failed", "")
        return gist(failure) if NOT_TRIED in failure or LATE in failure else None

    def _send(self, exchange: Exchange) -> None:
        if self.used == len(self.records):  # a run that was cut off, say
            error = f"--llm-log {self.folder} ends with question {self.used}"
            exchange.resolve(Result(error=error, calls=0, final=True))
            return
        recorded, asked = self.asked[self.used], exchange.question.transcript()
        result, self.failure = self.results[self.used], self.failures[self.used]
        self.used += 1
        if recorded != asked:
            diff = map(for_console, difflib.unified_diff(recorded, asked, "recorded", "now", n=1, lineterm=""))
            raise SystemExit(
                f"error: question {self.used} is not the one of --llm-log {self.folder}; flags, prompts or code "
                "are others than in that run:\n" + "\n".join(diff)
            )
        exchange.resolve(result)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"used": self.used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.paid.clear()  # the record that is repeated has them
        self.used = state["used"]
        self.failure = self.failures[self.used - 1] if self.used else None

    def repeat_failure(self) -> None:
        record = self.records[self.used - 1]
        verdict = record["verdict"] or ""
        if verdict.startswith(NOT_TRIED):
            raise SandboxError(verdict.removeprefix(NOT_TRIED))
        if record["role"] == "advisor" and verdict.startswith(REFUSED):
            raise SupervisionError(verdict.removeprefix(REFUSED))
        said = verdict.removeprefix(REFUSED)
        if said != verdict:
            raise PolicyError(said)
