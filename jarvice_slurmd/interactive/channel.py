"""One connection of a browser's, an ingress's or upstream's: its requests, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, ISSLTransport

from jarvice_slurmd.interactive.exchange import Exchange
from jarvice_slurmd.interactive.forwarding import Caller
from jarvice_slurmd.interactive.front_settings import FrontSettings
from jarvice_slurmd.interactive.head import (
    HEAD_END,
    BadHeadError,
    RequestHead,
    parse_request_head,
    request_body,
)
from jarvice_slurmd.interactive.pages import render_answer, render_bad_request_page
from jarvice_slurmd.interactive.reach import Reach
from jarvice_slurmd.interactive.relay import BUFFER_FULL, End, discard, join
from jarvice_slurmd.interactive.upstream import Upstream

#: Bytes that may have come for later before the connection is read no further.
MAX_COLLECTED: Final = 64 * 1024


class FrontChannel(End):
    """One connection of a browser's, an ingress's or upstream's."""

    def __init__(self, settings: FrontSettings, on_end: Callable[[FrontChannel], object]) -> None:
        limits = settings.limits
        super().__init__(clock=settings.clock, close_timeout=limits.close_timeout)
        self.settings = settings
        self.reach: Reach
        self.caller = Caller(address=b"unknown")
        self.sink = self._collect
        self._on_end = on_end
        self._input = bytearray()
        self._exchange: Exchange | None = None
        self._over = False
        self._draining = False
        self._advancing = False
        self._timer: IDelayedCall | None = None
        self._timing_head = False

    def connected_(self) -> None:
        """Note who asks, and wait for the first request."""
        address = getattr(self.transport.getPeer(), "host", "unknown")
        self.caller = Caller(
            address=str(address).encode("ascii", "replace"),
            secure=ISSLTransport.providedBy(self.transport),
        )
        self.reach = Reach(self.settings, self.transport, secure=self.caller.secure)
        self._settle()

    # What the exchange asks for.

    @property
    def collected(self) -> int:
        """How many bytes of requests have come that no exchange has taken yet."""
        return len(self._input)

    def send_body_to(self, sink: Callable[[bytes], object]) -> None:
        """Give the bytes that follow, and those that came already, to an exchange."""
        self.sink = sink
        data = self._take_input()
        if data:
            sink(data)

    def collect_again(self, data: bytes) -> None:
        """The exchange has had its body; `data` belongs to the next request."""
        self.sink = self._collect
        self._input += data

    def exchange_done(self, *, keep: bool) -> None:
        """Request and response are through; `keep` the connection for the next."""
        self._exchange = None
        if keep and not self._draining:
            self._advance()
        else:
            self.finish()

    def become_relay(self, upstream: Upstream, received: bytes) -> None:
        """The exchange ended in 101: from here on bytes are only passed."""
        self._exchange = None
        self._over = True
        self._stop_timer()
        self.reach.idle.clear()
        collected = self._take_input()
        join(self, upstream)
        if received:
            self.transport.write(received)
        if collected:
            upstream.transport.write(collected)

    def refuse(
        self, status: int, sentence: str, head: RequestHead | None = None, *, answered: bool = False
    ) -> None:
        """Answer a request that can't be, if it is not `answered` by half, and end."""
        self._exchange = None
        if answered:
            self.abort()
            return
        page = render_bad_request_page(status, sentence, head.headers if head else ())
        self.transport.write(render_answer(page, close=True))
        self.finish()

    def finish(self) -> None:
        """Send what is buffered and end.

        The browser closes first if it will: closing while it still sends would reset the
        connection and take the last response with it (RFC 9112 §9.6).
        """
        self._exchange = None
        self._over = True
        self._input.clear()
        self.sink = discard
        self.reach.idle.clear()
        if self.read_ended:
            self.close()
            return
        self.end_writing()
        self.release(BUFFER_FULL)
        self._start_timer(self.settings.limits.linger, self.close)

    def drain(self) -> None:
        """End after the response in progress; a relay or an idle connection at once."""
        self._draining = True
        self.hurry()
        if self._exchange is None and not self.closing:
            self.close()

    # What the connection tells.

    def resumeProducing(self) -> None:
        """The connection takes more: so may the next request's answer."""
        super().resumeProducing()
        if self._exchange is None:
            self._advance()

    def reading_ended(self) -> None:
        """The far end sends no more requests; it may still read the answer to its last."""
        if self._over:
            self.close()
        elif self._exchange is None:
            self._advance()
        else:
            self._exchange.browser_ended_writing()
            self._watch(-1)

    def connection_ended(self, clean: bool) -> None:
        """The far end is gone, and with it whoever waited for an answer."""
        self._stop_timer()
        self._over = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.browser_left(clean=clean)
        self.reach.idle.clear()
        self._on_end(self)

    # Requests, one after another.

    def _collect(self, data: bytes) -> None:
        self._input += data
        if self._exchange is None:
            self._advance()
        if len(self._input) > MAX_COLLECTED:
            self.hold(BUFFER_FULL)

    def _take_input(self) -> bytes:
        data = bytes(self._input)
        self._input.clear()
        self.release(BUFFER_FULL)
        return data

    def _advance(self) -> None:
        # Exchanges that end at once come back here: a loop, however many are pipelined.
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._exchange is None and not self._over and not self.full:
                if not self._start_exchange():
                    break
        finally:
            self._advancing = False
        self._settle()

    def _start_exchange(self) -> bool:
        limits = self.settings.limits
        if self._input.startswith((b"\r", b"\n")):
            # Empty lines before a request are ignored (RFC 9112 §2.2).
            del self._input[: len(self._input) - len(self._input.lstrip(b"\r\n"))]
        end = HEAD_END.search(self._input)
        if (end.end() if end else len(self._input)) > limits.max_head:
            self.refuse(431, "The head of the request is too large.")
            return False
        if end is None:
            return False
        block = bytes(self._input[: end.end()])
        del self._input[: end.end()]
        if len(self._input) <= MAX_COLLECTED:
            self.release(BUFFER_FULL)
        try:
            head = parse_request_head(block)
            body = request_body(head)
        except BadHeadError as error:
            self.refuse(error.status, str(error))
            return False
        self._stop_timer()
        self._exchange = exchange = Exchange(self, head, body)
        exchange.start()
        if self._exchange is exchange and self.read_ended:
            self._watch(-1)
        return True

    # Time.

    def _settle(self) -> None:
        if self._exchange is not None or self._over:
            return
        if self.read_ended and not self.full:
            self.close()
        elif self.full or not self._input:
            self._start_timer(self.settings.limits.keep_alive, self.close)
        elif not self._timing_head:
            self._start_timer(self.settings.limits.head_timeout, self._head_is_late)
            self._timing_head = True

    def _head_is_late(self) -> None:
        self.refuse(408, "The request did not come in time.")

    def _watch(self, pieces: int) -> None:
        # A browser that left and one that only half-closed look the same until it is written to.
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.pieces == pieces and not self.full:
            exchange.browser_left(clean=False)
            self.abort()
        else:
            timeout = self.settings.limits.leave_timeout
            self._start_timer(timeout, self._watch, exchange.pieces)

    def _start_timer(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        self._stop_timer()
        if not self.lost:
            self._timer = self.settings.clock.callLater(seconds, self._timed, call, *args)

    def _timed(self, call: Callable[..., object], *args: object) -> None:
        self._timer = None
        self._timing_head = False
        call(*args)

    def _stop_timer(self) -> None:
        self._timing_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
