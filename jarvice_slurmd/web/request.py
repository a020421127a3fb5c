"""A request to the API, bounded before anybody reads it."""

from __future__ import annotations

from io import BytesIO

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.web import server

from jarvice_slurmd.web.answers import error_answer


class ApiRequest(server.Request):
    """A request whose body is bounded: in bytes, else it is answered 413, and in time, else 408."""

    max_body_bytes: int = 64 * 1024 * 1024
    # Less than the silence after which a connection is closed (Site's 60 s): this has words.
    body_seconds: float = 55.0
    clock: IReactorTime
    _late: IDelayedCall | None = None

    def gotLength(self, length: int | None) -> None:
        """The headers are in; refuse a body that says it is too large before reading it."""
        self._received = 0
        self._refused = False
        if length is not None and length > self.max_body_bytes:
            self.content = BytesIO()
            self._refuse_size()
            return
        super().gotLength(length)  # type: ignore[no-untyped-call]
        if length != 0:
            self._late = self.clock.callLater(self.body_seconds, self._refuse_slowness)

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body is in."""
        self._received += len(data)
        if self._refused:
            return
        if self._received > self.max_body_bytes:
            self._refuse_size()
        else:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        """The caller has gone, perhaps in the middle of its body."""
        self._stop_waiting()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def _stop_waiting(self) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()

    def _refuse_size(self) -> None:
        self._refuse(
            "413 Content Too Large", f"the body is larger than {self.max_body_bytes} bytes"
        )

    def _refuse_slowness(self) -> None:
        sentence = f"the body did not come within {self.body_seconds:g} s"
        self._refuse("408 Request Timeout", sentence)

    def _refuse(self, status: str, sentence: str) -> None:
        self._refused = True
        self._stop_waiting()
        answer = error_answer(int(status[:3]), sentence)
        head = (
            f"HTTP/1.1 {status}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(answer.body)}\r\n\r\n"
        )
        self.channel.write(head.encode("ascii") + answer.body)
        self.channel.setTimeout(None)
        self.channel.loseConnection()

    def body(self) -> bytes:
        """The whole body; it is bounded."""
        assert self.content is not None
        self.content.seek(0)
        return bytes(self.content.read())

    def process(self) -> None:
        """Hand a complete request to its resource."""
        self._stop_waiting()
        if not self._refused:
            super().process()  # type: ignore[no-untyped-call]
