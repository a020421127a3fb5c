# mypy: allow-untyped-calls
"""The opener's connections and its memory of refusals: no sockets, and the time is the test's."""

from __future__ import annotations

import random
from typing import Any

from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import NotConnectedError, TunnelConnectError
from jarvice_slurmd.ssh.client import SSHSetupError
from jarvice_slurmd.ssh.command import CommandChannel
from jarvice_slurmd.ssh.exec_tunnel import ExecTunnelChannel
from jarvice_slurmd.ssh.flow import FlowConnection
from jarvice_slurmd.ssh.forward import SSHTunnelOpener, TunnelOptions
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy
from jarvice_slurmd.ssh.options import LinkOptions
from jarvice_slurmd.ssh.tunnel import TunnelChannel
from test.ssh.fake_transport import FakeServer
from test.ssh.streams import HalfCloseRecorder, Recorder, one


class _OpenerTests(SynchronousTestCase):
    """A started opener whose attempts to connect end as the test says."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.attempts: list[Deferred[FlowConnection]] = []
        self.servers: list[FakeServer] = []
        key: Key = Key(None)  # never used
        self.opener = SSHTunnelOpener(
            self.clock,
            "h",
            22,
            "u",
            key,
            HostKeyPolicy(),
            TunnelOptions(
                link=LinkOptions(max_sessions=3, down_patience=3, rng=random.Random(1)),
                open_timeout=10,
                refusal_kept=600,
                max_refusals=3,
                max_connections=2,
            ),
            connect=self._connect,
        )
        self.opener.startService()

    def _connect(self) -> Deferred[FlowConnection]:
        attempt: Deferred[FlowConnection] = Deferred()
        self.attempts.append(attempt)
        return attempt

    def open(self, host: str = "n1", protocol: Recorder | None = None) -> Deferred[IProtocol]:
        """Ask for a tunnel."""
        return self.opener.open(host, 80, one(protocol or Recorder()))

    def connect(self) -> FakeServer:
        """The attempt under way succeeds; the connection waits to be primed."""
        server = FakeServer(self.clock, FlowConnection)
        self.servers.append(server)
        assert isinstance(server.connection, FlowConnection)
        self.attempts[-1].callback(server.connection)
        return server

    def answer_probes(self, server: FakeServer, round_trip: float = 0.001) -> None:
        """Answer every keep-alive that went out, and those that follow."""
        while server.connection.deferreds["global"]:
            self.clock.advance(round_trip)
            server.connection.packetReceived(conch.MSG_REQUEST_FAILURE, b"")

    def up(self, round_trip: float = 0.001) -> FakeServer:
        """The attempt under way succeeds, and the connection's first session ends."""
        server = self.connect()
        (prime,) = self.channels(server, CommandChannel)
        server.confirm(prime)
        self.answer_probes(server, round_trip)
        server.exit_status(prime, 0)
        server.close(prime)
        return server

    def wait(self, server: FakeServer, seconds: int) -> None:
        """Let time pass on a connection that is alive."""
        for _ in range(seconds):
            server.connection.packetReceived(conch.MSG_CHANNEL_DATA, b"\0\0\x63\0")
            self.clock.advance(1)

    def channels(self, server: FakeServer, kind: type) -> list[Any]:
        """The channels of a connection that have not ended, the oldest first."""
        return [c for c in server.connection.channels.values() if type(c) is kind]

    def refuse_forwarding(self, server: FakeServer) -> None:
        """sshd forbids forwarding."""
        (channel,) = self.channels(server, TunnelChannel)
        server.refuse(channel, 1, b"administratively prohibited")

    def relay_connects(self, server: FakeServer, channel: ExecTunnelChannel) -> None:
        """The relay runs and has connected."""
        nonce = channel._invocation.nonce + b"\n"
        server.confirm(channel, 1 << 20)
        server.stdout(channel, nonce)
        server.stderr(channel, nonce + b"jarvice-connected\n")


class ConnectionTests(_OpenerTests):
    """When connections are made."""

    def test_first_tunnel_connects(self) -> None:
        """Nothing is connected before somebody needs it; then once for everybody."""
        self.assertEqual(self.attempts, [])
        tunnels = [self.open() for _ in range(5)]
        self.assertEqual(len(self.attempts), 1)
        server = self.up()
        for channel in self.channels(server, TunnelChannel):
            server.confirm(channel)
        for tunnel in tunnels:
            self.successResultOf(tunnel)
        self.assertEqual((self.opener.tunnels, self.opener.connections), (5, 1))

    def test_primed(self) -> None:
        """A session comes first, and tunnels only after it was confirmed and its command sent."""
        self.open()
        server = self.connect()
        self.assertEqual(self.channels(server, TunnelChannel), [])
        (prime,) = self.channels(server, CommandChannel)
        server.confirm(prime)
        self.answer_probes(server)
        self.assertEqual(server.transport.requests(), [b"exec"])
        self.assertEqual(len(self.channels(server, TunnelChannel)), 1)

    def test_no_session_to_prime(self) -> None:
        """A server that opens no session may forward all the same."""
        self.open()
        server = self.connect()
        (prime,) = self.channels(server, CommandChannel)
        server.refuse(prime, 1, b"no sessions here")
        self.answer_probes(server)
        self.assertEqual(len(self.channels(server, TunnelChannel)), 1)

    def test_window_of_the_distance(self) -> None:
        """Far away the largest window is larger."""
        windows = []
        for round_trip in (0.001, 0.05):
            self.setUp()
            self.open()
            server = self.up(round_trip)
            (channel,) = self.channels(server, TunnelChannel)
            windows.append(channel._window.largest)
        self.assertEqual(windows, [2 << 20, 16 << 20])

    def test_patience(self) -> None:
        """A tunnel waits so long for a connection, through several attempts, and says why not."""
        tunnel = self.open()
        for _ in range(29):
            if not self.attempts[-1].called:
                self.attempts[-1].errback(SSHSetupError("no TCP connection"))
            self.clock.advance(0.1)
        self.assertGreater(len(self.attempts), 2)
        self.assertNoResult(tunnel)
        self.clock.advance(0.2)
        error = self.failureResultOf(tunnel, NotConnectedError)
        self.assertIn("no TCP connection", error.getErrorMessage())
        count = len(self.attempts)
        self.clock.advance(100)
        self.assertLessEqual(len(self.attempts), count + 1)

    def test_lost(self) -> None:
        """After a loss the next tunnel connects again."""
        tunnel = self.open()
        server = self.up()
        server.lose("the plug")
        self.failureResultOf(tunnel, NotConnectedError)
        self.assertEqual(self.opener.connections, 0)
        self.open()
        self.assertEqual(len(self.attempts), 2)

    def test_lost_while_being_primed(self) -> None:
        """A connection that ends before it is ready counts as an attempt that failed."""
        tunnel = self.open()
        self.connect().lose("the plug")
        self.assertNoResult(tunnel)
        self.clock.advance(1)
        server = self.up()
        server.confirm(self.channels(server, TunnelChannel)[0])
        self.successResultOf(tunnel)

    def test_stopped_while_being_primed(self) -> None:
        """A connection that is given up before it is ready is closed, and waited for."""
        tunnel = self.open()
        server = self.connect()
        stopped = self.opener.stopService()
        self.failureResultOf(tunnel, NotConnectedError)
        self.assertNoResult(stopped)
        self.assertTrue(server.transport.aborted)
        server.lose("closed")
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """A caller that gives up while connecting is forgotten."""
        tunnel = self.open()
        tunnel.cancel()
        self.failureResultOf(tunnel, CancelledError)
        server = self.up()
        self.assertEqual(self.channels(server, TunnelChannel), [])

    def test_no_answer(self) -> None:
        """A port that does not answer is given up; what opens later is closed."""
        tunnel = self.open()
        server = self.up()
        (channel,) = self.channels(server, TunnelChannel)
        self.wait(server, 10)
        error = self.failureResultOf(tunnel, TunnelConnectError)
        self.assertIn("n1:80 did not answer within 10 s", error.getErrorMessage())
        server.confirm(channel)
        self.assertEqual(len(server.transport.taken(conch.MSG_CHANNEL_CLOSE)), 2)


class RefusalTests(_OpenerTests):
    """Where sshd does not forward."""

    def test_relay(self) -> None:
        """The tunnel goes through a relay, later ones at once, and the log says so once."""
        tunnel = self.open()
        server = self.up()
        with capturedLogs() as logs:
            self.refuse_forwarding(server)
            (channel,) = self.channels(server, ExecTunnelChannel)
            self.relay_connects(server, channel)
            self.successResultOf(tunnel)
            self.open()
            self.assertEqual(self.channels(server, TunnelChannel), [])
            self.assertEqual(len(self.channels(server, ExecTunnelChannel)), 2)
        self.assertEqual([e["log_level"] for e in logs], [LogLevel.warn])

    def test_forwarding_is_tried_again(self) -> None:
        """A refusal is believed for a while; when forwarding works again the log says so."""
        self.open()
        server = self.up()
        self.refuse_forwarding(server)
        self.relay_connects(server, self.channels(server, ExecTunnelChannel)[0])
        self.wait(server, 601)
        with capturedLogs() as logs:
            self.open()
            self.refuse_forwarding(server)
            self.relay_connects(server, self.channels(server, ExecTunnelChannel)[1])
        self.assertEqual([e for e in logs if e["log_level"] >= LogLevel.warn], [])
        self.wait(server, 601)
        with capturedLogs() as logs:
            tunnel = self.open()
            server.confirm(self.channels(server, TunnelChannel)[0])
            self.successResultOf(tunnel)
        self.assertEqual([e["log_level"] for e in logs], [LogLevel.warn])

    def test_some_are_refused(self) -> None:
        """Who may be forwarded to is, whatever else is refused; that is told once, and no end."""
        self.open()
        server = self.up()
        self.assertFalse(self.opener.relays)
        with capturedLogs() as logs:
            for count in range(1, 3):
                self.refuse_forwarding(server)
                channel = self.channels(server, ExecTunnelChannel)[-1]
                self.relay_connects(server, channel)
                self.assertTrue(self.opener.relays)
                allowed = self.open("n2")
                server.confirm(self.channels(server, TunnelChannel)[0])
                self.successResultOf(allowed)
                for open_channel in (channel, *self.channels(server, TunnelChannel)):
                    server.close(open_channel)
                self.assertEqual(
                    len(server.transport.taken(conch.MSG_CHANNEL_CLOSE)), 1 + 2 * count
                )
                self.wait(server, 601)
                self.assertFalse(self.opener.relays)
                self.open()
        self.assertEqual([e["log_level"] for e in logs], [LogLevel.warn])

    def test_refusals_are_bounded(self) -> None:
        """Of many addresses that are refused the oldest are forgotten, and tried anew."""
        self.open("n0")
        server = self.up()
        for n in range(1, 5):
            self.refuse_forwarding(server)
            (channel,) = self.channels(server, ExecTunnelChannel)
            self.relay_connects(server, channel)
            server.close(channel)
            self.open(f"n{n}")
        self.assertEqual(len(self.opener._refusals), 3)
        self.refuse_forwarding(server)
        self.open("n4")
        self.assertEqual(self.channels(server, TunnelChannel), [])
        self.open("n0")
        self.assertEqual(len(self.channels(server, TunnelChannel)), 1)

    def test_sessions(self) -> None:
        """No more relays on a connection than it has sessions; then a further connection."""
        self.open()
        first = self.up()
        self.refuse_forwarding(first)
        for _ in range(4):
            self.open()
        self.assertEqual(len(self.channels(first, ExecTunnelChannel)), 3)
        self.assertEqual(len(self.attempts), 2)
        second = self.up()
        self.assertEqual(len(self.channels(second, ExecTunnelChannel)), 2)

    def test_no_session_is_left(self) -> None:
        """Who waits in vain is told that it is not the link, and the log once."""
        self.open()
        self.refuse_forwarding(self.up())
        for _ in range(5):
            self.open()
        self.up()
        with capturedLogs() as logs:
            waiting = [self.open(), self.open()]
            self.clock.advance(3)
            for tunnel in waiting:
                error = self.failureResultOf(tunnel, NotConnectedError)
                self.assertIn("6 sessions are in use", str(error.value))
        self.assertEqual([e["log_level"] for e in logs], [LogLevel.warn])

    def test_fewer_sessions(self) -> None:
        """A server that allows fewer is believed, and the tunnel goes elsewhere."""
        self.open()
        first = self.up()
        self.refuse_forwarding(first)
        self.relay_connects(first, self.channels(first, ExecTunnelChannel)[0])
        tunnel = self.open()
        first.refuse(self.channels(first, ExecTunnelChannel)[1], 2, b"open failed")
        self.assertEqual(len(self.attempts), 2)
        second = self.up()
        (channel,) = self.channels(second, ExecTunnelChannel)
        self.relay_connects(second, channel)
        self.successResultOf(tunnel)

    def test_stream(self) -> None:
        """Stdout is the stream from the nonce on, stderr is not, and the status tells the end."""
        tunnel = self.open()
        server = self.up()
        self.refuse_forwarding(server)
        (channel,) = self.channels(server, ExecTunnelChannel)
        self.relay_connects(server, channel)
        protocol = self.successResultOf(tunnel)
        assert isinstance(protocol, Recorder)
        server.stderr(channel, b"some warning")
        server.stdout(channel, b"data")
        protocol.transport.write(b"back")
        self.assertEqual(protocol.data, b"data")
        sent = [getNS(d[4:])[0] for d in server.transport.taken(conch.MSG_CHANNEL_DATA)]
        self.assertEqual(sent[-1], b"back")
        server.eof(channel)
        server.exit_status(channel, 1)
        server.close(channel)
        self.assertEqual(protocol.events, ["lost"])

    def relay(self, protocol: Recorder) -> tuple[FakeServer, ExecTunnelChannel]:
        """A tunnel through a relay that has connected."""
        tunnel = self.open(protocol=protocol)
        server = self.up()
        self.refuse_forwarding(server)
        (channel,) = self.channels(server, ExecTunnelChannel)
        self.relay_connects(server, channel)
        self.successResultOf(tunnel)
        return server, channel

    def test_end_that_was_said(self) -> None:
        """The far end's end is one when the relay has said so; our data still goes out."""
        server, channel = self.relay(protocol := HalfCloseRecorder())
        server.stdout(channel, b"last words")
        for piece in (b"jarvice-", b"ended\n"):
            server.stderr(channel, piece)
        self.assertEqual(protocol.events, [])
        server.eof(channel)
        self.assertEqual((protocol.data, protocol.events), (b"last words", ["read lost"]))
        channel.write(b"more")
        sent = [getNS(d[4:])[0] for d in server.transport.taken(conch.MSG_CHANNEL_DATA)]
        self.assertEqual(sent[-1], b"more")
        server.exit_status(channel, 1)
        server.close(channel)
        self.assertEqual(protocol.events, ["read lost", "lost"])
        self.assertIsNotNone(protocol.reason.check(ConnectionLost))

    def test_end_that_was_not_said(self) -> None:
        """An end of a relay that did not say it is a break, after all that came before it."""
        server, channel = self.relay(protocol := HalfCloseRecorder())
        channel.pauseProducing()
        server.stdout(channel, b"last words")
        closes = len(server.transport.taken(conch.MSG_CHANNEL_CLOSE))
        server.eof(channel)
        self.assertEqual(len(server.transport.taken(conch.MSG_CHANNEL_CLOSE)), closes + 1)
        server.close(channel)
        self.assertEqual(protocol.events, [])
        channel.resumeProducing()
        self.assertEqual((protocol.data, protocol.events), (b"last words", ["lost"]))
        self.assertIsNotNone(protocol.reason.check(ConnectionLost))

    def test_stderr_pays_nothing_back(self) -> None:
        """What a relay prints beside the stream frees no window that the reader still owes."""
        tunnel = self.open()
        server = self.up()
        self.refuse_forwarding(server)
        (channel,) = self.channels(server, ExecTunnelChannel)
        self.relay_connects(server, channel)
        self.successResultOf(tunnel)
        channel.pauseProducing()
        while channel.localWindowLeft > 32768:
            server.stdout(channel, b"x" * 32768)
        left = channel.localWindowLeft
        server.stderr(channel, b"warning")
        self.assertLessEqual(channel.localWindowLeft, left)

    def test_relay_fails(self) -> None:
        """Why a relay has not connected comes from its stderr."""
        tunnel = self.open()
        server = self.up()
        self.refuse_forwarding(server)
        (channel,) = self.channels(server, ExecTunnelChannel)
        nonce = channel._invocation.nonce + b"\n"
        server.confirm(channel, 1 << 20)
        server.stdout(channel, nonce)
        server.stderr(channel, nonce + b"bash: connect: Connection refused\n")
        server.exit_status(channel, 1)
        server.close(channel)
        error = self.failureResultOf(tunnel, TunnelConnectError)
        self.assertIn("n1:80 (bash: connect: Connection refused)", error.getErrorMessage())

    def test_request(self) -> None:
        """A relay asks for a session, without any data of ours."""
        self.open()
        server = self.up()
        self.refuse_forwarding(server)
        request = server.transport.taken(conch.MSG_CHANNEL_OPEN)[-1]
        self.assertEqual(request[: len(NS(b"session"))], NS(b"session"))
        self.assertEqual(len(request), len(NS(b"session")) + 12)
