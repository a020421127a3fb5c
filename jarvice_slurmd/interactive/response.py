"""A response as it comes in, and what of it goes to the browser; no I/O."""

from __future__ import annotations

from attrs import define

from jarvice_slurmd.interactive.forwarding import public_site, return_response
from jarvice_slurmd.interactive.framing import Body, ChunkedBody, ClosedBody
from jarvice_slurmd.interactive.head import (
    HEAD_END,
    BadHeadError,
    RequestHead,
    ResponseHead,
    field_values,
    parse_response_head,
    render_response_head,
    response_body,
    wants_close,
)
from jarvice_slurmd.interactive.interfaces import Target


@define
class ResponseReader:
    """Reads the response to one request, interim responses included.

    `target` is None for the API, whose heads are passed as they are. `websocket` says that 101 may
    be the answer. `keep` is whether the browser's connection goes on after it, at first by the
    browser's wish.
    """

    request: RequestHead
    target: Target | None
    websocket: bool
    keep: bool
    max_head: int
    begun: bool = False
    done: bool = False
    switched: bool = False
    reusable: bool = False
    received: bytes = b""
    _body: Body | None = None
    _payload: list[bytes] | None = None

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection ends this response."""
        return isinstance(self._body, ClosedBody)

    @property
    def shows_its_end(self) -> bool:
        """Whether the browser can tell a response that is cut short from a whole one."""
        return self._payload is None

    def receive(self, data: bytes) -> bytes:
        """Take what came and give what the browser gets for it.

        Sets `begun` with the final head, `done` at the end of its body, or `switched` after a 101,
        when `received` holds what came behind it. `reusable` then says whether the connection can
        be sent another request. Raises `BadHeadError` or `BadFramingError`.
        """
        body = self._body
        if body is None:
            return self._receive_head(data)
        size = body.feed(data)
        if body.done:
            self.done = True
            self.reusable = self.reusable and size == len(data)
        if self._payload is not None:
            piece = b"".join(self._payload)
            self._payload.clear()
            return piece
        return data if size == len(data) else data[:size]

    def _receive_head(self, data: bytes) -> bytes:
        self.received += data
        out = b""
        while True:
            end = HEAD_END.search(self.received)
            size = end.end() if end else len(self.received)
            if size > self.max_head:
                raise BadHeadError("The service's answer has too large a head.", 502)
            if end is None:
                return out
            block, self.received = self.received[:size], self.received[size:]
            head = parse_response_head(block)
            if head.status == 101:
                if self.target is None or not self.websocket:
                    raise BadHeadError("The service switches to what nobody asked for.", 502)
                self.switched = True
                return out + self._returned(head, block)
            if head.status >= 200:
                return out + self._begin(head, block)
            if self.request.minor:
                out += self._returned(head, block)

    def _begin(self, head: ResponseHead, block: bytes) -> bytes:
        body = response_body(head, self.request.method)
        closing = isinstance(body, ClosedBody)
        chunked = isinstance(body, ChunkedBody)
        self.keep = self.keep and not closing
        if self.target is None:
            # The site says what it does with its connection, which is the browser's own to it.
            self.keep = self.keep and not wants_close(head.headers)
        # Two framings in one response: read as RFC 9112 §6.3 says, and not trusted further.
        doubtful = chunked and (
            not head.minor or bool(field_values(head.headers, b"content-length"))
        )
        self.reusable = bool(head.minor) and not (doubtful or closing or wants_close(head.headers))
        if chunked and not self.request.minor:
            self._payload = []
            body = ChunkedBody(self._payload)
        self._body = body
        self.begun = True
        rest, self.received = self.received, b""
        out = self._returned(head, block)
        if body.done:
            self.done = True
            self.reusable = self.reusable and not rest
            return out
        return out + self.receive(rest) if rest else out

    def _returned(self, head: ResponseHead, block: bytes) -> bytes:
        if self.target is None:
            return block
        answer = return_response(
            head,
            site=public_site(self.request, self.target),
            close=not self.keep,
            unchunk=not self.request.minor,
        )
        return render_response_head(answer)
