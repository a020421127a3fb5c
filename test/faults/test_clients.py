"""Clients that send too much, too little, too slowly, or nothing that is HTTP: a real daemon."""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from jarvice_slurmd.ssh.link import SSHLink
from test.faults.stage import FaultTestCase, pause

_HEAD = b"POST /submit HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-www-form-urlencoded\r\n"
_GET = b"GET /%b HTTP/1.1\r\nHost: d\r\nConnection: close\r\n%b\r\n"


class RawClient(Protocol):
    """Sends bytes; `ended` fires with all that came back by the connection's end."""

    transport: Any

    def __init__(self) -> None:
        self.ended: Deferred[bytes] = Deferred()
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        """Some of the answer."""
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end."""
        self.ended.callback(self._received)


class ClientTests(FaultTestCase):
    """Each gets a status of the 400 class and a sentence, and nothing is run on the cluster."""

    settings: ClassVar = {"JARVICE_SLURM_BODY_BYTES": "2000"}

    async def connect(self) -> RawClient:
        """A connection to the daemon."""
        port = int(self.client.url.rpartition(":")[2])
        client = RawClient()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), client)
        return client

    async def exchange(self, *parts: bytes, half_close: bool = False) -> bytes:
        """Send these, and read until the other side ends the connection."""
        client = await self.connect()
        for part in parts:
            client.transport.write(part)
            await pause(0.01)
        if half_close:
            client.transport.loseWriteConnection()
        return await client.ended

    def count_commands(self) -> list[str]:
        """What is run on the login node from now on."""
        scripts: list[str] = []
        run = SSHLink.run

        def counting(link: SSHLink, script: str, *args: Any, **keywords: Any) -> Any:
            scripts.append(script)
            return run(link, script, *args, **keywords)

        self.patch(SSHLink, "run", counting)
        return scripts

    async def test_refused(self) -> None:
        """Bodies over the bound, declared or not; what is no HTTP; heads without end."""
        scripts = self.count_commands()
        chunked = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        for code, parts in (
            (413, (_HEAD + b"Content-Length: 1000000000\r\n\r\n",)),
            (413, (chunked, *[b"400\r\n" + b"x" * 1024 + b"\r\n"] * 4)),
            (400, (chunked, b"nonsense\r\n")),
            (400, (b"\x16\x03\x01\x02\x00\x01\r\n\r\n",)),
            (400, (b"GET /live HTTP/1.1\r\n\r\n",)),
            (431, (b"GET /live HTTP/1.1\r\nHost: d\r\nA: " + b"b" * 100_000,)),
            (431, (_GET % (b"live", b"A: b\r\n" * 600),)),
            (431, (_GET % (b"live", b"A: " + b"b" * 16_384 + b"\r\n"),)),
            (431, (_GET % (b"a" * 16_384, b""),)),
            (400, (_GET % (b"request/\xc3\xa9/1/2/tail", b""),)),
            (405, (b"CONNECT /live HTTP/1.1\r\nHost: d\r\n\r\n",)),
        ):
            answer = await self.exchange(*parts)
            shown = (parts[0][:80], answer[:200])
            self.assertEqual(answer[:13], b"HTTP/1.1 %d " % code, shown)
            self.assertGreater(len(answer.partition(b"\r\n\r\n")[2]), 10, shown)
        self.assertEqual(scripts, [])

    async def test_largest_head(self) -> None:
        """What is not refused for its size is answered by the endpoint itself."""
        for request in (
            _GET % (b"live?" + b"a" * (16_392 - len(_GET % (b"live?", b""))), b""),
            _GET % (b"live", b"A: b\r\n" * 498),
        ):
            self.assertIn(b" 200 OK", await self.exchange(request))

    async def test_half_a_request(self) -> None:
        """What ends in the middle was never asked."""
        scripts = self.count_commands()
        half = _HEAD + b"Content-Length: 1000\r\n\r\nargs="
        self.assertNotIn(b" 200 ", await self.exchange(half, half_close=True))
        client = await self.connect()
        client.transport.write(half)
        await pause(0.1)
        client.transport.abortConnection()
        await client.ended
        await pause(0.1)
        self.assertEqual(scripts, [])

    async def test_many_that_say_nothing(self) -> None:
        """Two hundred connections that do not go on keep nobody else from being answered."""
        clients = [await self.connect() for _ in range(200)]
        for at, client in enumerate(clients):
            client.transport.write((b"", b"POST /sub", b"POST /submit HTTP/1.1\r\n")[at % 3])
        self.assertEqual((await self.client.get("/live")).code, 200)
        self.assertEqual((await self.client.get("/running")).code, 200)
        for client in clients:
            client.transport.abortConnection()
            await client.ended
