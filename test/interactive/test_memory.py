"""Connections in memory behave as connections do."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from jarvice_slurmd.interactive.memory import MAX_BUFFERED, connect_in_memory

PEER = IPv4Address("TCP", "10.0.0.9", 1234)
HOST = IPv4Address("TCP", "10.0.0.1", 8080)


class _Side(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.lost: Failure | None = None
        self.paused = 0
        self.resumed = 0
        self.answer = b""

    def dataReceived(self, data: bytes) -> None:
        self.got.append(data)
        if self.answer:
            self.transport.write(self.answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None:
        self.resumed += 1

    def stopProducing(self) -> None:
        pass


@implementer(IHalfCloseableProtocol)
class _HalfSide(_Side):
    read_ended = 0

    def readConnectionLost(self) -> None:
        self.read_ended += 1

    def writeConnectionLost(self) -> None:
        pass


class MemoryTests(SynchronousTestCase):
    def connect(self, near: _Side, far: _Side, *, secure: bool = False) -> None:
        self.clock = Clock()
        self.near, self.far = near, far
        connect_in_memory(near, far, clock=self.clock, peer=PEER, host=HOST, secure=secure)

    def test_bytes_and_addresses(self) -> None:
        self.connect(_Side(), _Side())
        self.near.transport.write(b"a")
        self.far.transport.writeSequence([b"b", b"c"])
        self.assertEqual((self.far.got, self.near.got), ([b"a"], [b"bc"]))
        self.assertEqual((self.far.transport.getPeer(), self.far.transport.getHost()), (PEER, HOST))

    def test_tls_is_told(self) -> None:
        self.connect(_Side(), _Side())
        self.assertFalse(ISSLTransport.providedBy(self.far.transport))
        self.connect(_Side(), _Side(), secure=True)
        verifyObject(ISSLTransport, self.far.transport)
        self.assertFalse(ISSLTransport.providedBy(self.near.transport))

    def test_back_pressure(self) -> None:
        self.connect(_Side(), _Side())
        self.near.transport.registerProducer(self.near, True)
        self.far.transport.pauseProducing()
        self.near.transport.write(b"x" * MAX_BUFFERED)
        self.assertEqual(self.near.paused, 0)
        self.near.transport.write(b"y")
        self.near.transport.write(b"z")
        self.assertEqual((self.near.paused, self.far.got), (1, []))
        self.far.transport.resumeProducing()
        self.assertEqual(b"".join(self.far.got)[-3:], b"xyz")
        self.assertEqual(self.near.resumed, 1)

    def test_no_call_within_a_call(self) -> None:
        self.connect(_Side(), _Side())
        depths: list[int] = []
        depth = 0

        def nested(data: bytes) -> None:
            nonlocal depth
            depth += 1
            depths.append(depth)
            if len(depths) < 5:
                self.near.transport.write(b"again")
            depth -= 1

        self.far.dataReceived = nested  # type: ignore[method-assign]
        self.near.transport.write(b"first")
        self.assertEqual(depths, [1] * 5)

    def test_close_comes_after_the_bytes_and_later(self) -> None:
        self.connect(_Side(), _Side())
        self.far.transport.pauseProducing()
        self.near.transport.write(b"last")
        self.near.transport.loseConnection()
        self.near.transport.write(b"never")
        self.clock.advance(0)
        self.assertIsNone(self.far.lost)
        self.far.transport.resumeProducing()
        self.assertIsNone(self.far.lost)
        self.clock.advance(0)
        self.assertEqual(self.far.got, [b"last"])
        for side in (self.near, self.far):
            assert side.lost is not None
            self.assertTrue(side.lost.check(ConnectionDone))

    def test_half_close(self) -> None:
        far = _HalfSide()
        self.connect(_Side(), far)
        self.near.transport.write(b"last")
        self.near.transport.loseWriteConnection()
        self.near.transport.loseWriteConnection()
        self.clock.advance(0)
        self.assertEqual((far.got, far.read_ended, far.lost), ([b"last"], 1, None))
        far.transport.write(b"answer")
        self.assertEqual(self.near.got, [b"answer"])
        self.near.transport.loseConnection()
        self.clock.advance(0)
        self.assertIsNotNone(far.lost)

    def test_half_close_of_one_who_knows_none(self) -> None:
        self.connect(_HalfSide(), _Side())
        self.near.transport.loseWriteConnection()
        self.clock.advance(0)
        self.assertIsNotNone(self.near.lost)
        self.assertIsNotNone(self.far.lost)

    def test_abort(self) -> None:
        self.connect(_Side(), _Side())
        self.far.transport.pauseProducing()
        self.near.transport.write(b"lost")
        self.near.transport.abortConnection()
        self.clock.advance(0)
        assert self.far.lost is not None
        self.assertTrue(self.far.lost.check(ConnectionLost))
        self.assertEqual(self.far.got, [])
        self.far.transport.resumeProducing()
        self.far.transport.write(b"x")
        self.assertEqual(self.near.got, [])

    def test_error_of_a_protocol_cuts_it(self) -> None:
        def broken(data: bytes) -> None:
            raise ZeroDivisionError

        self.connect(_Side(), _Side())
        self.far.dataReceived = broken  # type: ignore[method-assign]
        self.near.transport.write(b"x")
        self.clock.advance(0)
        self.assertIsNotNone(self.near.lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_producers(self) -> None:
        self.connect(_Side(), _Side())
        with self.assertRaises(RuntimeError):
            self.near.transport.registerProducer(self.near, False)
        self.near.transport.registerProducer(self.near, True)
        with self.assertRaises(RuntimeError):
            self.near.transport.registerProducer(self.near, True)
