"""Two protocols of one process, joined without a socket: how the API's own site is reached.

A pair behaves as a TCP connection does for its protocols: bounded buffers with back-pressure, a
half-close that only `IHalfCloseableProtocol`s survive, ends that are told later and never from
inside a call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: Bytes that one side may have written before its producer is paused.
MAX_BUFFERED: Final = 64 * 1024

_log = Logger()


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One side's transport. What is written comes out of `other`'s protocol, at once if it may."""

    disconnecting = False

    def __init__(self, clock: IReactorTime, peer: IAddress, host: IAddress) -> None:
        self.other: MemoryTransport
        self.protocol: IProtocol
        self.lost = False
        self._clock = clock
        self._peer = peer
        self._host = host
        self._outbox: deque[bytes] = deque()
        self._buffered = 0
        self._delivering = False
        self._paused = False
        self._producer: Any = None
        self._producer_paused = False
        self._end_of_write = False
        self._half_end_told = False

    # ITransport

    def write(self, data: bytes) -> None:
        """See `ITransport.write`; beyond `MAX_BUFFERED` the producer is paused."""
        if not data or self.lost or self._end_of_write:
            return
        self._outbox.append(data)
        self._buffered += len(data)
        self._deliver()
        if self._buffered > MAX_BUFFERED and self._producer and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See `ITransport.writeSequence`."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once the other side has taken what was written."""
        if not self.disconnecting:
            self.disconnecting = self._end_of_write = True
            self._when_drained()

    def loseWriteConnection(self) -> None:
        """Half-close once the other side has taken what was written."""
        if not self._end_of_write:
            self._end_of_write = True
            self._when_drained()

    def abortConnection(self) -> None:
        """Drop what was written; the other side is told of a lost connection."""
        if not self.lost:
            self._outbox.clear()
            self.disconnecting = self._end_of_write = True
            self._clock.callLater(0, self._end, ConnectionAborted(), ConnectionLost())

    def getPeer(self) -> Any:
        """The address that this side is told it talks to."""
        return self._peer

    def getHost(self) -> Any:
        """The address that this side is told is its own."""
        return self._host

    # IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer.registerProducer`; pull producers are a `RuntimeError`."""
        if self._producer is not None:
            raise RuntimeError("There is a producer already.")
        if not streaming:
            raise RuntimeError("Only push producers are understood.")
        if self.lost:
            producer.stopProducing()
        else:
            self._producer = producer
            self._producer_paused = False

    def unregisterProducer(self) -> None:
        """See `IConsumer.unregisterProducer`."""
        self._producer = None

    # IPushProducer

    def pauseProducing(self) -> None:
        """Deliver no more to this side: what comes stays in the other's buffer."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver what waits for this side."""
        self._paused = False
        self.other._deliver()

    def stopProducing(self) -> None:
        """See `IProducer.stopProducing`: no more at all."""
        self.loseConnection()

    def _deliver(self) -> None:
        # One piece at a time and never one inside the other, as from a socket.
        if self._delivering:
            return
        self._delivering = True
        other = self.other
        try:
            while self._outbox and not other._paused and not other.lost:
                data = self._outbox.popleft()
                self._buffered -= len(data)
                other.protocol.dataReceived(data)
        except Exception:
            _log.failure("A connection in memory is cut after an error of its protocol's")
            self.abortConnection()
        finally:
            self._delivering = False
        if not self._outbox:
            if self._producer_paused:
                self._producer_paused = False
                if self._producer is not None:
                    self._producer.resumeProducing()
            if self._end_of_write:
                self._when_drained()

    def _when_drained(self) -> None:
        if self._outbox or self._delivering or self.lost:
            return
        if self.disconnecting or not IHalfCloseableProtocol.providedBy(self.other.protocol):
            self._clock.callLater(0, self._end, ConnectionDone(), ConnectionDone())
        elif not self._half_end_told:
            self._half_end_told = True
            self._clock.callLater(0, self._half_end)

    def _half_end(self) -> None:
        if not self.other.lost:
            IHalfCloseableProtocol(self.other.protocol).readConnectionLost()

    def _end(self, mine: Exception, others: Exception) -> None:
        for side, reason in ((self, mine), (self.other, others)):
            if not side.lost:
                side.lost = True
                side._outbox.clear()
                if side._producer is not None:
                    side._producer.stopProducing()
                    side._producer = None
                side.protocol.connectionLost(Failure(reason))


@implementer(ISSLTransport)
class SecureMemoryTransport(MemoryTransport):
    """Says that the outer connection is TLS, which is what `Request.isSecure` looks for."""

    def getPeerCertificate(self) -> object:
        """None: who is at the other end was asked outside, if at all."""
        return None

    # What else the interface wants means nothing without a socket.

    def getTcpNoDelay(self) -> bool:
        """True: nothing is held back here."""
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing: there is no socket."""

    def getTcpKeepAlive(self) -> bool:
        """False: there is no socket."""
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing: there is no socket."""


def connect_in_memory(
    near: IProtocol,
    far: IProtocol,
    *,
    clock: IReactorTime,
    peer: IAddress,
    host: IAddress,
    secure: bool = False,
) -> None:
    """Join two protocols. `far` is told that its connection came from `peer` to `host`."""
    near_side = MemoryTransport(clock, host, peer)
    far_side = (SecureMemoryTransport if secure else MemoryTransport)(clock, peer, host)
    near_side.other, far_side.other = far_side, near_side
    near_side.protocol, far_side.protocol = near, far
    far.makeConnection(far_side)
    near.makeConnection(near_side)
