"""A caller of the API without a network: twisted.web's own HTTP, over transports in memory."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import urlencode

import h11
from attrs import frozen
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

from jarvice_slurmd.web.api import Api
from jarvice_slurmd.web.outages import Outages
from jarvice_slurmd.web.readiness import Readiness
from jarvice_slurmd.web.resource import Requests
from jarvice_slurmd.web.site import make_site
from test.fakes import FakeScheduler

FORM = "application/x-www-form-urlencoded"


@frozen
class Response:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, which says that it is JSON."""
        assert self.headers["content-type"] == "application/json", self.headers
        return json.loads(self.body)


class Connection:
    """One connection to the site; `send` bytes, then `receive` what there is."""

    def __init__(self, channel: HTTPChannel) -> None:
        self.transport = StringTransport()
        self._channel = channel
        self._parser = h11.Connection(h11.CLIENT)
        self._left = False
        channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Bytes as they are, while the other side listens."""
        if not self.ended:
            self._channel.dataReceived(data)

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        """A whole request."""
        sent = [("Host", "jarvice"), *(headers or {}).items()]
        if body:
            sent.append(("Content-Length", str(len(body))))
        head = h11.Request(method=method, target=target, headers=sent)
        data = self._parser.send(head) or b""
        if body:
            data += self._parser.send(h11.Data(body)) or b""
        self.send(data + (self._parser.send(h11.EndOfMessage()) or b""))

    @property
    def ended(self) -> bool:
        """Whether the site has ended the connection, or the caller has gone."""
        return self._left or self.transport.disconnecting

    def leave(self) -> None:
        """Go away without a word."""
        if not self._left:
            self._left = True
            self._channel.connectionLost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]

    def receive(self) -> Response | None:
        """The response; None while there is none, or when it is not whole."""
        self._parser.receive_data(self.transport.value())
        self.transport.clear()
        head, body = None, b""
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return None
        assert head is not None
        if self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE:
            self._parser.start_next_cycle()
        return Response(
            head.status_code, {k.decode(): v.decode() for k, v in head.headers}, bytes(body)
        )


class ApiTestCase(SynchronousTestCase):
    """The API over a cluster in memory."""

    server_key: str | None = None
    max_body_bytes = 100_000

    def setUp(self) -> None:
        quiet, log = logging.NullHandler(), logging.getLogger("jarvice_slurmd")
        log.addHandler(quiet)
        self.addCleanup(log.removeHandler, quiet)
        self.clock = Clock()
        self.scheduler = FakeScheduler()
        self.requests = Requests()
        self.not_ready: str | None = None
        outages = Outages(self.clock)
        readiness = Readiness(lambda: self.not_ready, self.scheduler.check, self.clock, outages)
        api = Api(self.scheduler, executor="singularity", readiness=readiness)
        self.site = make_site(
            api,
            self.requests,
            outages=outages,
            server_key=self.server_key,
            max_body_bytes=self.max_body_bytes,
            reactor=self.clock,
        )

    def connect(self) -> Connection:
        """A new connection."""
        channel = self.site.buildProtocol(None)  # type: ignore[no-untyped-call]
        connection = Connection(channel)
        self.addCleanup(connection.leave)
        return connection

    def call(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """One request on a connection of its own, and its answer."""
        connection = self.connect()
        connection.request(method, target, headers, body)
        response = connection.receive()
        assert response is not None, f"no answer to {method} {target}"
        return response

    def get(self, target: str) -> Response:
        """GET."""
        return self.call("GET", target)

    def post(self, target: str, args: object) -> Response:
        """POST, its arguments as upstream sends them."""
        return self.call("POST", target, {"Content-Type": FORM}, form(args))

    def assert_error(self, response: Response, status: int, *words: str) -> str:
        """An answer of PROTOCOL §1's shape for errors."""
        self.assertEqual(response.status, status, response.body)
        answer = response.json()
        self.assertEqual(list(answer), ["error"])
        for word in words:
            self.assertIn(word, answer["error"])
        self.assertNotIn("Traceback", answer["error"])
        return str(answer["error"])


def form(args: object) -> bytes:
    """A form with one field, args, that holds JSON."""
    return urlencode({"args": json.dumps(args)}).encode()
