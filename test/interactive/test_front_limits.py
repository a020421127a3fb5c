"""What the endpoint refuses, how long it waits, and what it says when a job can't be reached."""

from __future__ import annotations

import json
from collections.abc import Awaitable

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from zope.interface import implementer

from jarvice_slurmd.errors import (
    ForwardingRefusedError,
    NotConnectedError,
    SlurmUnavailableError,
    TunnelConnectError,
)
from jarvice_slurmd.interactive.forwarding import Rules
from jarvice_slurmd.interactive.interfaces import Page, Route, Target
from jarvice_slurmd.interfaces import ITunnelOpener
from test.interactive.loopback import GatewayCase, Peer, PlainOpener, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /job1/ HTTP/1.1\r\nHost: d.com\r\n\r\n"


class RefusalTests(GatewayCase):
    """Requests that could be read in two ways, or not at all."""

    async def refused(self, request: bytes, status: int) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(request)
        self.assertEqual((await client.head())[:13], b"HTTP/1.1 %d " % status, request)
        await client.rest()
        await client.gone()
        self.assertFalse(client.was_reset, request)
        self.assertEqual(backend.all, [], request)

    async def test_two_readings(self) -> None:
        for fields in (
            b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            b"Content-Length: 3\r\nContent-Length: 4\r\n",
            b"Content-Length: 3\r\nContent-Length: 3\r\n",
            b"Content-Length: 3, 3\r\n",
            b"Content-Length: +3\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 0x3\r\n",
            b"Content-Length:\r\n",
            b"Content-Length : 3\r\n",
            b"Host: other\r\n",
            b"A: b\r\n folded\r\n",
            b" A: b\r\n",
            b"A: b\0c\r\n",
            b"A: b\rc\r\n",
            b"A: b\nTransfer-Encoding: chunked\r\n",
            b"A\r\n",
            b": b\r\n",
            b"A b: c\r\n",
            b"A: \x01\r\n",
        ):
            await self.refused(b"POST /job1/ HTTP/1.1\r\nHost: d\r\n" + fields + b"\r\nabc", 400)

    async def test_unknown_codings(self) -> None:
        for coding in (b"gzip", b"gzip, chunked", b"chunked, chunked", b"xchunked", b'"chunked"'):
            await self.refused(
                b"POST /job1/ HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: " + coding + b"\r\n\r\n",
                501,
            )

    async def test_lines(self) -> None:
        for request, status in (
            (b"GET /job1/ HTTP/1.1\r\n\r\n", 400),
            (b"GET  /job1/ HTTP/1.1\r\nHost: d\r\n\r\n", 400),
            (b"GET /job1/ a HTTP/1.1\r\nHost: d\r\n\r\n", 400),
            (b"GET /job1/\r\n\r\n", 400),
            (b"GET /job1/ HTTP/1.1\nHost: d\n\n", 400),
            (b"GET job1/ HTTP/1.1\r\nHost: d\r\n\r\n", 400),
            (b"GET http://u@h/job1/ HTTP/1.1\r\nHost: d\r\n\r\n", 400),
            (b"GET /job1/ HTTP/1.1\r\nHost: d/e\r\n\r\n", 400),
            (b"CONNECT n1:22 HTTP/1.1\r\nHost: d\r\n\r\n", 405),
            (b"CONNECT /job1/ HTTP/1.1\r\nHost: d\r\n\r\n", 405),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            (b"GET /job1/ HTTP/9.9\r\nHost: d\r\n\r\n", 505),
            (b"POST /job1/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
            (b"GET /job1/ HTTP/1.1\r\nHost: d\r\nA: " + b"b" * 70000, 431),
            (b"GET /job1/" + b"b" * 70000 + b" HTTP/1.1\r\nHost: d\r\n\r\n", 431),
        ):
            await self.refused(request, status)

    async def test_bad_chunks(self) -> None:
        for chunks in (
            b"x\r\n",
            b"-1\r\n",
            b"0x1\r\na\r\n",
            b"1 \r\na\r\n",
            b"1\na\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n",
            b"1;a=\0\r\na\r\n",
            b"ffffffffffffffff1\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"1;" + b"x" * 5000,
            b"0\r\n" + b"A: b\r\n" * 5000,
        ):
            backend = self.job()
            self.start()
            client = await self.connect()
            client.send(b"POST /job1/ HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n")
            service = await backend.accept()
            await service.head()
            client.send(chunks)
            self.assertTrue((await client.head()).startswith(b"HTTP/1.1 400 "), chunks)
            await service.gone()
            self.assertTrue(service.was_reset)

    async def test_bad_chunk_after_the_response_began(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(b"POST /job1/ HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n")
        service = await backend.accept()
        await service.head()
        service.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        await client.until(b"ab")
        client.send(b"nonsense\r\n")
        await client.gone()
        await service.gone()
        self.assertTrue(client.was_reset)

    async def test_second_request_of_a_smuggler_is_read_by_us(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(
            b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\n"
            b"Connection: Content-Length\r\n\r\nabcde" + GET
        )
        service = await backend.accept()
        self.assertIn(b"Content-Length: 5\r\n", await service.head())
        self.assertEqual(await service.exactly(5), b"abcde")
        self.assertEqual(bytes(service.received), b"")


class CredentialTests(GatewayCase):
    rules = Rules(server_key=b"jarvice:secret")

    async def test_api_key_is_not_forwarded(self) -> None:
        backend = self.job()
        self.start()
        for credentials, passes in (
            (b"Basic amFydmljZTpzZWNyZXQ=", False),
            (b"basic  amFydmljZTpzZWNyZXQ", False),
            (b"bAsIc amFydmljZTpzZWNyZXQ=", False),
            (b"Basic dXNlcjpvd24=", True),
            (b"Bearer token", True),
        ):
            client = await self.connect()
            client.send(
                b"GET /job1/ HTTP/1.1\r\nHost: d\r\nAuthorization: " + credentials + b"\r\n\r\n"
            )
            service = await backend.accept()
            self.assertEqual(b"Authorization: " + credentials in await service.head(), passes)


class TimeTests(GatewayCase):
    """Bounds in time, by the test's own clock."""

    async def test_slow_head(self) -> None:
        self.start()
        client = await self.connect()
        client.send(b"GET /job1/ HTTP/1.1\r\n")
        (channel,) = self.front.channels
        await eventually(lambda: channel.collected)
        for _ in range(3):
            await self.drip(client)
            self.clock.advance(self.limits.head_timeout / 4)
        self.assertIsNone(client.lost)
        self.clock.advance(self.limits.head_timeout / 4)
        self.assertTrue((await client.head()).startswith(b"HTTP/1.1 408 "))
        await client.gone()

    async def drip(self, client: Peer) -> None:
        """Send one more line of a head; it does not buy more time."""
        (channel,) = self.front.channels
        before = channel.collected
        client.send(b"A: b\r\n")
        await eventually(lambda: channel.collected > before)

    async def test_idle_connection(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        await service.head()
        self.clock.advance(3600)  # A response may take its time.
        service.send(OK)
        await client.until(OK)
        self.clock.advance(self.limits.keep_alive)
        await client.gone()
        self.assertFalse(client.was_reset)

    async def test_browser_that_half_closes_and_reads(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.stays = True
        client.send(GET)
        client.end()
        service = await backend.accept()
        service.stays = True
        await service.head()
        await service.when(lambda: service.read_ended)
        service.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        await client.head()
        self.clock.advance(self.limits.leave_timeout)
        service.send(b"1234")
        await client.until(b"1234")
        self.clock.advance(self.limits.leave_timeout)
        service.send(b"5678")
        self.assertEqual(await client.rest(), b"5678")

    async def test_browser_that_has_left_a_silent_stream(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        service.stays = True
        await service.head()
        service.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        client.close()
        await service.when(lambda: service.read_ended)
        self.clock.advance(self.limits.leave_timeout)
        await eventually(lambda: not self.front.channels)
        service.send(b"1\r\na\r\n")
        await service.gone()
        self.assertTrue(service.was_reset)

    async def test_browser_that_leaves_within_an_upload(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 9\r\n\r\nabc")
        service = await backend.accept()
        await service.until(b"abc")
        client.close()
        await service.gone()
        self.assertTrue(service.was_reset)


@implementer(ITunnelOpener)
class _NeverOpener:
    """Connects to nothing, and knows how often it was given up."""

    def __init__(self) -> None:
        self.opened = 0
        self.cancelled = 0

    def open(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IProtocol]:
        def cancel(deferred: Deferred[IProtocol]) -> None:
            self.cancelled += 1

        self.opened += 1
        return Deferred(cancel)


@implementer(ITunnelOpener)
class _DeafOpener:
    """Connects when the test says so, even after it was cancelled."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, IProtocolFactory]] = []

    def open(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.asked.append((host, port, factory))
        return Deferred()

    def connect(self) -> None:
        PlainOpener().open(*self.asked[0])


class ReachTests(GatewayCase):
    """Jobs that are not there, or not yet, or out of reach."""

    async def answer(self, client: Peer) -> tuple[int, dict[str, str]]:
        head = await client.head()
        return int(head.split()[1]), json.loads(await client.until(b"}\n"))

    async def test_unknown_job(self) -> None:
        self.start()
        client = await self.connect()
        client.send(b"GET /job7/ HTTP/1.1\r\nHost: d\r\nAccept: text/html,*/*\r\n\r\n")
        head = await client.head()
        self.assertTrue(head.startswith(b"HTTP/1.1 404 "))
        self.assertIn(b"text/html", head)
        await client.until(b"</html>\n")
        client.send(b"GET /job7/ HTTP/1.1\r\nHost: d\r\n\r\n")
        self.assertEqual((await self.answer(client))[0], 404)

    async def test_head_of_a_page(self) -> None:
        self.start()
        client = await self.connect()
        client.send(
            b"HEAD /job7/ HTTP/1.1\r\nHost: d\r\n\r\nHEAD /job8/ HTTP/1.1\r\nHost: d\r\n\r\n"
        )
        first, second = await client.head(), await client.head()
        self.assertEqual(first[:13], b"HTTP/1.1 404 ")
        self.assertEqual(second[:13], b"HTTP/1.1 404 ")

    async def test_thousands_of_pipelined_pages(self) -> None:
        self.start()
        client = await self.connect()
        client.send(b"GET /job7/ HTTP/1.1\r\nHost: d\r\n\r\n" * 3000)
        for _ in range(3000):
            await client.until(b"}\n")

    async def test_page_for_an_upload_ends_the_connection(self) -> None:
        self.start()
        client = await self.connect()
        client.send(b"POST /job7/ HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\nabc")
        self.assertIn(b"Connection: close\r\n", await client.head())
        client.send(b"x" * 100000)
        await client.gone()
        self.assertFalse(client.was_reset)

    async def test_errors(self) -> None:
        self.job()
        self.start(limits=evolve(self.limits, link_wait=0.0))
        for error, status in (
            (TunnelConnectError("no"), 502),
            (ForwardingRefusedError("no"), 502),
            (NotConnectedError("no"), 503),
        ):
            self.opener.failures.append(error)
            client = await self.connect()
            client.send(GET)
            self.assertEqual((await self.answer(client))[0], status)

    async def test_closed_port(self) -> None:
        """A job that has ended is no job that does not answer, on kept connections too."""
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        await service.head()
        service.send(OK)
        await client.until(OK)
        await backend.port.stopListening()
        service.reset()
        await eventually(lambda: not any(len(c.reach.idle) for c in self.front.channels))
        client.send(GET)
        self.assertEqual((await self.answer(client))[0], 502)
        self.router.ended.add(1)
        client.send(GET)
        self.assertEqual((await self.answer(client))[0], 404)
        self.assertEqual(len(self.opener.opened), 3)
        self.opener.failures.append(ForwardingRefusedError("no"))
        client.send(GET)
        self.assertEqual((await self.answer(client))[0], 502)

    async def test_router_that_fails(self) -> None:
        self.start()

        async def broken() -> Route:
            raise ZeroDivisionError

        async def busy() -> Route:
            raise SlurmUnavailableError("Slurm is away.")

        self.router.targets[b"job1"] = broken
        client = await self.connect()
        client.send(GET)
        self.assertEqual((await self.answer(client))[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.router.targets[b"job1"] = busy
        client.send(GET)
        self.assertEqual((await self.answer(client))[0], 503)

    async def test_link_that_comes_back(self) -> None:
        backend = self.job()
        self.start()
        self.opener.failures += [NotConnectedError("away"), NotConnectedError("away")]
        client = await self.connect()
        client.send(b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc")
        await eventually(lambda: self.router.heads)
        self.clock.advance(0.5)
        self.assertEqual(len(self.opener.opened), 2)
        self.clock.advance(0.5)
        service = await backend.accept()
        await service.until(b"abc")
        service.send(OK)
        await client.until(OK)

    async def test_link_that_does_not(self) -> None:
        self.job()
        self.start()
        self.opener.failures += [NotConnectedError("away")] * 100
        client = await self.connect()
        client.send(GET)
        await eventually(lambda: self.router.heads)
        for _ in range(21):
            self.clock.advance(0.5)
        self.assertEqual((await self.answer(client))[0], 503)

    async def test_opener_that_hangs(self) -> None:
        self.job()
        opener = _NeverOpener()
        self.start(opener=opener)
        client = await self.connect()
        client.send(GET)
        await eventually(lambda: opener.opened)
        self.clock.advance(self.limits.open_timeout)
        self.assertEqual((await self.answer(client))[0], 504)
        self.assertEqual(opener.cancelled, 1)

    async def test_browser_that_leaves_while_it_waits(self) -> None:
        self.job()
        opener = _NeverOpener()
        self.start(opener=opener)
        client = await self.connect()
        client.send(GET)
        await eventually(lambda: opener.opened)
        (channel,) = self.front.channels
        client.reset()
        await client.gone()
        await self.front.drain()
        self.assertEqual(opener.cancelled, 1)
        self.assertTrue(channel.lost)

    async def test_opener_that_does_not_stop(self) -> None:
        backend = self.job()
        opener = _DeafOpener()
        self.start(opener=opener)
        client = await self.connect()
        client.send(GET)
        await eventually(lambda: opener.asked)
        client.reset()
        await eventually(lambda: not self.front.channels)
        opener.connect()
        service = await backend.accept()
        await service.gone()

    async def test_uploads_wait_within_bounds(self) -> None:
        backend = self.job()
        opening: Deferred[Route] = Deferred()

        def later() -> Awaitable[Route]:
            return opening

        target = self.router.targets[b"job1"]
        assert isinstance(target, Target)
        self.router.targets[b"job1"] = later
        self.start()
        client = await self.connect()
        body = b"x" * 20_000_000
        client.send(b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 20000000\r\n\r\n" + body)
        await eventually(lambda: self.router.heads)
        (channel,) = self.front.channels
        await eventually(lambda: channel.held)
        self.assertLess(channel.collected, 200_000)
        opening.callback(target)
        service = await backend.accept()
        await service.head()
        self.assertEqual(await service.exactly(len(body)), body)

    async def test_page_by_the_router(self) -> None:
        async def page() -> Route:
            return Page(status=418, headers=((b"X-A", b"b"),), body=b"short")

        self.router.targets[b"job1"] = page
        self.start()
        client = await self.connect()
        client.send(GET)
        self.assertEqual(
            await client.until(b"short"),
            b"HTTP/1.1 418 I'm a Teapot\r\nContent-Length: 5\r\nX-A: b\r\n\r\nshort",
        )
