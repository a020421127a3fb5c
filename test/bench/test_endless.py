"""Transfers without end, against the bench's web service."""

from __future__ import annotations

import socket
import threading

from twisted.trial.unittest import SynchronousTestCase

from test.bench.endless import ENDLESS, moving
from test.bench.service import serve_connections
from test.bench.transfer import Transfer, TransferFailedError


class EndlessTests(SynchronousTestCase):
    """A process that moves bytes until it is ended."""

    def setUp(self) -> None:
        """Start the service."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.service = threading.Thread(target=serve_connections, args=(listener,))
        self.service.start()
        self.addCleanup(listener.close)
        self.addCleanup(self.service.join)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)

    def test_moves(self) -> None:
        """Both directions go on, and tell how far they are."""
        for upload in (False, True):
            asked = Transfer(port=self.port, path="/", size=ENDLESS, upload=upload)
            with moving(asked) as bulk:
                seen = 0
                for _ in range(3):
                    before = seen
                    while (seen := bulk.moved()) == before:
                        pass

    def test_ended(self) -> None:
        """One that has ended by itself is an error, not a quiet measurement beside nothing."""
        asked = Transfer(port=1, path="/", size=ENDLESS)
        with self.assertRaises(TransferFailedError), moving(asked) as bulk:
            while True:
                bulk.moved()
