# mypy: allow-untyped-calls
"""Protocols for the ends of a tunnel, that remember what happened to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


class Recorder(Protocol):
    """Keeps what it gets; `pause_after` makes it a reader that stalls."""

    transport: Any

    def __init__(self, pause_after: int | None = None) -> None:
        self.data = bytearray()
        self.events: list[str] = []
        self.lost: Deferred[None] = Deferred()
        self._pause_after = pause_after
        self._waiters: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as it is so, looked at whenever something happens here."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append((condition, waiter))
        self._look()
        return waiter

    def _look(self) -> None:
        for condition, waiter in list(self._waiters):
            if condition():
                self._waiters.remove((condition, waiter))
                waiter.callback(None)

    def has(self, data: bytes) -> bool:
        """Whether it got exactly this."""
        return self.data == data

    def saw(self, event: str) -> bool:
        """Whether that has happened."""
        return event in self.events

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.data += data
        if self._pause_after is not None and len(self.data) >= self._pause_after:
            self._pause_after = None
            self.transport.pauseProducing()
        self._look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end."""
        self.events.append("lost")
        self.reason = reason
        self.lost.callback(None)
        self._look()


@implementer(IHalfCloseableProtocol)
class HalfCloseRecorder(Recorder):
    """One that is told of half-closes."""

    def readConnectionLost(self) -> None:
        """The far end writes no more."""
        self.events.append("read lost")
        self._look()

    def writeConnectionLost(self) -> None:
        """Our half-close went out."""
        self.events.append("write lost")
        self._look()


@implementer(IPushProducer)
class Source:
    """A push producer of `size` bytes, as fast as its consumer takes them."""

    def __init__(self, consumer: Any, size: int, chunk: int = 65536) -> None:
        self._consumer = consumer
        self.left = size
        self._chunk = bytes(range(256)) * (chunk // 256)
        self.is_paused = False
        self.is_stopped = False
        self._is_producing = False
        self._is_done = False
        consumer.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        """The consumer is full."""
        self.is_paused = True

    def resumeProducing(self) -> None:
        """The consumer takes more."""
        self.is_paused = False
        if self._is_producing:
            return
        self._is_producing = True
        while self.left and not self.is_paused and not self.is_stopped:
            data = self._chunk[: self.left]
            self.left -= len(data)
            self._consumer.write(data)
        self._is_producing = False
        if not self.left and not self.is_stopped and not self._is_done:
            self._is_done = True
            self._consumer.unregisterProducer()
            self._consumer.loseWriteConnection()

    def stopProducing(self) -> None:
        """The consumer is gone."""
        self.is_stopped = True


def one(protocol: Protocol) -> IProtocolFactory:
    """A factory of this one protocol."""
    return Factory.forProtocol(lambda: protocol)
