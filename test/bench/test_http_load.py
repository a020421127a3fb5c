"""The bench's HTTP callers: what they count as an answer."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from test.bench.http_load import Caller, HttpLoad, content_length, render_get, render_post

ANSWER = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\n[[1]]"


class Transport(StringTransport):
    """Takes the option that a TCP transport takes."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ITCPTransport."""


class CallerTests(SynchronousTestCase):
    """One connection, one question at a time."""

    def setUp(self) -> None:
        """Connect one caller, which warms up."""
        self.load = HttpLoad(
            port=0,
            requests=[b"first", b"second"],
            expected=b"[[1]]",
            callers=1,
            seconds=0.0,
            warm=lambda: None,
        )
        self.caller = Caller(self.load, 0)
        self.transport = Transport()
        self.caller.makeConnection(self.transport)

    def test_warming_up_is_not_measured(self) -> None:
        """The first answer only says that the caller is ready."""
        self.caller.dataReceived(ANSWER)
        self.successResultOf(self.caller.is_warm)
        self.assertEqual((self.load.latencies, self.transport.value()), ([], b"first"))

    def test_answers_in_pieces(self) -> None:
        """An answer is one once all of it is there, however it came; the requests take turns."""
        self.caller.dataReceived(ANSWER)
        self.load.deadline = float("inf")
        self.caller.ask()
        for at in range(len(ANSWER)):
            self.assertEqual(self.load.latencies, [])
            self.caller.dataReceived(ANSWER[at : at + 1])
        self.assertEqual(len(self.load.latencies), 1)
        self.assertEqual(self.transport.value(), b"firstsecondfirst")

    def test_ends_after_the_deadline(self) -> None:
        """What is in flight when the time is over is counted, and nothing more is asked."""
        self.caller.dataReceived(ANSWER)
        self.caller.ask()
        self.caller.dataReceived(ANSWER)
        self.successResultOf(self.caller.has_ended)
        self.assertTrue(self.transport.disconnecting)

    def test_failures(self) -> None:
        """Another status, another answer and a lost connection are counted by their reason."""
        self.caller.dataReceived(ANSWER)
        self.load.deadline = float("inf")
        self.caller.ask()
        self.caller.dataReceived(ANSWER.replace(b"[[1]]", b"[[2]]"))
        self.caller.dataReceived(ANSWER.replace(b"200 OK", b"503 No"))
        self.caller.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(self.caller.has_ended)
        self.assertEqual(
            dict(self.load.failures),
            {
                "an answer without the job": 1,
                "HTTP/1.1 503 No": 1,
                "connection lost: Connection was closed cleanly.": 1,
            },
        )
        self.assertEqual(self.load.latencies, [])


class RequestTests(SynchronousTestCase):
    """Heads."""

    def test_content_length(self) -> None:
        """Found whatever its case; 0 when there is none."""
        self.assertEqual(content_length(b"HTTP/1.1 200 OK\r\ncontent-length:  12"), 12)
        self.assertEqual(content_length(b"HTTP/1.1 204 No Content"), 0)

    def test_requests(self) -> None:
        """Whole requests, the form's length said."""
        self.assertEqual(render_get("/running"), "GET /running HTTP/1.1\r\nHost: bench\r\n\r\n")
        self.assertTrue(render_post("/x", "args=1").endswith("Content-Length: 6\r\n\r\nargs=1"))
