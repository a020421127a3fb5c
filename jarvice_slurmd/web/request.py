"""A request to the API, bounded before anybody reads it."""

from __future__ import annotations

import base64
import binascii
import hmac
from io import BytesIO
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.web import http, server

from jarvice_slurmd.web.answers import NOT_AUTHORISED, Answer, error_answer

#: The largest body, in bytes, that is taken of who has not said the key: none is put on our disk.
STRANGERS_BODY: Final = 64 * 1024


def says_key(request: http.Request, server_key: str | None) -> bool:
    """Whether a request holds `user:password`, if any is wanted; its head is enough to tell."""
    if server_key is None:
        return True
    header = request.getHeader(b"Authorization") or b""
    scheme, _, credentials = header.partition(b" ")
    try:
        said = base64.b64decode(credentials.strip(), validate=True)
    except (binascii.Error, ValueError):
        said = b""
    # Always compared, and in constant time, so that timing tells nothing (RFC 7617).
    same = hmac.compare_digest(said, server_key.encode("utf-8"))
    return same and scheme.lower() == b"basic"


class ApiRequest(server.Request):
    """A request whose body is bounded: in bytes, else it is answered 413, and in time, else 408.

    A body above `STRANGERS_BODY` is not read without `server_key`: 401.
    """

    max_body_bytes: int = 16 * 1024 * 1024
    server_key: str | None = None
    # Less than the silence after which a connection is closed (Site's 60 s): this has words.
    body_seconds: float = 55.0
    clock: IReactorTime
    _late: IDelayedCall | None = None

    def gotLength(self, length: int | None) -> None:
        """The headers are in; refuse a body that says it is too large before reading it."""
        self._received = 0
        self._refused = False
        self._most = self.max_body_bytes
        if length != 0 and not says_key(self, self.server_key):
            self._most = min(self._most, STRANGERS_BODY)
        if length is not None and length > self._most:
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
        if self._received > self._most:
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
        if self._most < self.max_body_bytes:
            self._refuse("401 Unauthorized", NOT_AUTHORISED)
            return
        sentence = f"the body is larger than {self.max_body_bytes} bytes"
        self._refuse("413 Content Too Large", error_answer(413, sentence))

    def _refuse_slowness(self) -> None:
        sentence = f"the body did not come within {self.body_seconds:g} s"
        self._refuse("408 Request Timeout", error_answer(408, sentence))

    def _refuse(self, status: str, answer: Answer) -> None:
        self._refused = True
        self._stop_waiting()
        headers = (
            ("Connection", "close"),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
        )
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.channel.write(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode("ascii") + answer.body)
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
