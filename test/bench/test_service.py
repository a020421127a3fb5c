"""The bench's web service and its browser, each the other's test."""

from __future__ import annotations

import json
import socket
import threading

from twisted.trial.unittest import SynchronousTestCase

from test.bench import service, transfer
from test.bench.service import BLOCK, accept_websocket, find_field, read_head
from test.bench.transfer import Transfer, TransferFailedError

SIZE = len(BLOCK) + 12_345


class ServiceTests(SynchronousTestCase):
    """A connection to the service, which runs in a thread."""

    def setUp(self) -> None:
        """Connect."""
        self.browser, theirs = socket.socketpair()
        self.browser.settimeout(60)
        thread = threading.Thread(target=service.guarded_serve, args=(theirs,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.browser.close)

    def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Send a request; its answer's head and as much of the body as came with it."""
        self.browser.sendall(request)
        taken = read_head(self.browser, b"")
        assert taken is not None
        return taken

    def test_download(self) -> None:
        """As many bytes come as were asked for, and the connection is good for another request."""
        asked = Transfer(port=0, path="/job7/", size=SIZE)
        transfer.download(self.browser, asked)
        transfer.download(self.browser, asked)

    def test_upload(self) -> None:
        """The service counts what it reads."""
        transfer.upload(self.browser, Transfer(port=0, path="/", size=SIZE, upload=True))
        transfer.download(self.browser, Transfer(port=0, path="/", size=1))

    def test_websocket(self) -> None:
        """What comes after the handshake goes back, also what came with it."""
        request = b"GET /x/echo HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        head, rest = self.ask(request + b"early")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "))
        self.browser.sendall(b" late")
        while len(rest) < 10:
            rest += self.browser.recv(10)
        self.assertEqual(rest, b"early late")

    def test_place(self) -> None:
        """Anything else tells where the service is."""
        self.patch(socket.socket, "getsockname", lambda _: ("", 5902))
        head, rest = self.ask(b"GET /place HTTP/1.1\r\n\r\n")
        while len(rest) < int(find_field(head, b"content-length")):
            rest += self.browser.recv(100)
        self.assertEqual(json.loads(rest)["port"], 5902)


class HandshakeTests(SynchronousTestCase):
    """RFC 6455's own example."""

    def test_accept(self) -> None:
        """The key's answer (§1.3)."""
        head = b"GET /echo HTTP/1.1\r\nsec-websocket-key:  dGhlIHNhbXBsZSBub25jZQ=="
        self.assertIn(b"Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", accept_websocket(head))


class AnswerTests(SynchronousTestCase):
    """What a browser takes for an answer."""

    def answered(self, answer: bytes) -> None:
        """A download of ten bytes that is answered so."""
        browser, theirs = socket.socketpair()
        with browser, theirs:
            theirs.sendall(answer)
            theirs.shutdown(socket.SHUT_WR)
            transfer.download(browser, Transfer(port=0, path="/", size=10))

    def test_whole(self) -> None:
        """All of it, whatever comes with the head."""
        self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")

    def test_other_answers(self) -> None:
        """A refusal, another length, an end in the middle or before: none is a measurement."""
        for answer, words in (
            (b"HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\n0123456789", "503 No"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n012345678", "not of the length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234567", "8 bytes came of 10"),
            (b"", "ended without an answer"),
        ):
            error = self.assertRaises(TransferFailedError, self.answered, answer)
            self.assertIn(words, str(error))
