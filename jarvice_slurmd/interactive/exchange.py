"""One request and its response, from a browser's connection to what answers and back.

The two directions run on their own: a response may begin, and end, before the request does. Bytes
of bodies go on as they come, in the pieces they come in.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from jarvice_slurmd.errors import JarviceSlurmdError
from jarvice_slurmd.interactive.forwarding import forward_request
from jarvice_slurmd.interactive.framing import BadFramingError, Body
from jarvice_slurmd.interactive.head import (
    BadHeadError,
    RequestHead,
    render_request_head,
    wants_close,
    wants_websocket,
)
from jarvice_slurmd.interactive.interfaces import Api, Page, Route, Target
from jarvice_slurmd.interactive.pages import ServiceEndedError, render_answer, render_error_page
from jarvice_slurmd.interactive.reach import Reached
from jarvice_slurmd.interactive.relay import pair, part
from jarvice_slurmd.interactive.response import ResponseReader
from jarvice_slurmd.interactive.upstream import Upstream

if TYPE_CHECKING:
    from jarvice_slurmd.interactive.channel import FrontChannel

# Methods that may be sent twice when a kept connection turns out to be closed (RFC 9110 §9.2.1).
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})

_log = Logger()


class Exchange:
    """Runs on `front` from the request's head to the end of both directions.

    Calls `front.exchange_done` once, or closes `front`, or turns it into a relay.
    """

    def __init__(self, front: FrontChannel, head: RequestHead, body: Body) -> None:
        self._front = front
        self._head = head
        self._request = body
        self._websocket = wants_websocket(head) and body.done
        self._target: Target | None = None
        self._upstream: Upstream | None = None
        self._response: ResponseReader | None = None
        self._reaching: Deferred[None] | None = None
        self._answered = False
        self._left = False
        # The next request may follow on this connection, if the response allows it.
        self._keep = bool(head.minor) and not wants_close(head.headers)
        # Grows with each piece of the response that went to the browser.
        self.pieces = 0

    def start(self) -> None:
        """Find out whose the request is, and go on from there."""
        try:
            route = self._front.settings.router.route(self._head)
            if isinstance(route, Page):
                self._answer(route)
            elif isinstance(route, Api):
                self._use(self._front.reach.site())
            else:
                self._reach(route)
        except Exception:
            self._fail(Failure())

    # Reaching what answers.

    def _reach(self, route: Route | Awaitable[Route]) -> None:
        settings = self._front.settings
        reaching = Deferred.fromCoroutine(self._reach_and_use(route))
        self._reaching = reaching
        reaching.addTimeout(settings.limits.open_timeout, settings.clock, _time_out)
        reaching.addErrback(self._fail)

    async def _reach_and_use(self, route: Route | Awaitable[Route]) -> None:
        reuse = self._head.method in _SAFE and self._request.done and not self._websocket
        reached = await self._front.reach.find(self._head, route, reuse=reuse)
        self._reaching = None
        if isinstance(reached, Page):
            self._answer(reached)
        else:
            self._use(reached)

    def _use(self, reached: Reached) -> None:
        front = self._front
        head = self._head
        if isinstance(reached.route, Target):
            self._target = reached.route
            head = forward_request(
                head,
                target=reached.route,
                caller=front.caller,
                rules=front.settings.rules,
                websocket=self._websocket,
            )
        self._response = ResponseReader(
            request=self._head,
            target=self._target,
            websocket=self._websocket,
            keep=self._keep,
            max_head=front.settings.limits.max_head,
        )
        self._upstream = upstream = reached.upstream
        upstream.sink = self._response_bytes
        upstream.on_end = self._upstream_ended
        pair(front, upstream)
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
            self._front.refuse(400, str(error), self._head, answered=self._answered)
            return
        ended = self._response is not None and self._response.done
        if self._request.done:
            self._front.collect_again(data[size:])
        # The API's own site may answer within this call, and the next request begin.
        upstream.transport.write(data if size == len(data) else data[:size])
        if ended and self._request.done and self._upstream is upstream:
            self._finish()

    def browser_ended_writing(self) -> None:
        """The browser sends no more; it may still read."""
        if not self._request.done:
            self.browser_left(clean=False)
            self._front.abort()
        elif self._upstream is not None and not self._front.collected:
            self._upstream.end_writing()

    def browser_left(self, *, clean: bool) -> None:
        """The browser's connection is gone, or given up."""
        self._left = True
        if self._reaching is not None:
            self._reaching.cancel()
        self._abandon_upstream(clean=clean and self._request.done)

    # From what answers.

    def _response_bytes(self, data: bytes) -> None:
        response = self._response
        assert response is not None
        try:
            piece = response.receive(data)
        except (BadHeadError, BadFramingError) as error:
            _log.warn("A service's answer can't be passed on: {error}", error=error)
            self._abandon_upstream()
            self._broken(ServiceEndedError(str(error)), clean=False)
            return
        if piece:
            self.pieces += 1
            self._answered = self._answered or response.begun
            self._front.transport.write(piece)
        if response.done:
            self._response_ended()
        elif response.switched:
            self._switch(response.received)

    def _response_ended(self) -> None:
        assert self._upstream is not None
        # Whatever it still says is said to nobody; its end is told to `_upstream_ended`.
        self._upstream.sink = self._unexpected
        if self._request.done:
            self._finish()

    def _unexpected(self, data: bytes) -> None:
        assert self._response is not None
        self._response.reusable = False

    def _switch(self, received: bytes) -> None:
        upstream = self._upstream
        assert upstream is not None
        self._upstream = None
        upstream.let_go()
        self._front.become_relay(upstream, received)

    def _upstream_ended(self, clean: bool) -> None:
        upstream = self._upstream
        response = self._response
        assert upstream is not None
        assert response is not None
        self._abandon_upstream(clean=clean)
        if response.done or (clean and response.until_close):
            # Where the request has not ended yet nobody wants its rest now.
            self._front.finish()
        elif response.begun:
            self._broken(None, clean=clean and response.shows_its_end)
        elif self._target is None:
            self._front.finish()
        elif upstream.used and not response.received:
            # It was closing when the request was sent, which is one that may be sent again.
            self._reach(self._target)
        else:
            self._broken(ServiceEndedError("The application closed the connection."), clean=clean)

    # Ends.

    def _answer(self, page: Page) -> None:
        keep = self._keep and self._request.done
        self._answered = True
        self.pieces += 1
        bodiless = self._head.method == b"HEAD"
        self._front.transport.write(render_answer(page, close=not keep, bodiless=bodiless))
        self._front.exchange_done(keep=keep)

    def _finish(self) -> None:
        upstream = self._upstream
        response = self._response
        assert upstream is not None
        assert response is not None
        self._upstream = None
        part(upstream)
        upstream.let_go()
        if response.reusable and not upstream.read_ended and not upstream.write_ended:
            self._front.reach.idle.keep(upstream)
        else:
            upstream.close()
        self._front.exchange_done(keep=response.keep)

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
        if error is not None and not self._answered:
            self._answer(render_error_page(error, self._head.headers))
        elif clean:
            self._front.close()
        else:
            self._front.abort()


def _time_out(result: object, seconds: float) -> None:
    raise TimeoutError(f"There was no connection within {seconds:g} s.")
