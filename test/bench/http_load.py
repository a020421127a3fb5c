"""Keep-alive HTTP callers: each asks, waits for the answer, and asks again.

As little work as possible for each question, so that it is the daemon that is measured.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from test.bench.figures import Sample


class HttpLoad:
    """Many callers of one daemon on loopback; `requests` are whole ones, asked in turn."""

    def __init__(
        self,
        *,
        port: int,
        requests: Sequence[bytes],
        expected: bytes,
        callers: int,
        seconds: float,
        warm: Callable[[], None],
    ) -> None:
        self.requests = requests
        self.expected = expected
        self.latencies: list[float] = []
        self.failures: Counter[str] = Counter()
        self.deadline = 0.0
        self._port = port
        self._count = callers
        self._seconds = seconds
        self._warm = warm

    def run(self, reactor: Any) -> Deferred[Sample]:
        """Connect all callers, have each ask once unmeasured, then measure."""
        return Deferred.fromCoroutine(self._run(reactor))

    async def _run(self, reactor: Any) -> Sample:
        callers = [Caller(self, number) for number in range(self._count)]
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        for caller in callers:
            await connectProtocol(endpoint, caller)
        for caller in callers:
            await caller.is_warm
        self._warm()
        began = time.perf_counter()
        self.deadline = began + self._seconds
        for caller in callers:
            caller.ask()
        for caller in callers:
            await caller.has_ended
        return Sample(
            seconds=time.perf_counter() - began,
            latencies=self.latencies,
            failures=dict(self.failures),
        )


class Caller(Protocol):
    """One connection; the first question only warms it."""

    def __init__(self, load: HttpLoad, number: int) -> None:
        self.is_warm: Deferred[None] = Deferred()
        self.has_ended: Deferred[None] = Deferred()
        self._load = load
        self._next = number
        self._received = b""
        self._missing: int | None = None
        self._asked = 0.0

    def connectionMade(self) -> None:
        """Warm up."""
        assert self.transport is not None
        self.transport.setTcpNoDelay(True)  # type: ignore[attr-defined]
        self.ask()

    def ask(self) -> None:
        """Send the next request."""
        assert self.transport is not None
        request = self._load.requests[self._next % len(self._load.requests)]
        self._next += 1
        self._asked = time.perf_counter()
        self.transport.write(request)

    def dataReceived(self, data: bytes) -> None:
        """Part of an answer."""
        self._received += data
        if self._missing is None:
            head, found, _ = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            self._missing = len(head) + 4 + content_length(head)
        if len(self._received) >= self._missing:
            answer, self._received, self._missing = self._received, b"", None
            self._answered(answer)

    def _answered(self, answer: bytes) -> None:
        now = time.perf_counter()
        load = self._load
        if not answer.startswith(b"HTTP/1.1 200 "):
            load.failures[answer.partition(b"\r\n")[0].decode("ascii", "replace")] += 1
        elif load.expected not in answer:
            load.failures["an answer without the job"] += 1
        elif self.is_warm.called:
            load.latencies.append(now - self._asked)
        if not self.is_warm.called:
            self.is_warm.callback(None)
        elif now < load.deadline:
            self.ask()
        else:
            self.has_ended.callback(None)
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Before the end this is a failure."""
        if not self.has_ended.called:
            self._load.failures[f"connection lost: {reason.getErrorMessage()}"] += 1
            if not self.is_warm.called:
                self.is_warm.errback(Failure(ConnectionDone()))
            self.has_ended.callback(None)


def content_length(head: bytes) -> int:
    """The Content-Length in a response's head; 0 when it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def render_get(path: str) -> str:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n"


def render_post(path: str, form: str) -> str:
    """A POST request with a form as its body, which must be ASCII."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(form)}\r\n\r\n{form}"
    )
