"""HTTP/1.1 through the endpoint to a job's service, on real sockets."""

from __future__ import annotations

from jarvice_slurmd.interactive.vitality import untaken
from test.interactive.loopback import GatewayCase, Peer, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /job1/ HTTP/1.1\r\nHost: d.com\r\n\r\n"


class RequestTests(GatewayCase):
    """What a service sees of a request."""

    async def test_head_is_forwarded(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(
            b"GET /job1/a?b=c HTTP/1.1\r\nHost: d.com\r\nX-Mixed-CASE: 1\r\nAccept: a\r\n"
            b"Accept: b\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\n\r\n"
        )
        service = await backend.accept()
        self.assertEqual(
            await service.head(),
            b"GET /job1/a?b=c HTTP/1.1\r\nHost: d.com\r\nX-Mixed-CASE: 1\r\nAccept: a\r\n"
            b"Accept: b\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
            b"X-Forwarded-Host: d.com\r\n\r\n",
        )
        service.send(OK)
        self.assertEqual(await client.exactly(len(OK)), OK)

    async def test_prefix_is_stripped(self) -> None:
        backend = self.job(strip_prefix=True)
        self.start()
        client = await self.connect()
        client.send(b"GET /job1/a?b=c HTTP/1.1\r\nHost: d.com\r\n\r\n")
        service = await backend.accept()
        head = await service.head()
        self.assertTrue(head.startswith(b"GET /a?b=c HTTP/1.1\r\n"))
        self.assertIn(b"X-Forwarded-Prefix: /job1\r\n", head)
        service.send(
            b"HTTP/1.1 302 Found\r\nLocation: http://d.com/login\r\nSet-Cookie: a=1; Path=/\r\n"
            b"Set-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
        )
        self.assertEqual(
            await client.head(),
            b"HTTP/1.1 302 Found\r\nLocation: /job1/login\r\nSet-Cookie: a=1; Path=/job1/\r\n"
            b"Set-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
        )

    async def test_upload_with_length(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(b"PUT /job1/f HTTP/1.1\r\nHost: d\r\nContent-Length: 10\r\n\r\n01234")
        service = await backend.accept()
        self.assertIn(b"Content-Length: 10\r\n", await service.head())
        self.assertEqual(await service.exactly(5), b"01234")
        client.send(b"56789")
        self.assertEqual(await service.exactly(5), b"56789")
        service.send(OK)
        self.assertEqual(await client.exactly(len(OK)), OK)

    async def test_chunked_upload_streams_with_trailers(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(
            b"POST /job1/ HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X-Sum\r\n\r\n5;ext=1\r\nhe"
        )
        service = await backend.accept()
        head = await service.head()
        self.assertIn(b"Transfer-Encoding: chunked\r\n", head)
        self.assertIn(b"Trailer: X-Sum\r\n", head)
        self.assertEqual(await service.exactly(11), b"5;ext=1\r\nhe")
        client.send(b"llo\r\n0\r\nX-Sum: 12\r\n\r\n" + GET)
        self.assertEqual(await service.exactly(21), b"llo\r\n0\r\nX-Sum: 12\r\n\r\n")
        service.send(OK)
        self.assertEqual(await client.exactly(len(OK)), OK)
        self.assertTrue((await service.head()).startswith(b"GET /job1/ "))

    async def test_expect_continue_is_the_services_affair(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(
            b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        service = await backend.accept()
        self.assertIn(b"Expect: 100-continue\r\n", await service.head())
        self.assertEqual(bytes(client.received), b"")
        service.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertEqual(await client.head(), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"hi")
        self.assertEqual(await service.exactly(2), b"hi")
        service.send(OK)
        self.assertEqual(await client.exactly(len(OK)), OK)

    async def test_all_methods(self) -> None:
        backend = self.job()
        self.start()
        for method in (b"PATCH", b"DELETE", b"PROPFIND", b"OPTIONS", b"X-OWN"):
            client = await self.connect()
            client.send(method + b" /job1/ HTTP/1.1\r\nHost: d\r\n\r\n")
            service = await backend.accept()
            self.assertTrue((await service.head()).startswith(method + b" /job1/ HTTP/1.1\r\n"))
            service.send(OK)
            self.assertEqual(await client.exactly(len(OK)), OK)

    async def test_http_1_0_client(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(b"GET /job1/ HTTP/1.0\r\nExpect: 100-continue\r\n\r\n")
        service = await backend.accept()
        head = await service.head()
        self.assertTrue(head.startswith(b"GET /job1/ HTTP/1.1\r\nHost: n1:"))
        self.assertNotIn(b"Expect", head)
        service.send(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X\r\n\r\n3\r\nabc\r\n4\r\nde"
        )
        self.assertEqual(await client.head(), b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        self.assertEqual(await client.exactly(5), b"abcde")
        service.send(b"fg\r\n0\r\nX: 1\r\n\r\n")
        self.assertEqual(await client.rest(), b"fg")

    async def test_absolute_target(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(b"GET http://real.com/job1/x HTTP/1.1\r\nHost: other.com\r\n\r\n")
        service = await backend.accept()
        head = await service.head()
        self.assertTrue(head.startswith(b"GET /job1/x HTTP/1.1\r\nHost: real.com\r\n"))


class ResponseTests(GatewayCase):
    """What a browser sees of a response."""

    async def ask(self, request: bytes = GET) -> tuple[Peer, Peer]:
        """A client that has asked, and the service that was asked."""
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(request)
        service = await backend.accept()
        await service.head()
        return client, service

    async def test_events_stream(self) -> None:
        client, service = await self.ask()
        service.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self.assertIn(b"text/event-stream", await client.head())
        for event in (b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n"):
            service.send(event)
            self.assertEqual(await client.exactly(len(event)), event)

    async def test_response_until_close(self) -> None:
        client, service = await self.ask()
        service.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nsome")
        self.assertEqual(
            await client.head(),
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n",
        )
        self.assertEqual(await client.exactly(4), b"some")
        service.send(b"thing")
        service.close()
        self.assertEqual(await client.rest(), b"thing")

    async def test_reset_within_a_response_until_close_is_seen(self) -> None:
        client, service = await self.ask()
        service.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await client.until(b"some")
        service.reset()
        await client.gone()
        self.assertTrue(client.was_reset)

    async def test_truncated_responses_are_seen(self) -> None:
        for framing in (b"Content-Length: 9", b"Transfer-Encoding: chunked"):
            client, service = await self.ask()
            service.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n7\r\nsome")
            await client.until(b"some")
            service.close()
            self.assertEqual(await client.rest(), b"")
            client.close()
            await client.gone()

    async def test_truncated_chunks_are_seen_without_chunks(self) -> None:
        """HTTP/1.0 takes the connection's end for the response's: it has to be broken off."""
        client, service = await self.ask(b"GET /job1/ HTTP/1.0\r\nHost: d\r\n\r\n")
        service.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nsome")
        await client.until(b"some")
        service.close()
        await client.gone()
        self.assertTrue(client.was_reset)

    async def test_heads_without_bodies(self) -> None:
        for method, head in (
            (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
            (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 10\r\n\r\n"),
            (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ):
            client, service = await self.ask(method + b" /job1/ HTTP/1.1\r\nHost: d\r\n\r\n")
            service.send(head)
            self.assertEqual(await client.head(), head)
            # The connection goes on with the next request, on the same tunnel.
            client.send(GET)
            await service.head()
            service.send(OK)
            self.assertEqual(await client.exactly(len(OK)), OK)
            self.assertEqual(len(self.opener.opened), 1)
            self.opener.opened.clear()

    async def test_ranges(self) -> None:
        client, service = await self.ask(
            b"GET /job1/f HTTP/1.1\r\nHost: d\r\nRange: bytes=5-6\r\n\r\n"
        )
        answer = (
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-6/100\r\n"
            b"Content-Length: 2\r\n\r\nxy"
        )
        service.send(answer)
        self.assertEqual(await client.exactly(len(answer)), answer)

    async def test_trailers(self) -> None:
        client, service = await self.ask(
            b"GET /job1/ HTTP/1.1\r\nHost: d\r\nTE: trailers, gzip\r\nConnection: TE\r\n\r\n"
        )
        answer = (
            b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n"
        )
        service.send(answer)
        self.assertEqual(await client.exactly(len(answer)), answer)

    async def test_early_response_while_the_upload_goes_on(self) -> None:
        client, service = await self.ask(
            b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 8\r\n\r\n1234"
        )
        service.send(OK)
        self.assertEqual(await client.exactly(len(OK)), OK)
        client.send(b"5678" + GET)
        self.assertEqual(await service.exactly(8), b"12345678")
        self.assertTrue((await service.head()).startswith(b"GET "))

    async def test_early_response_that_ends_the_upload(self) -> None:
        client, service = await self.ask(
            b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\n1234"
        )
        await service.exactly(4)
        client.stays = True
        answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        service.send(answer)
        service.close()
        self.assertEqual(
            await client.head(), b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
        )
        # Still sending is no reason to lose the answer: the end comes as an end, not as a reset.
        await client.when(lambda: client.read_ended)
        client.send(b"5" * 1000)
        (channel,) = self.front.channels
        self.assertFalse(channel.closing)
        client.close()
        await client.gone()
        self.assertFalse(client.was_reset)
        await eventually(lambda: not self.front.channels)

    async def test_browser_that_never_closes_is_not_waited_for(self) -> None:
        request = b"GET /job1/ HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
        client, service = await self.ask(request)
        client.stays = True
        service.send(OK)
        await client.rest()
        (channel,) = self.front.channels
        self.assertFalse(channel.closing)
        await eventually(lambda: not untaken(channel.transport))
        self.clock.advance(self.limits.linger)
        await eventually(lambda: not self.front.channels)

    async def test_service_that_hangs_up(self) -> None:
        client, service = await self.ask(
            b"GET /job1/ HTTP/1.1\r\nHost: d\r\nAccept: application/json\r\n\r\n"
        )
        service.close()
        self.assertTrue((await client.head()).startswith(b"HTTP/1.1 502 "))
        self.assertIn(b'"state": "unreachable"', await client.until(b"}"))

    async def test_nonsense_from_the_service(self) -> None:
        for nonsense in (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000,
        ):
            client, service = await self.ask()
            service.send(nonsense)
            self.assertTrue((await client.head()).startswith(b"HTTP/1.1 502 "), nonsense)
            await service.gone()
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_bad_chunks_from_the_service(self) -> None:
        client, service = await self.ask()
        service.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await client.until(b"abc\r\n")
        service.send(b"nonsense\r\n")
        await client.gone()
        await service.gone()
        self.assertTrue(client.was_reset)

    async def test_two_framings_are_one_when_passed_on(self) -> None:
        client, service = await self.ask()
        service.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n0\r\n\r\n"
        )
        self.assertEqual(
            await client.head(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self.assertEqual(await client.until(b"0\r\n\r\n"), b"2\r\nab\r\n0\r\n\r\n")
        await service.gone()  # It is not trusted with another request.


class ReuseTests(GatewayCase):
    """Tunnels kept for the next request of the same browser's connection."""

    async def exchange(self, client: Peer, service: Peer, request: bytes = GET) -> None:
        client.send(request)
        await service.head()
        service.send(OK)
        await client.until(OK)

    async def test_next_request_uses_the_same_tunnel(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        await service.head()
        service.send(OK)
        await client.until(OK)
        for _ in range(5):
            await self.exchange(client, service)
        self.assertEqual(len(self.opener.opened), 1)

    async def test_requests_that_open_their_own(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        first = await backend.accept()
        await first.head()
        first.send(OK)
        await client.until(OK)
        for request in (
            b"POST /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n",
            b"GET /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\n\r\nx",
            b"GET /job1/ HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ):
            client.send(request)
            other = await backend.accept()
            await other.head()
            other.send(OK)
            await client.until(OK)
        self.assertEqual(len(self.opener.opened), 4)

    async def test_tunnel_closed_meanwhile_is_replaced(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        first = await backend.accept()
        await first.head()
        first.send(OK)
        await client.until(OK)
        client.send(GET)
        await first.head()
        first.close()  # It had decided so before the request arrived.
        second = await backend.accept()
        await second.head()
        second.send(OK)
        await client.until(OK)

    async def test_idle_tunnel_is_closed(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        await service.head()
        service.send(OK)
        await client.until(OK)
        self.clock.advance(self.limits.tunnel_keep)
        await service.gone()
        self.assertIsNone(client.lost)

    async def test_bytes_that_nobody_asked_for_end_a_kept_tunnel(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        await service.head()
        service.send(OK + b"HTTP/1.1 200 OK\r\n")
        await client.until(OK)
        await service.gone()
        client.send(GET)
        again = await backend.accept()
        await again.head()
        again.send(OK)
        await client.until(OK)
        again.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await again.gone()

    async def test_tunnels_are_few_and_go_with_the_browser(self) -> None:
        backends = [self.job(number) for number in range(1, 7)]
        self.start()
        client = await self.connect()
        services = []
        for number, backend in enumerate(backends, 1):
            client.send(b"GET /job%d/ HTTP/1.1\r\nHost: d\r\n\r\n" % number)
            service = await backend.accept()
            await service.head()
            service.send(OK)
            await client.until(OK)
            services.append(service)
        for service in services[:2]:
            await service.gone()
        self.assertEqual([service.lost for service in services[2:]], [None] * 4)
        client.close()
        for service in services:
            await service.gone()
