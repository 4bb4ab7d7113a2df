"""Models behind an OpenAI-compatible endpoint: each question with one deadline, whatever the server does."""

import math
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from supervision.answers import MAX_ANSWER_CHARS, gist
from supervision.chat import Chat, Exchange, Question, Result
from supervision.connection import Connection, check_base_url, decode, masked, said, secrets_of
from supervision.key import FILE, VARIABLE, forget_key, key_is_given, read_key
from supervision.texts import say

PROBE_SECONDS = 5.0
# what servers say of pictures that they do not take: llama.cpp and Ollama "image input", vLLM "not a multimodal model",
# DeepSeek "unknown variant `image_url`", Groq "content must be a string"
NO_PICTURES = re.compile(r"\bimage|\bvision\b|\bvisual|multi-?modal|content\W+must be a string", re.I)
# and of more than they take: vLLM "At most 1 image(s) may be provided", "You set image=1", Ollama "only supports a
# single image", Groq "Too many images provided. This model supports up to 5 images"
HOW_MANY = re.compile(
    r"(?:at most|up to|maximum|max|limit|only|exceed)[^.]{0,40}?\b(?P<n>\d+|one|single)\W+(?:images?|pictures?)\b"
    r"|\bimages?(?:_count)?\s*[=:]\s*(?P<set>\d+)",
    re.I,
)
TOO_MANY = re.compile(r"too many (?:images|pictures)|(?:multiple|more than one) images?\b", re.I)
NO_SCHEMA = re.compile(r"response_?format|json_?schema|grammar|structured", re.I)
TOO_LONG = re.compile(r"\bcontext|too (long|large)|\btokens\b", re.I)  # this question, not every one with pictures
# Gemma's templates "System role not supported", Mistral's "Only user and assistant roles are supported", both "roles
# must alternate", OpenAI "'messages[0].role' does not support 'system'"
NO_SYSTEM = re.compile(
    r"system\W{0,3}(?:role|message|prompt|turn|instruction)s?\b.{0,40}?\b(?:not|un\w+|only)\b|roles? must alternate"
    r"|only user and (?:assistant|model) roles|(?:not|un\w+|invalid)\b.{0,60}?\brole\b.{0,20}?\bsystem\b"
    r"|\brole\b.{0,40}?\bnot support.{0,20}?\bsystem\b",
    re.I,
)
NOT_FOUND = " (does the server have this model, and is --llm-base-url its address up to /v1 and no further?)"
ROOMS = (16_384, 8_192, 4_096)  # tokens for an answer, asked for where a server's own limit cut one


@dataclass(frozen=True)
class Way:
    """How a question is put to a server."""

    schema: bool
    pictures: int  # of the question's, at most
    system: bool  # whether the system text has a turn of its own
    room: int | None = None  # tokens for the answer; None: the server's own limit
    room_name: str = "max_tokens"

    def request(self, question: Question) -> dict[str, Any]:
        """The arguments of a chat completion."""
        shown = replace(question, pictures=few(question.pictures, self.pictures))
        room = {self.room_name: self.room} if self.room else None
        return shown.request(self.schema, bool(shown.pictures), self.system, room)

    def refuses(self, text: str) -> bool:
        """Whether a server's words tell that it will never take such a request."""
        return bool((self.pictures and NO_PICTURES.search(text)) or (self.system and NO_SYSTEM.search(text)))

    def record(self, answer: str | None = None, error: str | None = None) -> dict[str, Any]:
        """An attempt for the record, with what came of it."""
        put = {"schema": self.schema, "pictures": self.pictures, "system": self.system, "max_tokens": self.room}
        return put | {"answer": answer, "error": error}


def a_server_is_named(args: Any) -> bool:
    """Whether flags or environment tell of a key or an address."""
    return bool(args.llm_base_url or os.environ.get("OPENAI_BASE_URL") or key_is_given())


def few(pictures: list[tuple[str, bytes]], most: int) -> list[tuple[str, bytes]]:
    """So many of the pictures, evenly spaced; of one only, the last."""
    if len(pictures) <= most:
        return pictures
    step = (len(pictures) - 1) / (most - 1) if most > 1 else 0.0
    return [pictures[-1 - round(i * step)] for i in range(most)][::-1]


def in_thread(function: Callable[[], None]) -> threading.Thread:
    """Start a function in a thread that nobody has to wait for."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _said(error: Exception) -> str:
    """An error with the server's own words, of which the client's message has a part, or with its cause."""
    if hasattr(error, "response"):
        hint = NOT_FOUND if error.status_code == 404 else ""
        return f"{type(error).__name__}: HTTP {error.status_code}: {error.response.text.strip()}{hint}"
    return f"{type(error).__name__}: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")


class ChatModel(Chat):
    """Questions to an OpenAI-compatible endpoint, with one deadline for each.

    Args:
        args: the flags of SupervisorArgs.

    Raises:
        ValueError: neither a key nor a base URL is set, or one of them cannot be.
    """

    def __init__(self, args: Any, log_dir: Path):
        super().__init__(log_dir, args.llm_async)
        base_url = args.llm_base_url or os.environ.get("OPENAI_BASE_URL") or None
        if not a_server_is_named(args):
            raise ValueError(
                f"--supervisor llm needs a key in {VARIABLE} or {FILE}, or the address of a server that wants none in "
                "--llm-base-url or OPENAI_BASE_URL"
            )
        if base_url:
            check_base_url(base_url)
        self.key = read_key()
        self.secrets = secrets_of(base_url or "")
        if args.llm_base_url:
            args.llm_base_url = masked(args.llm_base_url)  # what a run's settings show
        import openai  # 1 s of import, only where a model is asked

        self.timeout, self.vision = args.llm_timeout, args.advisor_vision
        self.max_calls, self.max_tokens = args.llm_max_calls, args.llm_max_tokens
        self.schema = True  # until the server refuses it
        self.most_pictures = math.inf  # until it tells how many it takes
        self.no_system: set[str] = set()  # models that want no system turn
        self.openai = openai
        self.connection = Connection(base_url or "")
        self.client = openai.OpenAI(
            api_key=self.key or "none", base_url=base_url, timeout=self.timeout,
            max_retries=int(math.log2(1 + self.timeout)),  # waits of 0.5, 1, 2, 4, 8, 8, … s: at most half the deadline
            http_client=openai.DefaultHttpxClient(**self.connection.options()),
        )  # fmt: skip

    def open(self) -> None:
        """Ask for the list of models, which costs nothing, to learn of a wrong key before training; hide the key.

        Raises:
            ValueError: the server refuses the key. Any other failure is passed over: many servers lack the list, and
                one that is not up yet may come up later.
        """
        refusals: list[str] = []

        def ask() -> None:
            cutter = self.connection.begin(time.monotonic() + PROBE_SECONDS)
            try:
                client = self.client.with_options(timeout=PROBE_SECONDS, max_retries=0)
                client.models.with_raw_response.list()
            except Exception as error:  # a server may make the client raise anything
                if getattr(error, "status_code", 0) in (401, 403):
                    refusals.append(_said(error))
            finally:
                cutter.close()

        in_thread(ask).join(PROBE_SECONDS)
        if refusals:
            what = "refuses the key in OPENAI_API_KEY" if self.key else "wants a key: set OPENAI_API_KEY"
            raise ValueError(f"the model server {what}: {gist(self.clean(refusals[0]))}")
        forget_key()  # no process that this one starts inherits it, and none can read it from this one's environment

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "schema": self.schema, "vision": self.vision, "most_pictures": self.most_pictures,
            "no_system": sorted(self.no_system),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if "schema" in state:  # else it is that of a repeated run
            self.schema, self.most_pictures = state["schema"], state["most_pictures"]
            self.no_system = set(state["no_system"])
            self.vision = state["vision"] if self.vision == "auto" else self.vision

    def _budget(self, calls: int = 0, tokens: int = 0) -> str:
        """Why no further question may be asked, with so many calls and tokens that are not booked yet; "" if it may."""
        calls += sum(cost.calls for cost in self.costs.values())
        tokens += sum(cost.prompt_tokens + cost.completion_tokens for cost in self.costs.values())
        for spent, budget, what in ((calls, self.max_calls, "calls"), (tokens, self.max_tokens, "tokens")):
            if budget is not None and spent >= budget:
                return f"the budget is spent ({spent:,} {what}, --llm-max-{what} {budget})"
        return ""

    def _send(self, exchange: Exchange) -> None:
        if error := self._budget():
            exchange.resolve(Result(error=error, calls=0, final=True))
            return
        question, deadline = exchange.question, exchange.started + exchange.timeout
        question.pictures = few(question.pictures, 0 if self.vision == "off" else self.most_pictures)

        def answer() -> None:
            cutter = self.connection.begin(deadline)
            try:
                result = self._answer(question, exchange.attempts, deadline)
            except Exception as error:  # whatever a server makes the client raise, no failure of it may end the run
                if exchange.over:  # the client too knows the deadline; who waits for the answer tells of it
                    return
                result = Result(error=_said(error), final=getattr(error, "status_code", 0) in (401, 403))
            finally:
                cutter.close()
            if result.error:
                result.error = gist(self.clean(result.error), 500)
            result.attempts = exchange.attempts
            result.seconds = time.monotonic() - exchange.started
            exchange.resolve(result)

        self.connection.status = 0
        in_thread(answer)

    def _answer(self, question: Question, attempts: list[dict[str, Any]], deadline: float) -> Result:
        """Ask, and ask again: in a plainer way where the server refuses what not every one takes, and with room for
        the answer where it was cut."""
        way = Way(self.schema and question.role == "advisor", len(question.pictures),
                  question.model not in self.no_system)  # fmt: skip
        cut: Result | None = None  # the answer that the server cut
        usages: list[dict[str, Any]] = []
        too_long, started = False, time.monotonic()
        while True:
            self.connection.thread.refuses = way.refuses
            try:
                raw = self.client.chat.completions.with_raw_response.create(**way.request(question)).http_response
                response = decode(raw)
            except (self.openai.APIError, ValueError, RecursionError) as error:
                plainer = self._plainer(way, error)
                if plainer is None and cut is None:
                    raise
                attempts.append(way.record(error=gist(self.clean(_said(error)), 500)))
                if plainer is None:
                    break
                too_long |= 0 == plainer.pictures < way.pictures and bool(TOO_LONG.search(said(error.response)))
                way = plainer
                continue
            result = self._read(response, replace(question, pictures=few(question.pictures, way.pictures)))
            usages.append(result.usage)
            self._remember(way, question, too_long)
            used = sum(usage["total_tokens"] for usage in usages)
            late = time.monotonic() - started > deadline - time.monotonic()  # it would take as long again
            if not result.cut or cut is not None or late or self._budget(len(usages), used):
                cut = result
                break
            attempts.append(way.record(answer=result.answer, error=result.error))
            cut, way = result, replace(way, room=ROOMS[0])
        result = cut
        result.calls, result.refused = len(usages), self._refused(way, question)
        result.usage = {name: sum(usage[name] for usage in usages) for name in usages[0]}
        result.usage["estimated"] = any(usage["estimated"] for usage in usages)
        return result

    def _plainer(self, way: Way, error: Exception) -> Way | None:
        """The way in which to ask next, after a server's refusal; None: there is none, or it would not help."""
        status = getattr(error, "status_code", 0)
        if status in (0, 401, 403, 408, 409, 429):
            return None
        text = said(error.response)
        if way.room:
            if "max_completion_tokens" in text and way.room_name == "max_tokens":
                return replace(way, room_name="max_completion_tokens")
            smaller = [room for room in ROOMS if room < way.room]
            return replace(way, room=smaller[0]) if smaller and status in (400, 422) else None
        about_schema, about_pictures = NO_SCHEMA.search(text), NO_PICTURES.search(text) or TOO_LONG.search(text)
        if way.system and NO_SYSTEM.search(text):
            return replace(way, system=False)
        if way.pictures and self.vision == "auto" and (HOW_MANY.search(text) or TOO_MANY.search(text)):
            return replace(way, pictures=_how_many(text, way.pictures))
        if way.schema and (about_schema or not (way.pictures and about_pictures)):
            return replace(way, schema=False)
        if way.pictures and self.vision == "auto" and (about_pictures or status in (400, 413, 422)):
            return replace(way, pictures=0)
        return None

    def _remember(self, way: Way, question: Question, too_long: bool) -> None:
        """Ask at once in the way that the server takes, from the next question on."""
        if question.role == "advisor" and not way.schema:
            self.schema = False
        if not way.system:
            self.no_system.add(question.model)
        if way.pictures == len(question.pictures) or too_long:
            return
        if way.pictures:
            self.most_pictures, told = way.pictures, f"at most {way.pictures} pictures"
        else:
            self.vision, told = "off", "no pictures: states only from now on"
        say(f"supervisor: {question.model} takes {told}")

    @staticmethod
    def _refused(way: Way, question: Question) -> list[str]:
        """What the server would not have."""
        refused = {
            "schema": question.role == "advisor" and not way.schema,
            "pictures": way.pictures < len(question.pictures),
            "system": not way.system,
        }
        return [name for name, it_did in refused.items() if it_did]

    def _read(self, response: Any, question: Question) -> Result:
        """The text of a response, whose parts may all be missing or of another type than documented."""
        result, choice, content, refusal = Result(), {}, None, None
        try:
            choice = response["choices"][0]
            content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        except (AttributeError, IndexError, KeyError, TypeError):
            result.error = f"the response is no chat completion: {response}"
        if isinstance(content, list):  # of parts
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "".join(text for text in texts if isinstance(text, str))
        answer = self.clean(content) if isinstance(content, str) else ""
        usage = response.get("usage") if isinstance(response, dict) else None
        usage = usage if isinstance(usage, dict) else {}
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if all(isinstance(n, int) and 0 <= n < 2**31 for n in tokens):
            result.usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens),
                            "estimated": False}  # fmt: skip
        else:
            result.usage = question.estimated_usage(answer, pictures=True)
        finish = choice.get("finish_reason") if isinstance(choice, dict) else None
        result.cut = str(finish).lower() in ("length", "max_tokens")
        if not result.error and not answer.strip():
            reason = f"refused: {refusal}" if refusal else f"finish reason: {finish}"
            result.error = f"an empty answer ({reason})"
            if result.cut:
                result.error += ": the server's limit of tokens ended it before it began"
        elif len(answer) > MAX_ANSWER_CHARS:
            result.error = f"an answer of {len(answer):,} characters, more than {MAX_ANSWER_CHARS:,}: {answer[:100]}"
        elif not result.error:
            result.answer = answer
        return result

    def clean(self, text: str) -> str:
        if len(self.key) >= 8:  # a shorter one ("none", "EMPTY") is a placeholder, and may be a word of a rule
            text = text.replace(self.key, "[key]")
        for secret in self.secrets:
            text = text.replace(secret, "[secret]")
        return super().clean(text)

    def _silence(self, exchange: Exchange) -> str:
        status = self.connection.status
        return super()._silence(exchange) + (f"; the last response was HTTP {status}" if status not in (0, 200) else "")


def _how_many(text: str, shown: int) -> int:
    """How many pictures a server takes that refuses so many: what it says, else half as many."""
    match = HOW_MANY.search(text)
    number = (match["n"] or match["set"]) if match else ""
    taken = int(number) if number.isdigit() else 1 if number else shown // 2
    return taken if taken < shown else shown // 2
