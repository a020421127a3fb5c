"""One request and its response, from a browser's connection to what answers and back.

The two directions run on their own: a response may begin, and end, before the request does. Bytes
of bodies go on as they come, in the pieces they come in.
"""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from jarvice_slurmd.errors import JarviceSlurmdError, NotConnectedError
from jarvice_slurmd.interactive.forwarding import forward_request, public_site, return_response
from jarvice_slurmd.interactive.framing import BadFramingError, Body, ChunkedBody, ClosedBody
from jarvice_slurmd.interactive.head import (
    HEAD_END,
    BadHeadError,
    RequestHead,
    ResponseHead,
    field_values,
    parse_response_head,
    render_request_head,
    render_response_head,
    response_body,
    wants_close,
    wants_websocket,
)
from jarvice_slurmd.interactive.interfaces import Api, Page, Route, Target
from jarvice_slurmd.interactive.pages import ServiceEndedError, render_answer, render_error_page
from jarvice_slurmd.interactive.relay import pair, part
from jarvice_slurmd.interactive.upstream import TunnelKey, Upstream, open_tunnel

if TYPE_CHECKING:
    from jarvice_slurmd.interactive.front import FrontChannel

RETRY_SECONDS: Final = 0.5
# Methods that may be sent twice when a kept connection turns out to be closed (RFC 9110 §9.2.1).
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})

_log = Logger()


@frozen
class _Reached:
    """Whose the request is and the connection that answers it."""

    route: Target | Api
    upstream: Upstream


def _time_out(result: object, seconds: float) -> None:
    raise TimeoutError(f"There was no connection within {seconds:g} s.")


class Exchange:
    """Runs on `front` from the request's head to the end of both directions.

    Calls `front.exchange_done` once, or closes `front`, or turns it into a relay.
    """

    def __init__(self, front: FrontChannel, head: RequestHead, body: Body) -> None:
        self._front = front
        self._head = head
        self._request = body
        self._response: Body
        self._route: Target | Api | None = None
        self._upstream: Upstream | None = None
        self._reaching: Deferred[None] | None = None
        self._received = b""
        self._payload: list[bytes] | None = None
        self._response_begun = False
        self._response_done = False
        self._keep_upstream = False
        self._websocket = wants_websocket(head) and body.done
        self._left = False
        # The next request may follow on this connection.
        self.keep_front = bool(head.minor) and not wants_close(head.headers)
        # Grows with each piece of the response that went to the browser.
        self.pieces = 0

    @property
    def request_done(self) -> bool:
        """Whether the request's last byte has come."""
        return self._request.done

    def start(self) -> None:
        """Find out whose the request is, and go on from there."""
        try:
            route = self._front.settings.router.route(self._head)
            if isinstance(route, Page):
                self.answer(route)
            elif isinstance(route, Api):
                self._use(_Reached(route, self._front.take_site()))
            else:
                self._reach(route)
        except Exception:
            self._fail(Failure())

    # Reaching what answers.

    def _reach(self, route: Route | Awaitable[Route]) -> None:
        limits = self._front.settings.limits
        reaching = Deferred.fromCoroutine(self._reach_within(route, limits.link_wait))
        self._reaching = reaching
        reaching.addTimeout(limits.open_timeout, self._front.settings.clock, _time_out)
        reaching.addErrback(self._fail)

    async def _reach_within(self, route: Route | Awaitable[Route], seconds: float) -> None:
        clock = self._front.settings.clock
        deadline = clock.seconds() + seconds
        while True:
            try:
                reached = await self._reach_once(route)
                break
            except NotConnectedError:
                # Nothing was sent: once there is a link again it is as if it had been there.
                if clock.seconds() >= deadline:
                    raise
            await deferLater(clock, RETRY_SECONDS)
            route = self._front.settings.router.route(self._head)
        self._reaching = None
        if isinstance(reached, Page):
            self.answer(reached)
        else:
            self._use(reached)

    async def _reach_once(self, route: Route | Awaitable[Route]) -> _Reached | Page:
        settings = self._front.settings
        found = await route if isawaitable(route) else route
        assert isinstance(found, Target | Api | Page)
        if isinstance(found, Page):
            return found
        if isinstance(found, Api):
            return _Reached(found, self._front.take_site())
        upstream = None
        # Only what may be sent again is sent on a connection that may be closing meanwhile.
        if self._head.method in _SAFE and self._request.done and not self._websocket:
            upstream = self._front.idle.take(TunnelKey(found.number, found.host, found.port))
        if upstream is None:
            upstream = await open_tunnel(
                settings.opener,
                found,
                clock=settings.clock,
                close_timeout=settings.limits.close_timeout,
            )
        return _Reached(found, upstream)

    def _use(self, reached: _Reached) -> None:
        front = self._front
        self._route = reached.route
        self._upstream = upstream = reached.upstream
        upstream.sink = self._response_head
        upstream.on_end = self._upstream_ended
        pair(front, upstream)
        head = self._head
        if isinstance(reached.route, Target):
            head = forward_request(
                head,
                target=reached.route,
                caller=front.caller,
                rules=front.settings.rules,
                websocket=self._websocket,
            )
        upstream.transport.write(render_request_head(head))
        if not self._request.done and self._upstream is upstream:
            front.send_body_to(self._request_bytes)
        if front.read_ended:
            self.browser_ended_writing()

    # From the browser.

    def _request_bytes(self, data: bytes) -> None:
        upstream = self._upstream
        assert upstream is not None
        try:
            size = self._request.feed(data)
        except BadFramingError as error:
            self._abandon_upstream()
            self._front.refuse(400, str(error), self._head, answered=self._response_begun)
            return
        answered = self._response_done
        if self._request.done:
            self._front.collect_again(data[size:])
        # The API's own site may answer within this call, and the next request begin.
        upstream.transport.write(data if size == len(data) else data[:size])
        if answered and self._request.done and self._upstream is upstream:
            self._finish()

    def browser_ended_writing(self) -> None:
        """The browser sends no more; it may still read."""
        if not self._request.done:
            self.browser_left(clean=False)
            self._front.abort()
        elif self._upstream is not None and not self._front.collected:
            self._keep_upstream = False
            self._upstream.end_writing()

    def browser_left(self, *, clean: bool) -> None:
        """The browser's connection is gone, or given up."""
        self._left = True
        if self._reaching is not None:
            self._reaching.cancel()
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            part(upstream)
            upstream.let_go()
            if clean and self._request.done:
                upstream.close()
            else:
                upstream.abort()

    # From what answers.

    def _response_head(self, data: bytes) -> None:
        self._received += data
        while self._upstream is not None:
            end = HEAD_END.search(self._received)
            size = end.end() if end else len(self._received)
            try:
                if size > self._front.settings.limits.max_head:
                    raise BadHeadError("The service's answer has too large a head.", 502)
                if end is None:
                    return
                block, self._received = self._received[:size], self._received[size:]
                head = parse_response_head(block)
                if head.status == 101:
                    self._switch(head)
                    return
                if head.status < 200:
                    if self._head.minor:
                        self._write(self._returned(head, block))
                    continue
                self._begin_response(head, block)
                return
            except BadHeadError as error:
                _log.warn("A service's answer can't be passed on: {error}", error=error)
                self._abandon_upstream()
                self._broken(ServiceEndedError(str(error)), clean=False)
                return

    def _begin_response(self, head: ResponseHead, block: bytes) -> None:
        assert self._upstream is not None
        body = response_body(head, self._head.method)
        chunked = isinstance(body, ChunkedBody)
        if isinstance(body, ClosedBody) or wants_close(head.headers):
            self.keep_front = self.keep_front and (
                isinstance(self._route, Target) and not isinstance(body, ClosedBody)
            )
        if chunked and not self._head.minor:
            self._payload = []
            body = ChunkedBody(self._payload)
        # Two framings in one response: read as RFC 9112 §6.3 says, and not trusted further.
        doubtful = chunked and (
            not head.minor or bool(field_values(head.headers, b"content-length"))
        )
        self._keep_upstream = (
            bool(head.minor)
            and not doubtful
            and not wants_close(head.headers)
            and not isinstance(body, ClosedBody)
        )
        self._response = body
        self._response_begun = True
        rest, self._received = self._received, b""
        head_block = self._returned(head, block)
        self._upstream.sink = self._response_bytes
        if body.done:
            self._write(head_block)
            self._keep_upstream = self._keep_upstream and not rest
            self._response_ended()
        elif rest and self._payload is None:
            self._response_bytes(rest, head_block)
        else:
            self._write(head_block)
            self._response_bytes(rest)

    def _returned(self, head: ResponseHead, block: bytes) -> bytes:
        if not isinstance(self._route, Target):
            return block
        unchunk = not self._head.minor
        site = public_site(self._head, self._route)
        answer = return_response(head, site=site, close=not self.keep_front, unchunk=unchunk)
        return render_response_head(answer)

    def _response_bytes(self, data: bytes, before: bytes = b"") -> None:
        try:
            size = self._response.feed(data)
        except BadFramingError as error:
            _log.warn("A service's answer can't be passed on: {error}", error=error)
            self._abandon_upstream()
            self._broken(ServiceEndedError(str(error)), clean=False)
            return
        if self._payload is not None:
            piece = b"".join(self._payload)
            self._payload.clear()
        else:
            piece = data if size == len(data) else data[:size]
        self._write(before + piece if before else piece)
        if self._response.done:
            self._keep_upstream = self._keep_upstream and size == len(data)
            self._response_ended()

    def _response_ended(self) -> None:
        self._response_done = True
        assert self._upstream is not None
        # Whatever it still says is said to nobody; its end is told to `_upstream_ended`.
        self._upstream.sink = self._unexpected
        if self._request.done:
            self._finish()

    def _unexpected(self, data: bytes) -> None:
        self._keep_upstream = False

    def _upstream_ended(self, clean: bool) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        reused = upstream.used
        begun = self._response_begun or bool(self._received)
        self._abandon_upstream(clean=clean)
        if self._response_done:
            # Its answer came before the end of the request, whose rest nobody wants now.
            self._front.finish()
        elif self._response_begun:
            if clean and isinstance(self._response, ClosedBody):
                self._front.finish()
            else:
                self._broken(None, clean=clean and not isinstance(self._response, ClosedBody))
        elif reused and not begun and isinstance(self._route, Target):
            self._reach(self._route)
        elif isinstance(self._route, Api):
            self._front.finish()
        else:
            self._broken(ServiceEndedError("The application closed the connection."), clean=clean)

    # Ends.

    def answer(self, page: Page) -> None:
        """Answer with a page of our own."""
        self.keep_front = self.keep_front and self._request.done
        self._response_begun = True
        bodiless = self._head.method == b"HEAD"
        self._write(render_answer(page, close=not self.keep_front, bodiless=bodiless))
        self._front.exchange_done(keep=self.keep_front)

    def _switch(self, head: ResponseHead) -> None:
        upstream = self._upstream
        assert upstream is not None
        if not (isinstance(self._route, Target) and self._websocket):
            raise BadHeadError("The service switches to a protocol that nobody asked for.", 502)
        self._write(self._returned(head, b""))
        upstream.let_go()
        self._upstream = None
        self._front.become_relay(upstream, self._received)

    def _finish(self) -> None:
        upstream = self._upstream
        assert upstream is not None
        self._upstream = None
        part(upstream)
        upstream.let_go()
        if self._keep_upstream and not upstream.read_ended and not upstream.write_ended:
            self._front.idle.keep(upstream)
        else:
            upstream.close()
        self._front.exchange_done(keep=self.keep_front)

    def _abandon_upstream(self, *, clean: bool = False) -> None:
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            part(upstream)
            upstream.let_go()
            upstream.close() if clean else upstream.abort()

    def _fail(self, failure: Failure) -> None:
        self._reaching = None
        if self._left:
            return
        if not failure.check(JarviceSlurmdError, TimeoutError):
            _log.failure("A request could not be passed on", failure)
        self._abandon_upstream()
        self._broken(failure.value, clean=False)

    def _broken(self, error: BaseException | None, *, clean: bool) -> None:
        if error is not None and not self._response_begun:
            self.answer(render_error_page(error, self._head.headers))
        elif clean:
            self._front.close()
        else:
            self._front.abort()

    def _write(self, data: bytes) -> None:
        if data:
            self.pieces += 1
            self._front.transport.write(data)
