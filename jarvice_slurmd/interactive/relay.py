"""Two connections, each the other's producer, until one side ends.

An `End` is one of them. Its transport's write buffer is all that is ever held: while that is full
the other end is not read. Half-closes, resets and closes are passed on as what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from jarvice_slurmd.interactive.vitality import is_gone, untaken, watch_peer

#: Seconds after which an end that is not read is looked at: is there still somebody?
HELD_SECONDS: Final = 15.0

# Why an end is not read.
PEER_FULL: Final = 1
BUFFER_FULL: Final = 2

_log = Logger()


def discard(data: bytes) -> None:
    """A sink for bytes that nobody waits for any more."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class End(Protocol):
    """One connection whose bytes go to `sink`, and whose reading stops while its peer is full.

    Subclasses set `sink` (called with each piece of data) and override the `…ed` methods. After
    `join` neither is used: bytes go straight to the peer's transport.
    """

    transport: Any
    sink: Callable[[bytes], object]

    def __init__(self, *, clock: IReactorTime, close_timeout: float) -> None:
        self.peer: End | None = None
        self.sink = discard
        self.full = False
        self.read_ended = False
        self.write_ended = False
        self.closing = False
        self.lost = False
        self._clock = clock
        self._close_timeout = close_timeout
        self._close_call: IDelayedCall | None = None
        self._hurried = False
        self._whole_close = False
        self._holds = 0
        self._held_call: IDelayedCall | None = None
        self._joined = False

    # What the transport calls.

    def connectionMade(self) -> None:
        """Write without delay (RFC 9293 §3.7.4), watch the far end, and hear when it is full."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            watch_peer(self.transport)
        self.transport.registerProducer(self, True)
        self.connected_()

    def dataReceived(self, data: bytes) -> None:
        """Hand it on; an error of ours ends this connection and no other."""
        try:
            self.sink(data)
        except Exception:
            # A transport may share its connection with others (an SSH channel does).
            _log.failure("A connection is cut after an error of our own")
            self.abort()

    def readConnectionLost(self) -> None:
        """The far end sends no more: pass that on."""
        self.read_ended = True
        if self.closing:
            self._close_if_taken()
        elif self._joined:
            assert self.peer is not None
            self.peer.end_writing()
            self._close_when_done()
        else:
            self.reading_ended()

    def writeConnectionLost(self) -> None:
        """Nothing: the reader will tell, or our own `end_writing` was the reason."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone: the peer of a relay ends in the same way, closed or reset."""
        self.lost = True
        self.sink = discard
        for call in (self._close_call, self._held_call):
            if call is not None:
                call.cancel()
        self._close_call = self._held_call = None
        clean = reason.check(ConnectionDone) is not None
        peer = self.peer
        joined = self._joined
        part(self)
        if joined and peer is not None:
            peer.close() if clean else peer.abort()
        self.connection_ended(clean)

    def pauseProducing(self) -> None:
        """The transport's buffer is full: the peer is not read."""
        self.full = True
        if self.peer is not None:
            self.peer.hold(PEER_FULL)

    def resumeProducing(self) -> None:
        """The transport has room again."""
        self.full = False
        if self.peer is not None:
            self.peer.release(PEER_FULL)

    def stopProducing(self) -> None:
        """Nothing: `connectionLost` follows."""

    # What subclasses override.

    def connected_(self) -> None:
        """The connection is up."""

    def reading_ended(self) -> None:
        """The far end sends no more (not called once joined)."""

    def connection_ended(self, clean: bool) -> None:
        """The connection is gone; `clean` unless it was reset, aborted or timed out."""

    # What others ask of it.

    @property
    def held(self) -> bool:
        """Whether it is not read at the moment."""
        return bool(self._holds)

    def hold(self, reason: int) -> None:
        """Stop reading for one of the reasons above."""
        if not self._holds and not self.lost:
            self.transport.pauseProducing()
            if self._held_call is None:
                self._held_call = self._clock.callLater(HELD_SECONDS, self._check_held)
        self._holds |= reason

    def release(self, reason: int) -> None:
        """Read again if that was the last reason not to."""
        if self._holds & reason:
            self._holds &= ~reason
            if not self._holds and not self.read_ended and not self.lost:
                self.transport.resumeProducing()

    def end_writing(self) -> None:
        """Send what is buffered, then a half-close; a whole close where there are no halves."""
        if self.write_ended or self.closing or self.lost:
            return
        if ISSLTransport.providedBy(self.transport):
            self.close()
            return
        self.write_ended = True
        # With a producer that it has paused, a TCP transport forgets to close when it has drained.
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        self._close_when_done()

    def close(self) -> None:
        """Send what is buffered and close, as soon as the far end has taken it.

        One that pauses gets as long as it would within a response; one that is gone is cut off,
        and so is one of which that can't be known (an SSH channel) after `close_timeout`.
        """
        if self.closing or self.lost:
            return
        self.closing = True
        self.sink = discard
        if not self.write_ended:
            self.transport.unregisterProducer()
        self._close_call = self._clock.callLater(self._close_timeout, self._check_close)
        self._close_if_taken()

    def hurry(self) -> None:
        """Give the far end no longer than `close_timeout` to take what there is at a close."""
        self._hurried = True

    def abort(self) -> None:
        """Reset the connection."""
        if self.lost:
            return
        self.closing = True
        self.sink = discard
        abort = getattr(self.transport, "abortConnection", None)
        if abort is None:
            self.transport.loseConnection()
        else:
            abort()

    def _check_held(self) -> None:
        # A socket that is not read does not tell of a reset; a stalled job would keep it for ever.
        self._held_call = None
        if self._holds:
            if is_gone(self.transport):
                self.abort()
            else:
                self._held_call = self._clock.callLater(HELD_SECONDS, self._check_held)

    def _close_if_taken(self) -> None:
        # The kernel gives a socket up that is closed and not read, within minutes: it stays open
        # while it holds something.
        taken = not untaken(self.transport)
        if taken or self._hurried or ISSLTransport.providedBy(self.transport):
            self._whole_close = True
            self.transport.loseConnection()
        elif not self.write_ended:
            self.write_ended = True
            self.transport.loseWriteConnection()
            # What it still says is dropped; its end is what is waited for.
            self.release(PEER_FULL | BUFFER_FULL)

    def _check_close(self) -> None:
        self._close_call = None
        taken = not untaken(self.transport)
        if self._hurried or (taken and self._whole_close) or is_gone(self.transport):
            self.abort()
            return
        self._close_call = self._clock.callLater(self._close_timeout, self._check_close)
        if taken:
            self._close_if_taken()

    def _close_when_done(self) -> None:
        if self.read_ended and self.write_ended:
            self.close()


def pair(a: End, b: End) -> None:
    """Make each end stop reading while the other is full."""
    a.peer = b
    b.peer = a
    if a.full:
        b.hold(PEER_FULL)
    if b.full:
        a.hold(PEER_FULL)


def part(end: End) -> None:
    """Undo `pair`, and `join`, for an end and its peer."""
    peer = end.peer
    for one in (end, peer):
        if one is not None:
            one.peer = None
            one._joined = False
            one.release(PEER_FULL)


def join(a: End, b: End) -> None:
    """Relay everything between two connected ends, for as long as either lasts."""
    pair(a, b)
    for one, other in ((a, b), (b, a)):
        one._joined = True
        one.sink = other.transport.write
        if one.read_ended:
            other.end_writing()
