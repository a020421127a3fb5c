# mypy: allow-untyped-calls
"""The SSH link's queue, patience and pauses: no sockets, and the time is the test's."""

from __future__ import annotations

import random
from typing import Any

from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import (
    CommandTimedOutError,
    LinkLostError,
    NotConnectedError,
    RemoteShellError,
)
from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.ssh.client import AuthenticationError, SSHSetupError
from jarvice_slurmd.ssh.command import CommandChannel
from jarvice_slurmd.ssh.connection import LinkConnection
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy
from jarvice_slurmd.ssh.link import SSHLink
from jarvice_slurmd.ssh.options import LinkOptions
from test.ssh.fake_transport import FakeServer

_OPTIONS = {
    "command_timeout": 30.0,
    "max_sessions": 2,
    "max_connections": 2,
    "queue_patience": 0.25,
    "idle_timeout": 60.0,
    "down_patience": 3.0,
    "backoff_initial": 0.5,
    "backoff_max": 5.0,
    "stop_grace": 10.0,
}


class _LinkTests(SynchronousTestCase):
    """A started link whose attempts to connect end as the test says."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.attempts: list[Deferred[LinkConnection]] = []
        self.servers: list[FakeServer] = []
        self.link = self.make_link()
        self.link.startService()

    def make_link(self, **options: Any) -> SSHLink:
        """A link with small limits."""
        key: Key = Key(None)  # never used
        chosen = LinkOptions(**{**_OPTIONS, **options, "rng": random.Random(1)})
        return SSHLink(
            self.clock, "h", 22, "u", key, HostKeyPolicy(), chosen, connect=self._connect
        )

    def _connect(self) -> Deferred[LinkConnection]:
        attempt: Deferred[LinkConnection] = Deferred()
        self.attempts.append(attempt)
        return attempt

    def up(self) -> FakeServer:
        """The attempt under way succeeds."""
        server = FakeServer(self.clock)
        self.servers.append(server)
        self.attempts[-1].callback(server.connection)
        return server

    def fails(self, error: Exception | None = None) -> None:
        """The attempt under way fails."""
        self.attempts[-1].errback(error or SSHSetupError("no TCP connection"))

    def channels(self, server: FakeServer) -> list[CommandChannel]:
        """The channels of a connection that have not ended, the oldest first."""
        return list(server.connection.channels.values())

    def finish(self, server: FakeServer, channel: CommandChannel, status: int = 0) -> None:
        """The command runs and ends."""
        if not channel.is_open:
            server.confirm(channel, 1 << 20)
        server.stdout(channel, channel._preambles[0]._nonce)
        server.exit_status(channel, status)
        server.close(channel)
        # The round trip after which sshd has really freed the session.
        while server.connection.deferreds["global"]:
            server.connection.packetReceived(conch.MSG_REQUEST_FAILURE, b"")

    def scripts(self, server: FakeServer) -> list[bytes]:
        """The scripts that the connection's channels run, by their only line."""
        return [bytes(c._unsent[-1]).split(b"\n")[2] for c in self.channels(server)]


class QueueTests(_LinkTests):
    """First come, first served, with no more sessions than the server allows."""

    def test_runs(self) -> None:
        """A command's result comes back."""
        run = self.link.run("true")
        server = self.up()
        self.finish(server, self.channels(server)[0], 5)
        expected = CommandResult(status=5, stdout=b"", stderr=b"")
        self.assertEqual(self.successResultOf(run), expected)

    def test_order(self) -> None:
        """What waits starts in the order of arrival, as sessions become free."""
        server = self.up()
        for n in range(4):
            self.link.run(f"echo {n}")
        self.assertEqual(self.scripts(server), [b"echo 0", b"echo 1"])
        self.finish(server, self.channels(server)[1])
        self.assertEqual(self.scripts(server), [b"echo 0", b"echo 2"])
        self.finish(server, self.channels(server)[0])
        self.assertEqual(self.scripts(server), [b"echo 2", b"echo 3"])

    def test_session_is_free_after_a_round_trip(self) -> None:
        """On a connection that is full the next session is not asked for with the last close."""
        server = self.up()
        for n in range(3):
            self.link.run(f"echo {n}")
        channel = self.channels(server)[0]
        server.confirm(channel)
        server.stdout(channel, channel._preambles[0]._nonce)
        server.exit_status(channel, 0)
        server.close(channel)
        self.assertEqual(self.scripts(server), [b"echo 1"])
        server.connection.packetReceived(conch.MSG_REQUEST_FAILURE, b"")
        self.assertEqual(self.scripts(server), [b"echo 1", b"echo 2"])

    def test_refused_session(self) -> None:
        """A refused session is no failure: the command keeps its turn, and fewer are asked for."""
        server = self.up()
        runs = [self.link.run(f"echo {n}") for n in range(3)]
        first, second = self.channels(server)
        server.confirm(first)
        server.refuse(second, 2, b"open failed")
        self.assertEqual(len(self.channels(server)), 1)
        self.finish(server, first)
        self.assertEqual(self.scripts(server), [b"echo 1"])
        self.finish(server, self.channels(server)[0])
        self.finish(server, self.channels(server)[0])
        for run in runs:
            self.successResultOf(run)

    def test_limit_is_tried_again(self) -> None:
        """After a while one more session than was refused is tried."""
        server = self.up()
        for n in range(3):
            self.link.run(f"echo {n}", timeout=1000)
        first, second = self.channels(server)
        server.confirm(first)
        server.refuse(second, 2, b"open failed")
        self.clock.advance(11)
        self.finish(server, first)
        self.assertEqual(self.scripts(server), [b"echo 1", b"echo 2"])

    def test_no_session_at_all(self) -> None:
        """A server that opens none is asked again at leisure, until the command's bound."""
        server = self.up()
        run = self.link.run("true")
        asked = 0
        for _ in range(300):
            for channel in self.channels(server):
                asked += 1
                server.refuse(channel, 1, b"prohibited")
            server.connection.packetReceived(conch.MSG_CHANNEL_DATA, b"\0\0\0\0")
            self.clock.advance(0.1)
        self.failureResultOf(run, NotConnectedError)
        self.assertGreater(asked, 10)
        self.assertLess(asked, 40)

    def test_too_many(self) -> None:
        """The queue is bounded."""
        self.link = self.make_link(max_queued=3)
        self.link.startService()
        runs = [self.link.run("true") for _ in range(4)]
        self.failureResultOf(runs[3], NotConnectedError)
        for run in runs[:3]:
            self.assertNoResult(run)

    def test_cancelled_in_the_queue(self) -> None:
        """A command cancelled before its turn is never sent, and not kept."""
        server = self.up()
        runs = [self.link.run(f"echo {n}") for n in range(4)]
        runs[2].cancel()
        self.failureResultOf(runs[2], CancelledError)
        self.finish(server, self.channels(server)[0])
        self.assertEqual(self.scripts(server), [b"echo 1", b"echo 3"])

    def test_cancelled_while_running(self) -> None:
        """A command cancelled later is ended on the login node; its session is free afterwards."""
        server = self.up()
        run = self.link.run("true")
        channel = self.channels(server)[0]
        server.confirm(channel)
        run.cancel()
        self.failureResultOf(run, CancelledError)
        self.assertIn(b"signal", server.transport.requests())
        server.close(channel)
        self.assertEqual(self.channels(server), [])

    def test_bounds(self) -> None:
        """The bound covers waiting and running; the error tells which it was."""
        server = self.up()
        runs = [self.link.run("true", timeout=t) for t in (5, 6, 7)]
        server.confirm(self.channels(server)[0])
        self.clock.advance(5)
        self.failureResultOf(runs[0], CommandTimedOutError)
        self.clock.advance(1)
        error = self.failureResultOf(runs[1], NotConnectedError)
        self.assertIn("no session was opened within 6 s", error.getErrorMessage())
        self.clock.advance(1)
        error = self.failureResultOf(runs[2], NotConnectedError)
        self.assertIn("no session became free within 7 s", error.getErrorMessage())

    def test_bound_on_the_login_node(self) -> None:
        """The command's own bound there is what is left of ours, and a little more."""
        self.up()
        self.link.run("true", timeout=1000)
        self.link.run("true", timeout=1000)
        run = self.link.run("true", timeout=20)
        self.clock.advance(7.5)
        server = self.servers[0]
        self.finish(server, self.channels(server)[0])
        channel = self.channels(server)[-1]
        self.assertIn(b"timeout -k 5 16 ", channel._exec_line)
        self.assertNoResult(run)

    def test_nul(self) -> None:
        """The caller's mistake is told at once."""
        self.failureResultOf(self.link.run("a\0b"), ValueError)


class GrowthTests(_LinkTests):
    """Further connections, only as long as the queue needs them."""

    def hear(self) -> None:
        """Keep the keep-alives quiet."""
        for server in self.servers:
            server.connection.packetReceived(conch.MSG_CHANNEL_DATA, b"\0\0\x63\0")

    def advance(self, seconds: float) -> None:
        """Let time pass on connections that are alive."""
        for _ in range(int(seconds * 4)):
            self.hear()
            self.clock.advance(0.25)

    def test_grows_when_the_queue_waits(self) -> None:
        """A full connection and some patience later: one attempt, and its sessions are used."""
        first = self.up()
        for n in range(6):
            self.link.run(f"echo {n}", timeout=1000)
        self.assertEqual(len(self.attempts), 1)
        self.clock.advance(0.25)
        self.assertEqual(len(self.attempts), 2)
        self.clock.advance(1)
        self.assertEqual(len(self.attempts), 2)
        second = self.up()
        self.assertEqual(self.scripts(second), [b"echo 2", b"echo 3"])
        self.advance(10)
        self.assertEqual(len(self.attempts), 2)
        self.assertEqual(self.scripts(first), [b"echo 0", b"echo 1"])

    def test_does_not_grow_for_a_moment(self) -> None:
        """A queue that empties in time needs no further connection."""
        server = self.up()
        for n in range(3):
            self.link.run(f"echo {n}")
        self.finish(server, self.channels(server)[0])
        self.clock.advance(1)
        self.assertEqual(len(self.attempts), 1)

    def test_failed_growth(self) -> None:
        """An attempt that fails is repeated with growing pauses, and harms nothing."""
        self.up()
        for _ in range(3):
            self.link.run("true", timeout=1000)
        self.clock.advance(0.25)
        for _ in range(4):
            self.fails()
            self.advance(5)
        self.assertLess(len(self.attempts), 9)
        self.assertTrue(self.link.connected)
        self.assertIsNone(self.link.last_error)

    def test_idle(self) -> None:
        """A connection beyond the first that is idle for long is closed; commands go on."""
        first = self.up()
        for n in range(3):
            self.link.run(f"echo {n}", timeout=1000)
        self.clock.advance(0.25)
        second = self.up()
        self.advance(100)
        self.assertFalse(second.transport.aborted)
        self.finish(second, self.channels(second)[0])
        self.advance(59)
        self.assertFalse(second.transport.aborted)
        self.advance(2)
        self.assertTrue(second.transport.aborted)
        self.assertFalse(first.transport.aborted)
        with capturedLogs() as logs:
            second.lose("closed")
        self.assertEqual([e for e in logs if e["log_level"] >= LogLevel.warn], [])
        self.assertEqual(self.link.connections, 1)


class DownTests(_LinkTests):
    """A link that is not there: honest and quick answers, and attempts with pauses."""

    def test_first_attempt(self) -> None:
        """It is told how the first attempt ended, once for all."""
        early = self.link.first_attempt()
        self.assertNoResult(early)
        self.fails()
        self.assertEqual(self.successResultOf(early), "no TCP connection")
        self.clock.advance(5)
        self.up()
        self.assertEqual(self.successResultOf(self.link.first_attempt()), "no TCP connection")
        self.assertIsNone(self.link.last_error)

    def test_waits_for_the_link(self) -> None:
        """A command that comes before the link waits for it a while, and then runs."""
        run = self.link.run("true")
        self.clock.advance(2.9)
        server = self.up()
        self.clock.advance(1)
        self.finish(server, self.channels(server)[0])
        self.successResultOf(run)

    def test_patience(self) -> None:
        """It does not wait for longer than `down_patience`, nor than its own bound."""
        slow, quick = self.link.run("true"), self.link.run("true", timeout=1)
        self.clock.advance(1)
        self.failureResultOf(quick, NotConnectedError)
        self.clock.advance(1.9)
        self.assertNoResult(slow)
        self.clock.advance(0.1)
        error = self.failureResultOf(slow, NotConnectedError)
        self.assertIn("first attempt", error.getErrorMessage())

    def test_known_to_be_down(self) -> None:
        """After that time and a failed attempt a command fails at once, with its reason."""
        self.fails()
        self.assertNoResult(waits := self.link.run("true"))
        self.clock.advance(3)
        self.failureResultOf(waits, NotConnectedError)
        error = self.failureResultOf(self.link.run("true"), NotConnectedError)
        self.assertIn("u@h:22: no TCP connection", error.getErrorMessage())

    def test_queue_of_a_lost_link(self) -> None:
        """Commands that waited for a session when the link was lost wait for the link."""
        server = self.up()
        runs = [self.link.run(f"echo {n}", timeout=100) for n in range(3)]
        server.confirm(self.channels(server)[0])
        server.lose("it broke")
        self.failureResultOf(runs[0], LinkLostError)
        self.assertFalse(self.link.connected)
        self.assertEqual(self.link.last_error, "it broke")
        self.clock.advance(2.5)
        self.assertEqual(len(self.attempts), 2)
        # The second was sent but its session was never open: it did not run, and does now.
        again = self.up()
        self.assertEqual(self.scripts(again), [b"echo 1", b"echo 2"])
        again.lose("it broke again")
        self.clock.advance(3)
        for run in runs[1:]:
            error = self.failureResultOf(run, NotConnectedError)
            self.assertIn("it broke again", error.getErrorMessage())

    def test_pauses(self) -> None:
        """Pauses double up to the longest, half of each at random, and begin anew afterwards."""
        pauses = []
        for _ in range(8):
            self.fails()
            count, began = len(self.attempts), self.clock.seconds()
            while len(self.attempts) == count:
                self.clock.advance(0.01)
            pauses.append(self.clock.seconds() - began)
        for pause, longest in zip(pauses, [0.5, 1, 2, 4, 5, 5, 5, 5], strict=True):
            self.assertGreaterEqual(pause, longest / 2)
            self.assertLessEqual(pause, longest + 0.02)
        server = self.up()
        for _ in range(10):
            server.connection.packetReceived(conch.MSG_CHANNEL_DATA, b"\0\0\x63\0")
            self.clock.advance(1)
        count = len(self.attempts)
        server.lose("gone")
        self.clock.advance(0.5)
        self.assertEqual(len(self.attempts), count + 1)

    def test_flapping(self) -> None:
        """A link that is lost right after it came up does not reset the pauses."""
        for _ in range(6):
            self.up().lose("flapping")
            self.clock.advance(5)
        self.up().lose("flapping")
        count = len(self.attempts)
        self.clock.advance(2.4)
        self.assertEqual(len(self.attempts), count)

    def test_told_once(self) -> None:
        """The log says once that the link was lost, and why, and once that it is back."""
        server = self.up()
        with capturedLogs() as logs:
            server.lose("the plug was pulled")
            for _ in range(5):
                self.clock.advance(5)
                self.fails()
            self.clock.advance(5)
            self.up()
        told = [e for e in logs if e["log_level"] >= LogLevel.warn]
        self.assertEqual(len(told), 2)
        self.assertEqual(told[0]["why"], "the plug was pulled")
        self.assertIn("back", told[1]["log_format"])

    def test_down_from_the_start(self) -> None:
        """What the init report told of is told to be over."""
        with capturedLogs() as logs:
            self.fails()
            self.clock.advance(5)
            self.up()
        (told,) = [e for e in logs if e["log_level"] >= LogLevel.warn]
        self.assertIn("back", told["log_format"])

    def test_key_revoked(self) -> None:
        """A refused login during an outage is told, once, because somebody must mend it."""
        server = self.up()
        with capturedLogs() as logs:
            server.lose("restarted")
            for _ in range(5):
                self.clock.advance(5)
                self.fails(AuthenticationError("not that key"))
        told = [e for e in logs if e["log_level"] >= LogLevel.error]
        self.assertEqual([e["why"] for e in told], ["not that key"])

    def test_unexpected_failure(self) -> None:
        """Even an attempt that fails by a mistake of ours is followed by another."""
        self.fails(ZeroDivisionError("oops"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(5)
        self.assertEqual(len(self.attempts), 2)


class StopTests(_LinkTests):
    """`stopService`."""

    def test_nothing_runs(self) -> None:
        """The connection is closed in order, and nothing is left behind."""
        server = self.up()
        stopped = self.link.stopService()
        self.assertNoResult(stopped)
        self.assertTrue(server.transport.aborted)
        server.lose("closed")
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_running(self) -> None:
        """What runs and waits may end first; nothing new is taken."""
        server = self.up()
        runs = [self.link.run(f"echo {n}") for n in range(3)]
        stopped = self.link.stopService()
        self.failureResultOf(self.link.run("true"), NotConnectedError)
        for _ in range(3):
            self.finish(server, self.channels(server)[0])
        for run in runs:
            self.successResultOf(run)
        server.lose("closed")
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_ends(self) -> None:
        """Neither a command nor a server that does not end holds it up for long."""
        server = self.up()
        run = self.link.run("sleep 1000", timeout=1000)
        server.confirm(self.channels(server)[0])
        stopped = self.link.stopService()
        for _ in range(10):
            server.connection.packetReceived(conch.MSG_CHANNEL_DATA, b"\0\0\x63\0")
            self.clock.advance(1)
        self.failureResultOf(run, LinkLostError)
        self.assertEqual(server.transport.reason, "closed by this daemon")
        server.transport.aborted = False
        self.clock.advance(2)
        self.assertTrue(server.transport.aborted)
        server.lose("dropped")
        self.successResultOf(stopped)

    def test_not_connected(self) -> None:
        """An attempt under way is given up, and so is what waits."""
        run = self.link.run("true")
        first = self.link.first_attempt()
        stopped = self.link.stopService()
        self.failureResultOf(run, RemoteShellError)
        self.successResultOf(stopped)
        self.assertIsNotNone(self.successResultOf(first))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_between_attempts(self) -> None:
        """A pause is not waited for."""
        self.fails()
        self.successResultOf(self.link.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
