# mypy: allow-untyped-calls
"""Tunnels' flow control and ends, against a server that the test speaks for."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.common import NS
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from jarvice_slurmd.errors import ForwardingRefusedError, NotConnectedError, TunnelConnectError
from jarvice_slurmd.ssh.flow import FlowConnection
from jarvice_slurmd.ssh.stream import FIRST_WINDOW
from jarvice_slurmd.ssh.tunnel import TunnelChannel
from test.ssh.fake_transport import FakeServer
from test.ssh.streams import HalfCloseRecorder, Recorder, Source, one

_MIB = 1 << 20


class _TunnelTests(SynchronousTestCase):
    """A connection, and channels on it."""

    def setUp(self) -> None:
        self.server = FakeServer(kind=FlowConnection)
        assert isinstance(self.server.connection, FlowConnection)
        self.connection: FlowConnection = self.server.connection

    def opening(self, protocol: Recorder | None = None) -> TunnelChannel:
        """A channel that waits for the server's answer."""
        channel = TunnelChannel(self.connection, "n1", 80, one(protocol or Recorder()), 2 * _MIB)
        self.connection.openChannel(channel, channel.open_data)
        return channel

    def open(
        self, protocol: Recorder | None = None, window: int = _MIB, packet: int = 32768
    ) -> TunnelChannel:
        """An open channel."""
        channel = self.opening(protocol)
        self.server.confirm(channel, window, packet)
        self.successResultOf(channel.opened)
        return channel

    def sent(self, kind: int) -> list[bytes]:
        """Messages of one kind that went out."""
        return self.server.transport.taken(kind)

    def granted(self) -> int:
        """What the server has been allowed beyond the first window."""
        adjustments = self.sent(conch.MSG_CHANNEL_WINDOW_ADJUST)
        return sum(struct.unpack(">2L", a)[1] for a in adjustments)

    def order(self) -> list[int]:
        """The channels whose data went out, in order."""
        return [struct.unpack(">L", d[:4])[0] - 1000 for d in self.sent(conch.MSG_CHANNEL_DATA)]


class OpenTests(_TunnelTests):
    """Opening, and why it may fail."""

    def test_open(self) -> None:
        """The port is asked for, and the protocol is connected to it."""
        protocol = Recorder()
        channel = self.open(protocol)
        request = self.sent(conch.MSG_CHANNEL_OPEN)[0]
        self.assertTrue(request.startswith(NS(b"direct-tcpip")))
        self.assertIn(NS(b"n1") + struct.pack(">L", 80), request)
        self.assertIs(protocol.transport, channel)
        self.assertEqual((channel.getPeer().hostname, channel.getPeer().port), (b"n1", 80))
        for interface in (ITransport, IConsumer, IPushProducer):
            self.assertTrue(verifyObject(interface, channel))

    def test_refused(self) -> None:
        """sshd's configuration, the port, and the link are told apart."""
        cases: list[tuple[int, type[Exception], str]] = [
            (1, ForwardingRefusedError, "administratively prohibited"),
            (2, TunnelConnectError, "n1:80 (Connection refused)"),
            (4, TunnelConnectError, "resources"),
        ]
        for code, error, words in cases:
            channel = self.opening()
            said = words.split("(")[-1].rstrip(")").encode()
            self.server.refuse(channel, code, said)
            self.assertIn(words, self.failureResultOf(channel.opened, error).getErrorMessage())
            self.successResultOf(channel.ended)
        channel = self.opening()
        self.server.lose("the plug")
        error_ = self.failureResultOf(channel.opened, NotConnectedError)
        self.assertIn("the plug", error_.getErrorMessage())
        self.successResultOf(channel.ended)

    def test_abandoned(self) -> None:
        """A channel that nobody wants any longer is closed when it opens, and freed."""
        cancelled, late = self.opening(), self.opening()
        cancelled.opened.cancel()
        self.failureResultOf(cancelled.opened, CancelledError)
        late.give_up(TunnelConnectError("too slow"))
        self.failureResultOf(late.opened, TunnelConnectError)
        for channel in (cancelled, late):
            self.server.confirm(channel, 1000)
            self.server.stdout(channel, b"SSH-2.0-hello")
            self.server.close(channel)
            self.successResultOf(channel.ended)
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_CLOSE)), 2)
        self.assertEqual(self.connection.channels, {})

    def test_give_up_after_opening(self) -> None:
        """Means nothing."""
        channel = self.open()
        channel.give_up(TunnelConnectError("too slow"))
        self.assertEqual(self.sent(conch.MSG_CHANNEL_CLOSE), [])


class ReceiveTests(_TunnelTests):
    """Data from the far end, at the reader's pace."""

    def fill(self, channel: TunnelChannel, size: int = 1 << 40) -> int:
        """Send as much as the channel allows; how much that was."""
        total = 0
        while total < size and channel.localWindowLeft > 0:
            piece = min(32768, channel.localWindowLeft, size - total)
            self.server.stdout(channel, b"x" * piece)
            total += piece
        return total

    def test_credit_after_an_eighth(self) -> None:
        """What was read is granted anew, an eighth of the window at a time."""
        channel = self.open()
        self.fill(channel, FIRST_WINDOW // 8 - 1)
        self.assertEqual(self.granted(), 0)
        self.server.stdout(channel, b"x")
        self.assertEqual(self.granted(), FIRST_WINDOW // 8)

    def test_window_grows(self) -> None:
        """A stream that moves is allowed more, up to the largest window and not beyond."""
        channel = self.open()
        self.fill(channel, 64 * _MIB)
        left = channel.localWindowLeft
        self.assertLessEqual(left, 2 * _MIB)
        self.assertGreater(left, 2 * _MIB * 3 // 4)

    def test_window_of_a_slow_reader(self) -> None:
        """A reader that does not keep up is allowed no more than at first, ever."""
        channel = self.open(protocol := Recorder())
        for _ in range(200):
            protocol._pause_after = len(protocol.data) + 32768
            channel.resumeProducing()
            self.fill(channel)
        self.assertGreater(len(protocol.data), 4 * _MIB)
        self.assertEqual(channel.localWindowLeft + channel._waiting, FIRST_WINDOW)

    def test_no_credit_while_paused(self) -> None:
        """A reader that stalls costs no more than the window; going on pays all of it back."""
        protocol = Recorder(pause_after=0)
        channel = self.open(protocol)
        channel.pauseProducing()
        self.assertEqual(self.fill(channel), FIRST_WINDOW)
        self.assertEqual(self.granted(), 0)
        self.assertEqual(len(protocol.data), 0)
        protocol._pause_after = None
        channel.resumeProducing()
        self.assertEqual(len(protocol.data), FIRST_WINDOW)
        self.assertGreaterEqual(channel.localWindowLeft, FIRST_WINDOW * 7 // 8)

    def test_paused_in_the_middle(self) -> None:
        """A reader may pause and go on from its own callback, and gets everything in order."""
        channel = self.open(protocol := Recorder(pause_after=10))
        self.server.stdout(channel, b"0123456789")
        self.server.stdout(channel, b"abc")
        self.server.stdout(channel, b"def")
        self.assertEqual(protocol.data, b"0123456789")
        protocol._pause_after = 12
        channel.resumeProducing()
        self.assertEqual(protocol.data, b"0123456789abc")
        channel.resumeProducing()
        self.assertEqual(protocol.data, b"0123456789abcdef")

    def test_resume_from_the_callback(self) -> None:
        """Going on while being called delivers nothing twice or out of order."""

        class Nervous(Recorder):
            def dataReceived(self, data: bytes) -> None:
                self.transport.pauseProducing()
                self.transport.resumeProducing()
                super().dataReceived(data)

        channel = self.open(protocol := Nervous())
        channel.pauseProducing()
        for n in range(10):
            self.server.stdout(channel, b"%d" % n)
        channel.resumeProducing()
        self.server.stdout(channel, b"x")
        self.assertEqual(protocol.data, b"0123456789x")

    def test_more_than_allowed(self) -> None:
        """A server that ignores the window loses the channel."""
        channel = self.open(protocol := Recorder())
        channel.pauseProducing()
        self.fill(channel)
        self.server.stdout(channel, b"x")
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_CLOSE)), 1)
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        self.server.clock.advance(0)
        self.assertEqual(protocol.events, ["lost"])

    def test_exception(self) -> None:
        """A reader that raises loses its own channel only."""

        class Broken(Recorder):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

        broken, good = self.open(Broken()), self.open(reader := Recorder())
        self.server.stdout(broken, b"x")
        self.server.stdout(good, b"y")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(reader.data, b"y")
        self.server.close(broken)
        self.successResultOf(broken.ended)


class SendTests(_TunnelTests):
    """Data to the far end, at its pace and the link's."""

    def test_packets(self) -> None:
        """Small writes are joined when they had to wait; packets fit; nothing is lost."""
        channel = self.open(window=0, packet=1000)
        for n in range(100):
            channel.write(b"%03d" % n * 10)
        self.assertEqual(self.sent(conch.MSG_CHANNEL_DATA), [])
        self.server.grow(channel, 2500)
        sizes = [len(d) - 8 for d in self.sent(conch.MSG_CHANNEL_DATA)]
        self.assertEqual(sizes, [1000, 1000, 500])
        self.server.grow(channel, _MIB)
        expected = b"".join(b"%03d" % n * 10 for n in range(100))
        self.assertEqual(self.server.received(), expected)

    def test_producer(self) -> None:
        """A producer is paused when the far end does not read, and little is kept."""
        channel = self.open(window=_MIB)
        source = Source(channel, 64 * _MIB)
        self.assertTrue(source.is_paused)
        kept = 64 * _MIB - source.left - len(self.server.received())
        self.assertEqual(len(self.server.received()), _MIB)
        self.assertLess(kept, 256 * 1024)
        self.server.grow(channel, _MIB)
        self.assertEqual(len(self.server.received()), 2 * _MIB)
        self.assertTrue(source.is_paused)

    def test_pull_producer(self) -> None:
        """A pull producer is asked for more when what it wrote has gone."""

        class Pull:
            left = 5

            def resumeProducing(self) -> None:
                self.left -= 1
                channel.write(b"x" * 1000)
                if not self.left:
                    channel.unregisterProducer()

            def stopProducing(self) -> None:
                raise AssertionError

        channel = self.open(window=2500)
        pull = Pull()
        channel.registerProducer(pull, False)
        self.assertEqual(pull.left, 2)
        channel.loseConnection()
        self.assertEqual(self.sent(conch.MSG_CHANNEL_CLOSE), [])
        self.server.grow(channel, _MIB)
        self.assertEqual(len(self.server.received()), 5000)
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_CLOSE)), 1)

    def test_congested_link(self) -> None:
        """While the socket is full nothing goes out; afterwards the channels take turns."""
        first, second = self.open(), self.open()
        self.connection.pauseProducing()
        first.write(b"a" * 100_000)
        second.write(b"b" * 70_000)
        self.assertEqual(self.order(), [])
        self.connection.resumeProducing()
        self.assertEqual(self.order(), [0, 1, 0, 1, 0, 1, 0])

    def test_socket_fills_up(self) -> None:
        """A socket that fills up in the middle stops the round, which goes on where it was."""
        first, second = self.open(), self.open()
        self.connection.pauseProducing()
        first.write(b"a" * 100_000)
        second.write(b"b" * 100_000)
        send = self.server.transport.send_data

        def send_one(header: bytes, data: bytes) -> None:
            send(header, data)
            self.connection.pauseProducing()

        self.server.transport.send_data = send_one  # type: ignore[method-assign]
        for _ in range(5):
            self.connection.resumeProducing()
        self.assertEqual(self.order(), [0, 1, 0, 1, 0])

    def test_rekeying(self) -> None:
        """No data goes out during a key exchange, all of it afterwards."""
        channel = self.open()
        self.server.transport.rekeying = True
        channel.write(b"x" * 100_000)
        self.assertEqual(self.order(), [])
        self.server.transport.rekeying = False
        self.connection.keys_changed()
        self.assertEqual(len(self.server.received()), 100_000)


class EndTests(_TunnelTests):
    """Half-closes, closes, and breaks."""

    def assert_gone(self, channel: TunnelChannel, protocol: Recorder, kind: Any) -> None:
        """The protocol was told once, with this reason, and the connection has forgotten it."""
        self.server.clock.advance(0)
        self.assertEqual(protocol.events.count("lost"), 1)
        self.assertIsNotNone(protocol.reason.check(kind))
        self.successResultOf(channel.ended)
        self.assertNotIn(channel, self.connection.channelsToRemoteChannel)

    def test_half_closes(self) -> None:
        """Each side ends its data when it likes; when both have, the channel closes."""
        channel = self.open(protocol := HalfCloseRecorder())
        self.server.eof(channel)
        self.assertEqual(protocol.events, ["read lost"])
        channel.write(b"still here")
        channel.loseWriteConnection()
        self.assertEqual(self.server.received(), b"still here")
        self.assertEqual(protocol.events, ["read lost", "write lost"])
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_EOF)), 1)
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_CLOSE)), 1)
        self.server.close(channel)
        self.assert_gone(channel, protocol, ConnectionDone)

    def test_half_close_waits(self) -> None:
        """Our end of data follows all of it; the other direction goes on."""
        channel = self.open(protocol := HalfCloseRecorder(), window=10)
        channel.write(b"x" * 25)
        channel.loseWriteConnection()
        channel.write(b"too late")
        self.server.grow(channel, 10)
        self.assertEqual(self.sent(conch.MSG_CHANNEL_EOF), [])
        self.server.grow(channel, 10)
        self.assertEqual(self.server.received(), b"x" * 25)
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_EOF)), 1)
        self.server.stdout(channel, b"answer")
        self.assertEqual(protocol.data, b"answer")

    def test_eof_behind_paused_data(self) -> None:
        """The far end's end of data is told after the data that a paused reader has waiting."""
        channel = self.open(protocol := HalfCloseRecorder())
        channel.pauseProducing()
        self.server.stdout(channel, b"last words")
        self.server.eof(channel)
        self.server.close(channel)
        self.assertEqual((protocol.data, protocol.events), (b"", []))
        channel.resumeProducing()
        self.assertEqual(protocol.data, b"last words")
        self.assert_gone(channel, protocol, ConnectionDone)

    def test_plain_protocol(self) -> None:
        """One that knows no half-close is closed when the far end ends."""
        channel = self.open(protocol := Recorder())
        self.server.eof(channel)
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_CLOSE)), 1)
        self.server.close(channel)
        self.assert_gone(channel, protocol, ConnectionDone)

    def test_broken_far_end(self) -> None:
        """A close without an end of data is no clean end."""
        channel = self.open(protocol := Recorder())
        self.server.close(channel)
        self.assert_gone(channel, protocol, ConnectionLost)

    def test_lose_connection(self) -> None:
        """What was written goes out first; what comes in is dropped, and paid for."""
        channel = self.open(protocol := Recorder(), window=10)
        channel.write(b"x" * 20)
        channel.loseConnection()
        self.assertEqual(self.sent(conch.MSG_CHANNEL_CLOSE), [])
        for _ in range(40):
            self.server.stdout(channel, b"y" * 32768)
        self.server.grow(channel, 10)
        self.assertEqual(self.server.received(), b"x" * 20)
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_CLOSE)), 1)
        self.assertEqual(protocol.events, [])
        self.server.clock.advance(0)
        self.assertEqual((protocol.data, protocol.events), (b"", ["lost"]))
        self.assertNoResult(channel.ended)
        self.server.close(channel)
        self.assert_gone(channel, protocol, ConnectionDone)

    def test_lose_paused_connection(self) -> None:
        """A paused reader that leaves frees its channel; waiting data is dropped."""
        channel = self.open(protocol := Recorder())
        channel.pauseProducing()
        self.server.stdout(channel, b"unread")
        channel.loseConnection()
        self.server.close(channel)
        self.assertEqual(protocol.data, b"")
        self.assert_gone(channel, protocol, ConnectionDone)

    def test_abort(self) -> None:
        """At once, whatever the far end still had to take; told in the reactor's next turn."""
        channel = self.open(protocol := Recorder(), window=0)
        source = Source(channel, 10 * _MIB)
        channel.abortConnection()
        channel.abortConnection()
        self.assertEqual(len(self.sent(conch.MSG_CHANNEL_CLOSE)), 1)
        self.assertEqual(protocol.events, [])
        self.server.clock.advance(0)
        self.assertTrue(source.is_stopped)
        self.server.close(channel)
        self.assert_gone(channel, protocol, ConnectionAborted)

    def test_link_lost(self) -> None:
        """Every tunnel ends with the link, also one whose reader is paused."""
        first, second = Recorder(), Recorder()
        channels = [self.open(first), self.open(second)]
        channels[1].pauseProducing()
        self.server.stdout(channels[1], b"unread")
        source = Source(channels[0], 10 * _MIB)
        self.server.lose("the plug")
        for channel, protocol in zip(channels, (first, second), strict=True):
            self.assert_gone(channel, protocol, ConnectionLost)
            self.assertIn("the plug", protocol.reason.getErrorMessage())
        self.assertTrue(source.is_stopped)
        channels[0].write(b"too late")
        channels[0].loseConnection()
        channels[0].abortConnection()

    def test_producer_is_stopped(self) -> None:
        """Whoever produces for a far end that left is told, and who comes later too."""
        channel = self.open()
        source = Source(channel, 10 * _MIB)
        self.server.close(channel)
        self.assertTrue(source.is_stopped)
        self.assertTrue(Source(channel, 1).is_stopped)
