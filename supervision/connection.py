"""The way to a model server: one deadline for all of a question, small responses only, no other host, no detour."""

import ipaddress
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

MAX_RESPONSE_BYTES = 4_000_000  # an answer of the longest length, thoughts included, every character as an escape
MAX_ERROR_BYTES = 65_536  # of a refusal; what is behind them is not read
MAX_PARTS = 200_000  # values of a response; a completion has a few dozen, and each takes some hundred bytes of memory
SECRET_PART = re.compile(r"(?<=/)(?=[^/]*(?:\b(?:sk|key|token)[-_]|(?=[a-z]*\d)(?=\d*[a-z])[a-z\d]{16}))[^/]+", re.I)
MASK = "***"


class Cutter:
    """Cuts a question's connections at its deadline, from outside: a client's time-outs are for each read alone, so
    that a server which drips bytes, of the headers too, would keep a thread and a socket.

    Args:
        deadline: on the clock of time.monotonic.
    """

    def __init__(self, deadline: float):
        self.deadline, self.over = deadline, False
        self.lock, self.sockets = threading.Lock(), []
        self.timer = threading.Timer(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX), self.cut)
        self.timer.daemon = True
        self.timer.start()

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Take note of a connection that the client has made (its `trace` of a request)."""
        if event.endswith("connect_tcp.complete"):
            made = info["return_value"].get_extra_info("socket")
            with self.lock:
                self.sockets.append(made.dup())  # of the connection itself, also once TLS is laid over it
            if self.over:
                self.cut()

    def cut(self) -> None:
        """End what is there and what is still to come."""
        with self.lock:
            self.over = True
            for sock in self.sockets:
                with suppress(OSError):  # it has ended by itself
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """There is nothing more to cut."""
        self.timer.cancel()
        with self.lock:
            for sock in self.sockets:
                sock.close()
            self.sockets = []


class Connection:
    """What the client is told to do with requests and responses; one question a thread.

    Args:
        base_url: the server's address.
    """

    def __init__(self, base_url: str):
        self.host = urlsplit(base_url).hostname or ""
        self.status = 0  # HTTP status of the server's last response, that of a retried one included
        self.thread = threading.local()  # of the question that a thread asks: `cutter`, and `refuses`

    def options(self) -> dict[str, Any]:
        """Those of the HTTP client. Loopback never goes through a proxy, whatever HTTP_PROXY says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        options = {"event_hooks": {"request": [self._request], "response": [self._response]}}
        return options | ({"mounts": {f"all://{host}": None}} if is_loopback(self.host) else {})

    def begin(self, deadline: float, refuses: Any = None) -> Cutter:
        """A thread's next question begins.

        Args:
            refuses: tells from a server's words whether it can never take the request, so that the client need not
                repeat it.
        """
        self.thread.cutter, self.thread.refuses = Cutter(deadline), refuses
        return self.thread.cutter

    def _request(self, request: Any) -> None:
        """Let no attempt begin or wait beyond its question's deadline: a server must not work for nobody."""
        left = self.thread.cutter.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the question's deadline has passed")
        request.headers["Accept-Encoding"] = "identity"  # what is small on the wire must not become large here
        request.headers["Connection"] = "close"
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)
        request.extensions["trace"] = self.thread.cutter.watch

    def _response(self, response: Any) -> None:
        """Follow to no other host, bound the body, and repeat nothing that the server will never take."""
        self.status = response.status_code
        if response.has_redirect_location and not _same_server(response.request.url, response.headers["location"]):
            there = response.request.url.join(response.headers["location"])
            raise ValueError(
                f"HTTP {self.status}: the server sends us on to {there.scheme}://{there.netloc.decode()}, where "
                "neither key nor prompt are sent; if that is right, give it as --llm-base-url"
            )
        if (encoding := response.headers.get("content-encoding", "identity").lower()) not in ("identity", "gzip"):
            raise ValueError(f"a response with the encoding {encoding}, which was not asked for")
        self._bound_body(response)
        if self.status >= 500 and self.thread.refuses:
            response.read()
            if self.thread.refuses(said(response)):
                response.headers["x-should-retry"] = "false"

    def _bound_body(self, response: Any) -> None:
        """Let no body go on beyond its question's deadline, however fast or slowly it comes, nor fill the memory."""
        deadline, most = self.thread.cutter.deadline, MAX_RESPONSE_BYTES
        refusal = response.status_code >= 400

        def bounded(chunks: Iterator[bytes]) -> Iterator[bytes]:
            size = 0
            for chunk in chunks:
                size += len(chunk)
                if refusal and size > MAX_ERROR_BYTES:
                    yield chunk[: MAX_ERROR_BYTES - size]
                    response.close()
                    return
                if size > most:
                    raise ValueError(f"a response of more than {most:,} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError("the question's deadline has passed")
                yield chunk

        body = response.iter_bytes
        response.iter_bytes = lambda chunk_size=None: bounded(body(chunk_size))  # what read() takes the body from


def said(response: Any) -> str:
    """What a server says of a request that it refuses. A gateway's page in HTML says nothing of it."""
    return response.text if "json" in response.headers.get("content-type", "") else ""


def decode(response: Any) -> Any:
    """The value of a response in JSON, or its text where it is none.

    Raises:
        ValueError: it is broken, or has more parts than any completion.
        RecursionError: it is nested too deeply.
    """
    text = response.content.decode("utf-8-sig", "replace")
    if "json" not in response.headers.get("content-type", "") and not text.lstrip().startswith(("{", "[")):
        return text
    outside_strings = re.sub(r'"(?:[^"\\]++|\\.)*+"?', "", text, flags=re.DOTALL)
    if sum(map(outside_strings.count, ",[{")) > MAX_PARTS:
        raise ValueError(f"a response of more than {MAX_PARTS:,} parts")
    return json.loads(text)


def _same_server(url: Any, location: str) -> bool:
    """Whether a redirect stays on the server that was asked; from HTTP to HTTPS on the usual ports is no other."""
    there = url.join(location)
    same = (there.scheme, there.host, there.port) == (url.scheme, url.host, url.port)
    return same or (there.host == url.host and (url.scheme, there.scheme) == ("http", "https")
                    and there.port is None and url.port is None)  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or number."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(OSError, UnicodeError):
        host = socket.inet_ntoa(socket.inet_aton(host))  # of short forms too, such as 127.1
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def masked(url: str) -> str:
    """A base URL as it may be shown: what looks like a secret in its path is masked."""
    before, rest = _before_path(url)
    return before + SECRET_PART.sub(MASK, rest)


def secrets_of(url: str) -> list[str]:
    """The parts of a base URL that `masked` masks."""
    return SECRET_PART.findall(_before_path(url)[1])


def _before_path(url: str) -> tuple[str, str]:
    """A URL's scheme, and host and path."""
    scheme, separator, rest = url.partition("://")
    return (scheme + separator, rest) if separator else ("", url)


def check_base_url(url: str) -> None:
    """Raise ValueError for a base URL that is none or holds a secret where none may be."""
    if any(sign in url for sign in "@?#"):
        raise ValueError(
            "--llm-base-url (or OPENAI_BASE_URL) must hold no user name, password or query: give the key in "
            "OPENAI_API_KEY"
        )
    if MASK in url:
        raise ValueError(f"--llm-base-url (or OPENAI_BASE_URL) {url} is masked: give the whole address")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and bool(parts.hostname.encode("idna")) and not re.search(r"\s", url)
    except ValueError:  # a port that is none, a bracket left open, a name that cannot be
        usable = False
    if not usable:
        raise ValueError(
            f"--llm-base-url (or OPENAI_BASE_URL) must look like http://127.0.0.1:8000/v1, not {masked(url)}"
        )
