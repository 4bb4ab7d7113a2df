"""Models behind an OpenAI-compatible endpoint: each question with one deadline, whatever the server does."""

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from supervision.answers import MAX_ANSWER_CHARS, gist
from supervision.chat import Chat, Exchange, Question, Result

PROBE_SECONDS = 5.0
# what servers say of pictures that they do not take: llama.cpp and Ollama "image input", vLLM "not a multimodal model",
# DeepSeek "unknown variant `image_url`", Groq "content must be a string"
NO_PICTURES = re.compile(r"\bimage|\bvision\b|\bvisual|multi-?modal|content\W+must be a string", re.I)
NO_SCHEMA = re.compile(r"response_?format|json_?schema|grammar|structured", re.I)
TOO_LONG = re.compile(r"\bcontext|too (long|large)|\btokens\b", re.I)  # this question, not every one with pictures
MAX_RESPONSE_BYTES = 20_000_000


def in_thread(function: Callable[[], None]) -> threading.Thread:
    """Start a function in a thread that nobody has to wait for: the client's time-out is per read, ours for all."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _refusal(response: Any) -> str:
    """What a server says of a request that it refuses. A gateway's page in HTML says nothing of it."""
    return response.text if "json" in response.headers.get("content-type", "") else ""


def _said(error: Exception) -> str:
    """An error with the server's own words, of which the client's message has a part, or with its cause."""
    if hasattr(error, "response"):
        return f"{type(error).__name__}: HTTP {error.status_code}: {error.response.text.strip()}"
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
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key and not base_url:
            raise ValueError(
                "--supervisor llm needs a key in OPENAI_API_KEY, or the address of a server that wants none in "
                "--llm-base-url or OPENAI_BASE_URL"
            )
        if not re.fullmatch(r"[!-~]*", self.key):
            raise ValueError("OPENAI_API_KEY must be one word of ASCII characters; it holds a space or another sign")
        if base_url:
            check_base_url(base_url)
        import openai  # 1 s of import, only where a model is asked

        self.timeout, self.vision = args.llm_timeout, args.advisor_vision
        self.max_calls, self.max_tokens = args.llm_max_calls, args.llm_max_tokens
        self.schema = True  # until the server refuses it
        self.status = 0  # HTTP status of the server's last response, that of a retried one included
        self.openai = openai
        self.client = openai.OpenAI(
            api_key=self.key or "none", base_url=base_url, timeout=self.timeout,
            max_retries=int(math.log2(1 + self.timeout)),  # waits of 0.5, 1, 2, 4, 8, 8, … s: at most half the deadline
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._keep_deadline], "response": [self._bound_body, self._judge_status]}
            ),
        )  # fmt: skip
        self.thread = threading.local()  # of the question which a thread asks: its deadline, and whether with pictures

    def _keep_deadline(self, request: Any) -> None:
        """Let no attempt begin or wait beyond its question's deadline: a server must not work for nobody."""
        if (deadline := getattr(self.thread, "deadline", None)) is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the question's deadline has passed")
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)

    def _bound_body(self, response: Any) -> None:
        """Let no body go on beyond its question's deadline, however fast or slowly it comes, nor fill the memory."""

        def bounded(chunks: Iterator[bytes]) -> Iterator[bytes]:
            size = 0
            for chunk in chunks:
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    raise ValueError(f"a response of more than {MAX_RESPONSE_BYTES:,} bytes")
                if time.monotonic() > getattr(self.thread, "deadline", math.inf):
                    raise TimeoutError("the question's deadline has passed")
                yield chunk

        body = response.iter_bytes
        response.iter_bytes = lambda chunk_size=None: bounded(body(chunk_size))  # what read() takes the body from

    def _judge_status(self, response: Any) -> None:
        """Note a response's status; where it refuses pictures with a 5xx (llama.cpp), tell the client not to repeat."""
        self.status = response.status_code
        if self.status >= 500 and getattr(self.thread, "pictures", False):
            response.read()
            if NO_PICTURES.search(_refusal(response)):
                response.headers["x-should-retry"] = "false"

    def open(self) -> None:
        """Ask for the list of models, which costs nothing, to learn of a wrong key before training; hide the key.

        Raises:
            ValueError: the server refuses the key. Any other failure is passed over: many servers lack the list, and
                one that is not up yet may come up later.
        """
        refusals: list[str] = []

        def ask() -> None:
            try:
                self.client.with_options(timeout=PROBE_SECONDS, max_retries=0).models.list()
            except Exception as error:  # a server may make the client raise anything
                if getattr(error, "status_code", 0) in (401, 403):
                    refusals.append(_said(error))

        in_thread(ask).join(PROBE_SECONDS)
        if refusals:
            what = "refuses the key in OPENAI_API_KEY" if self.key else "wants a key: set OPENAI_API_KEY"
            raise ValueError(f"the model server {what}: {gist(self.clean(refusals[0]))}")
        os.environ.pop("OPENAI_API_KEY", None)  # no process that this one starts inherits it

    def _send(self, exchange: Exchange) -> None:
        calls = sum(cost.calls for cost in self.costs.values())
        tokens = sum(cost.prompt_tokens + cost.completion_tokens for cost in self.costs.values())
        for spent, budget, what in ((calls, self.max_calls, "calls"), (tokens, self.max_tokens, "tokens")):
            if budget is not None and spent >= budget:
                error = f"the budget is spent ({spent:,} {what}, --llm-max-{what} {budget})"
                exchange.resolve(Result(error=error, calls=0, final=True))
                return
        if self.vision == "off":
            exchange.question.pictures = []

        def answer() -> None:
            self.thread.deadline = exchange.started + exchange.timeout
            try:
                result = self._answer(exchange.question)
            except Exception as error:  # whatever a server makes the client raise, no failure of it may end the run
                if exchange.over:  # the client too knows the deadline; who waits for the answer tells of it
                    return
                result = Result(error=_said(error), final=getattr(error, "status_code", 0) in (401, 403))
            if result.error:
                result.error = gist(self.clean(result.error), 500)
            result.seconds = time.monotonic() - exchange.started
            exchange.resolve(result)

        self.status = 0
        in_thread(answer)

    def _answer(self, question: Question) -> Result:
        """Ask, and ask again in a plainer way where the server refuses the JSON schema or the pictures."""
        schema, pictures, too_long = self.schema and question.role == "advisor", bool(question.pictures), None
        while True:
            self.thread.pictures = pictures
            try:
                response = self.client.chat.completions.create(**question.request(schema, pictures))
                break
            except self.openai.APIStatusError as error:
                said = _refusal(error.response)
                too_long = TOO_LONG.search(said)
                about_schema, about_pictures = NO_SCHEMA.search(said), NO_PICTURES.search(said) or too_long
                if error.status_code in (401, 403, 408, 409, 429):
                    raise
                if schema and (about_schema or not (pictures and about_pictures)):
                    schema = False
                elif pictures and self.vision == "auto" and (about_pictures or error.status_code in (400, 413, 422)):
                    pictures = False
                else:
                    raise
        result = self._read(response, question, pictures)
        if question.role == "advisor" and not schema:
            self.schema = False
            result.refused.append("schema")
        if question.pictures and not pictures:
            result.refused.append("pictures")
            if not too_long:
                self.vision = "off"
                print(f"supervisor: {question.model} takes no pictures: states only from now on", flush=True)
        return result

    def _read(self, response: Any, question: Question, pictures: bool) -> Result:
        """The text of a response, whose parts may all be missing or of another type than documented."""
        result, choice, content, refusal = Result(), None, None, None
        try:
            choice = response.choices[0]
            content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
        except (AttributeError, IndexError, KeyError, TypeError):
            result.error = f"the response is no chat completion: {response}"
        if isinstance(content, list):  # of parts
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "".join(text for text in texts if isinstance(text, str))
        answer = self.clean(content) if isinstance(content, str) else ""
        usage = getattr(response, "usage", None)
        tokens = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        if all(isinstance(n, int) and 0 <= n < 2**31 for n in tokens):
            result.usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens),
                            "estimated": False}  # fmt: skip
        else:
            result.usage = question.estimated_usage(answer, pictures)
        if not result.error and not answer.strip():
            reason = f"refused: {refusal}" if refusal else f"finish reason: {getattr(choice, 'finish_reason', None)}"
            result.error = f"an empty answer ({reason})"
        elif len(answer) > MAX_ANSWER_CHARS:
            result.error = f"an answer of {len(answer):,} characters, more than {MAX_ANSWER_CHARS:,}: {answer[:100]}"
        elif not result.error:
            result.answer = answer
        return result

    def clean(self, text: str) -> str:
        if len(self.key) >= 8:  # a shorter one ("none", "EMPTY") is a placeholder, and may be a word of a rule
            text = text.replace(self.key, "[key]")
        return super().clean(text)

    def _silence(self, exchange: Exchange) -> str:
        status = f"; the last response was HTTP {self.status}" if self.status not in (0, 200) else ""
        return super()._silence(exchange) + status


def check_base_url(url: str) -> None:
    """Raise ValueError for a base URL that is none or holds a secret."""
    if any(sign in url for sign in "@?#"):
        raise ValueError(
            "--llm-base-url (or OPENAI_BASE_URL) must hold no user name, password or query: give the key in "
            "OPENAI_API_KEY"
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and bool(parts.hostname.encode("idna")) and not re.search(r"\s", url)
    except ValueError:  # a port that is none, a bracket left open, a name that cannot be
        usable = False
    if not usable:
        raise ValueError(f"--llm-base-url (or OPENAI_BASE_URL) must look like http://127.0.0.1:8000/v1, not {url}")
