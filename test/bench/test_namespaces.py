"""The wire's delay."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from test.bench.namespaces import Delay


class DelayTests(SynchronousTestCase):
    """Packets between two devices, which sockets that keep packets apart stand for."""

    def setUp(self) -> None:
        """Connect a delay of two seconds."""
        self.sender, source = socket.socketpair(type=socket.SOCK_DGRAM)
        self.receiver, sink = socket.socketpair(type=socket.SOCK_DGRAM)
        for one in (self.sender, source, self.receiver, sink):
            one.setblocking(False)
            self.addCleanup(one.close)
        self.delay = Delay(source.fileno(), sink.fileno(), 2.0)
        self.slow = Delay(source.fileno(), sink.fileno(), 2.0, 1.0)

    def test_in_time(self) -> None:
        """A packet goes on when it is due and not before, in order, and as it came."""
        self.sender.send(b"one")
        self.delay.take(10.0)
        self.sender.send(b"two")
        self.delay.take(11.0)
        self.assertEqual(self.delay.due, 12.0)
        self.delay.give(11.9)
        self.assertRaises(BlockingIOError, self.receiver.recv, 10)
        self.delay.give(12.0)
        self.assertEqual(self.receiver.recv(10), b"one")
        self.assertRaises(BlockingIOError, self.receiver.recv, 10)
        self.delay.give(20.0)
        self.assertEqual(self.receiver.recv(10), b"two")
        self.assertIsNone(self.delay.due)

    def test_rate(self) -> None:
        """A packet leaves when those before it have left; the queue holds a round trip and ends."""
        for packet in (b"one", b"two", b"lost"):
            self.sender.send(packet)
        self.slow.take(10.0)
        self.slow.give(14.9)
        self.assertRaises(BlockingIOError, self.receiver.recv, 10)
        self.slow.give(15.0)
        self.assertEqual(self.receiver.recv(10), b"one")
        self.assertEqual(self.slow.due, 18.0)
        self.sender.send(b"last")
        self.slow.take(13.0)
        self.slow.give(18.0)
        self.assertEqual(self.receiver.recv(10), b"two")
        self.slow.give(22.0)
        self.assertEqual(self.receiver.recv(10), b"last")
        self.assertIsNone(self.slow.due)
