"""How large a stream's window becomes, and what is known of the way; the time is the test's."""

from __future__ import annotations

from twisted.conch.ssh import connection as conch
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.ssh.buffers import ReceiveWindow
from jarvice_slurmd.ssh.flow import FlowConnection
from test.ssh.fake_transport import FakeServer

_KIB = 1024
_MIB = 1024 * 1024


class ReceiveWindowTests(SynchronousTestCase):
    """`ReceiveWindow` over a distance."""

    def setUp(self) -> None:
        self.queue = 0.0
        self.window = ReceiveWindow(256 * _KIB, 16 * _MIB, lambda: self.queue)
        self.left = self.window.size

    def take_windows(self, count: int) -> None:
        """The far end sends all that it may, so many times, and all of it is taken at once."""
        for _ in range(count):
            taken = 0
            while taken < self.window.size:
                self.left -= 32 * _KIB
                taken += 32 * _KIB
                self.left += self.window.credit(32 * _KIB, 0)
            self.assertLessEqual(self.left, self.window.size)

    def test_no_queue(self) -> None:
        """It grows to the largest."""
        self.take_windows(15)
        self.assertEqual(self.window.size, 16 * _MIB)

    def test_queue(self) -> None:
        """While there is some it stays; while there is much it shrinks, but not to nothing."""
        self.take_windows(4)
        size = self.window.size
        self.queue = 0.3
        self.take_windows(4)
        self.assertEqual(self.window.size, size)
        self.queue = 0.6
        self.take_windows(2)
        self.assertLess(self.window.size, size * 3 // 5)
        self.take_windows(30)
        self.assertEqual(self.window.size, 512 * _KIB)
        self.assertGreater(self.left, 0)
        self.queue = 0.0
        self.take_windows(15)
        self.assertEqual(self.window.size, 16 * _MIB)
        self.assertGreater(self.left, 13 * _MIB)

    def test_small_and_queue(self) -> None:
        """One that is small already is not made larger by a queue."""
        self.queue = 9.0
        self.take_windows(5)
        self.assertEqual(self.window.size, 256 * _KIB)


class QueueingTests(SynchronousTestCase):
    """`FlowConnection.queueing`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.server = FakeServer(self.clock, FlowConnection)
        assert isinstance(self.server.connection, FlowConnection)
        self.connection = self.server.connection

    def answer(self, seconds: float) -> None:
        """The measurement under way takes so long."""
        self.assertEqual(len(self.connection.deferreds["global"]), 1)
        self.clock.advance(seconds)
        self.connection.packetReceived(conch.MSG_REQUEST_FAILURE, b"")

    def test_measured(self) -> None:
        """In shortest round trips, as it was when last measured; one measurement at a time."""
        self.assertEqual(self.connection.queueing(), 0.0)
        self.assertEqual(self.connection.queueing(), 0.0)
        self.answer(0.05)
        self.assertEqual(self.connection.queueing(), 0.0)
        self.answer(0.125)
        self.assertAlmostEqual(self.connection.queueing(), 1.5)
        self.answer(0.04)
        self.assertAlmostEqual(self.connection.queueing(), 0.0)
        self.answer(0.05)
        self.assertAlmostEqual(self.connection.queueing(), 0.25)

    def test_connection_ends(self) -> None:
        """Nothing is waited for then, and nothing more is asked."""
        self.connection.queueing()
        self.server.lose("the plug")
        self.assertEqual(self.connection.queueing(), 0.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
