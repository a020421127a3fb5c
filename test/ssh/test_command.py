# mypy: allow-untyped-calls
"""One command on one channel, against a server that the test speaks for."""

from __future__ import annotations

from twisted.conch.ssh import connection as conch
from twisted.internet.defer import CancelledError
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import LinkLostError, LoginShellError, OutputTooLargeError
from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.ssh.command import CommandChannel, SessionRefusedError
from jarvice_slurmd.ssh.shell import MAX_PREAMBLE, Invocation
from test.ssh.fake_transport import FakeServer

_CALL = Invocation(exec_line=b"LINE", text=b"TEXT", nonce=b"nonce")


class CommandChannelTests(SynchronousTestCase):
    """`CommandChannel`."""

    def setUp(self) -> None:
        self.server = FakeServer()

    def open(
        self, stdin: bytes = b"", call: Invocation = _CALL, max_output: int = 1000
    ) -> CommandChannel:
        """A channel that waits for the server's answer."""
        channel = CommandChannel(call, stdin, max_output)
        self.server.connection.openChannel(channel)
        return channel

    def running(self, stdin: bytes = b"", max_output: int = 1000) -> CommandChannel:
        """A channel whose command runs and has printed its nonces."""
        channel = self.open(stdin, max_output=max_output)
        self.server.confirm(channel, 1 << 20)
        self.server.stdout(channel, b"banner nonce\n")
        self.server.stderr(channel, b"nonce\n")
        return channel

    def assert_closed(self, channel: CommandChannel) -> None:
        """We have closed it; once the server has too, its session is free."""
        self.assertEqual(len(self.server.transport.taken(conch.MSG_CHANNEL_CLOSE)), 1)
        self.assertNoResult(channel.released)
        self.server.close(channel)
        self.successResultOf(channel.released)
        self.assertEqual(self.server.connection.channels, {})

    def test_result(self) -> None:
        """Status, stdout and stderr without preambles, when the channel closes."""
        channel = self.running()
        self.server.stdout(channel, b"o1")
        self.server.stderr(channel, b"e1")
        self.server.exit_status(channel, 3)
        self.server.stdout(channel, b"o2")
        self.assertNoResult(channel.result)
        self.server.close(channel)
        self.assertEqual(
            self.successResultOf(channel.result),
            CommandResult(status=3, stdout=b"o1o2", stderr=b"e1"),
        )
        self.successResultOf(channel.released)

    def test_signal(self) -> None:
        """A signal is 128 and its number; one without a number is 255."""
        for name, status in ((b"KILL", 137), (b"TERM", 143), (b"SIG@openssh.com", 255)):
            channel = self.running()
            self.server.exit_signal(channel, name)
            self.server.close(channel)
            self.assertEqual(self.successResultOf(channel.result).status, status)

    def test_stdin_within_the_window(self) -> None:
        """Script and stdin go out in order, as the server has room, then the end; packets fit."""
        channel = self.open(b"x" * 100_000)
        self.server.confirm(channel, 0, 10_000)
        self.assertEqual(self.server.transport.requests(), [b"exec"])
        self.assertEqual(self.server.received(), b"")
        self.server.grow(channel, 6)
        self.assertEqual(self.server.received(), b"TEXTxx")
        self.assertEqual(self.server.transport.taken(conch.MSG_CHANNEL_EOF), [])
        for _ in range(4):
            self.server.grow(channel, 25_000)
        self.assertEqual(self.server.received(), b"TEXT" + b"x" * 100_000)
        sizes = [len(p) - 8 for p in self.server.transport.taken(conch.MSG_CHANNEL_DATA)]
        self.assertLessEqual(max(sizes), 10_000)
        self.assertEqual(len(self.server.transport.taken(conch.MSG_CHANNEL_EOF)), 1)

    def test_no_packet_size(self) -> None:
        """A server that takes no packet of any size gets none, and does not hang us."""
        channel = self.open()
        self.server.confirm(channel, 1000, 0)
        self.assertEqual(self.server.received(), b"")

    def test_refused(self) -> None:
        """An open failure is no failure of the command: it never ran."""
        channel = self.open()
        self.server.refuse(channel, 2, b"open failed")
        error = self.failureResultOf(channel.result, SessionRefusedError)
        self.assertIn("open failed", error.getErrorMessage())
        self.successResultOf(channel.released)

    def test_lost_before_open(self) -> None:
        """A connection that ends before the session is open: it never ran."""
        channel = self.open()
        self.server.lose("gone")
        self.failureResultOf(channel.result, SessionRefusedError)
        self.successResultOf(channel.released)

    def test_lost_while_running(self) -> None:
        """A connection that ends later: unknown, even when the status has come already."""
        with_status = self.running()
        without = self.running()
        self.server.exit_status(with_status, 0)
        self.server.lose("gone for good")
        for channel in (with_status, without):
            error = self.failureResultOf(channel.result, LinkLostError)
            self.assertIn("gone for good", error.getErrorMessage())
            self.successResultOf(channel.released)

    def test_closed_without_status(self) -> None:
        """A close that says nothing of the command's end tells nothing of its outcome."""
        channel = self.running()
        self.server.close(channel)
        self.failureResultOf(channel.result, LinkLostError)

    def test_login_shell(self) -> None:
        """No nonce: it never ran; the error has the first line printed and the status."""
        channel = self.open()
        self.server.confirm(channel)
        self.server.stdout(channel, b"\nThis account is currently not available.\n")
        self.server.exit_status(channel, 1)
        self.server.close(channel)
        error = self.failureResultOf(channel.result, LoginShellError)
        self.assertIn("status 1", error.getErrorMessage())
        self.assertIn("This account is currently not available.", error.getErrorMessage())

    def test_one_stream_is_enough(self) -> None:
        """A start-up file that closes stderr hides nothing of stdout."""
        channel = self.open()
        self.server.confirm(channel)
        self.server.stdout(channel, b"nonce\nout")
        self.server.exit_status(channel, 0)
        self.server.close(channel)
        self.assertEqual(self.successResultOf(channel.result).stdout, b"out")

    def test_exec_refused(self) -> None:
        """A server that runs no commands at all."""
        channel = self.open()
        self.server.confirm(channel)
        self.server.say(conch.MSG_CHANNEL_FAILURE, channel)
        self.failureResultOf(channel.result, LoginShellError)
        self.assert_closed(channel)

    def test_output_bound(self) -> None:
        """One byte too many, of both streams together, ends the command."""
        channel = self.running(max_output=10)
        self.server.stdout(channel, b"12345")
        self.server.stderr(channel, b"67890")
        self.assertNoResult(channel.result)
        self.server.stdout(channel, b"1")
        self.failureResultOf(channel.result, OutputTooLargeError)
        self.assertIn(b"signal", self.server.transport.requests())
        self.server.stdout(channel, b"more that was on its way")
        self.assert_closed(channel)

    def test_endless_preamble(self) -> None:
        """A login shell that prints without end does not fill us."""
        channel = self.open()
        self.server.confirm(channel)
        for _ in range(MAX_PREAMBLE // 10_000 + 1):
            self.server.stdout(channel, b"y\n" * 5000)
        self.failureResultOf(channel.result, LoginShellError)

    def test_end(self) -> None:
        """`end` fails the result at once, signals the process group and closes."""
        channel = self.running()
        channel.end(CancelledError())
        self.failureResultOf(channel.result, CancelledError)
        self.assertEqual(self.server.transport.requests(), [b"exec", b"signal"])
        self.assert_closed(channel)

    def test_end_before_open(self) -> None:
        """A session that nobody wants any longer is closed as soon as it is there."""
        channel = self.open()
        channel.end(CancelledError())
        self.failureResultOf(channel.result, CancelledError)
        self.assertEqual(self.server.transport.taken(conch.MSG_CHANNEL_CLOSE), [])
        self.server.confirm(channel, 1000)
        self.assertEqual(self.server.transport.requests(), [])
        self.assert_closed(channel)

    def test_nothing_is_logged(self) -> None:
        """What goes through a channel may be secret: no level shows it."""
        with capturedLogs() as logs:
            channel = self.running(b"secret-in")
            self.server.stdout(channel, b"secret-out")
            self.server.stderr(channel, b"secret-err")
            self.server.exit_status(channel, 0)
            self.server.close(channel)
        self.successResultOf(channel.result)
        self.assertEqual([e for e in logs if "secret" in repr(e)], [])
        self.assertEqual([e for e in logs if e["log_level"] < LogLevel.warn], [])


class LinkConnectionTests(SynchronousTestCase):
    """`LinkConnection`: what one channel can't do to the others."""

    def setUp(self) -> None:
        self.server = FakeServer()

    def test_unknown_channel(self) -> None:
        """Messages for a channel that is gone are dropped."""
        channel = CommandChannel(_CALL, b"", 10)
        self.server.connection.openChannel(channel)
        self.server.confirm(channel)
        channel.end(CancelledError())
        self.failureResultOf(channel.result, CancelledError)
        self.server.close(channel)
        with capturedLogs() as logs:
            for kind in range(conch.MSG_CHANNEL_OPEN_CONFIRMATION, conch.MSG_CHANNEL_FAILURE + 1):
                self.server.say(kind, channel, b"\0" * 20)
        self.assertEqual(logs, [])
        self.assertFalse(self.server.transport.aborted)

    def test_exception_in_a_callback(self) -> None:
        """One channel that raises is closed; the other goes on."""

        class Broken(CommandChannel):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

            def closed(self) -> None:
                raise ZeroDivisionError

        broken, good = Broken(_CALL, b"", 10), CommandChannel(_CALL, b"", 10)
        for channel in (broken, good):
            self.server.connection.openChannel(channel)
            self.server.confirm(channel)
        self.server.stdout(broken, b"x")
        self.assertEqual(len(self.server.transport.taken(conch.MSG_CHANNEL_CLOSE)), 1)
        self.server.close(broken)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.server.stdout(good, b"nonce\n")
        self.server.exit_status(good, 0)
        self.server.close(good)
        self.assertEqual(self.successResultOf(good.result).status, 0)

    def test_exceptions_when_lost(self) -> None:
        """Every channel is told of the end, and then whoever waits for it."""

        class Broken(CommandChannel):
            def openFailed(self, reason: object) -> None:
                raise ZeroDivisionError

            def closed(self) -> None:
                raise ZeroDivisionError

        opened, opening, good = Broken(_CALL, b"", 9), Broken(_CALL, b"", 9), self._good()
        for channel in (opened, opening, good):
            self.server.connection.openChannel(channel)
        self.server.confirm(opened)
        self.server.lose("the end")
        self.failureResultOf(good.result, SessionRefusedError)
        self.assertEqual(self.successResultOf(self.server.connection.lost), "the end")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def _good(self) -> CommandChannel:
        return CommandChannel(_CALL, b"", 9)

    def test_damaged_messages(self) -> None:
        """A message that can't be read is logged and costs no more than its channel."""
        good = self._good()
        self.server.connection.openChannel(good)
        self.server.confirm(good)
        self.server.connection.packetReceived(conch.MSG_CHANNEL_REQUEST, _id(good) + b"\0")
        self.server.connection.packetReceived(conch.MSG_GLOBAL_REQUEST, b"")
        self.server.connection.packetReceived(conch.MSG_REQUEST_SUCCESS, b"")
        self.assertEqual(len(self.flushLoggedErrors()), 3)
        self.assertFalse(self.server.transport.aborted)

    def test_server_asks_nothing_of_us(self) -> None:
        """Channels and global requests from the server are refused."""
        rest = b"\0\0\0\x03x11" + b"\0\0\0\x07" + b"\0\1\0\0" * 2
        self.server.connection.packetReceived(conch.MSG_CHANNEL_OPEN, rest)
        self.assertEqual(len(self.server.transport.taken(conch.MSG_CHANNEL_OPEN_FAILURE)), 1)
        self.flushLoggedErrors()
        request = b"\0\0\0\x02\xff\xff\x01"
        self.server.connection.packetReceived(conch.MSG_GLOBAL_REQUEST, request)
        self.assertEqual(len(self.server.transport.taken(conch.MSG_REQUEST_FAILURE)), 1)


def _id(channel: CommandChannel) -> bytes:
    """The channel's number as a message has it."""
    assert channel.id is not None
    return int(channel.id).to_bytes(4, "big")


class KeepAliveTests(SynchronousTestCase):
    """`LinkConnection` and a peer that says nothing."""

    def setUp(self) -> None:
        self.server = FakeServer()
        self.clock = self.server.clock

    def asked(self) -> int:
        """How many keep-alives have gone out."""
        return len(self.server.transport.taken(conch.MSG_GLOBAL_REQUEST))

    def test_silence(self) -> None:
        """Two unanswered, an interval each, and the connection is dropped with the reason."""
        self.clock.pump([4, 4])
        self.assertEqual(self.asked(), 2)
        self.assertFalse(self.server.transport.aborted)
        self.clock.advance(4)
        self.assertTrue(self.server.transport.aborted)
        self.assertIn("not answered for 12 s", self.server.transport.reason)

    def test_any_answer_is_life(self) -> None:
        """A refusal counts as much as a success."""
        answered = 0
        for _ in range(20):
            self.clock.advance(4)
            if self.asked() > answered:
                answered += 1
                self.server.connection.packetReceived(conch.MSG_REQUEST_FAILURE, b"")
        self.assertFalse(self.server.transport.aborted)
        self.assertGreater(self.asked(), 5)

    def test_traffic_is_life(self) -> None:
        """While anything is heard nothing is asked."""
        for _ in range(20):
            self.server.connection.packetReceived(conch.MSG_CHANNEL_DATA, b"\0\0\0\x09")
            self.clock.advance(4)
        self.assertEqual(self.asked(), 0)

    def test_end(self) -> None:
        """An ended connection asks nothing more, and leaves no timer."""
        self.clock.advance(4)
        self.server.lose("over")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.successResultOf(self.server.connection.lost), "over")
