"""WebSockets through the endpoint: the service's own handshake, then bytes as they are."""

from __future__ import annotations

from test.interactive.loopback import GatewayCase, Peer

HANDSHAKE = (
    b"GET /job1/ws HTTP/1.1\r\nHost: d.com\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary, base64\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: https://d.com\r\n\r\n"
)
ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    b"Sec-WebSocket-Protocol: base64\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)


class WebSocketTests(GatewayCase):
    async def open(self, early: bytes = b"", late: bytes = b"") -> tuple[Peer, Peer]:
        """A client and a service that have shaken hands; each may have said something already."""
        backend = self.job(strip_prefix=True)
        self.start()
        client = await self.connect()
        client.send(HANDSHAKE + early)
        service = await backend.accept()
        head = await service.head()
        self.assertTrue(head.startswith(b"GET /ws HTTP/1.1\r\nHost: d.com\r\n"))
        for part in (
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"\r\nSec-WebSocket-Protocol: binary, base64\r\n",
            b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
            b"\r\nOrigin: https://d.com\r\n",
        ):
            self.assertIn(part, head)
        service.send(ACCEPT + late)
        self.assertEqual(await client.exactly(len(ACCEPT)), ACCEPT)
        return client, service

    async def test_services_own_handshake_then_raw_bytes(self) -> None:
        client, service = await self.open()
        frame = bytes(range(256)) * 4096
        client.send(frame)
        self.assertEqual(await service.exactly(len(frame)), frame)
        service.send(frame)
        self.assertEqual(await client.exactly(len(frame)), frame)

    async def test_bytes_around_the_handshake(self) -> None:
        client, service = await self.open(early=b"\x81\x01a", late=b"\x81\x01b")
        self.assertEqual(await service.exactly(3), b"\x81\x01a")
        self.assertEqual(await client.exactly(3), b"\x81\x01b")

    async def test_for_days(self) -> None:
        client, service = await self.open()
        self.clock.advance(86400 * 30)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        client.send(b"still")
        self.assertEqual(await service.exactly(5), b"still")
        service.send(b"here")
        self.assertEqual(await client.exactly(4), b"here")

    async def test_half_close_of_the_browser(self) -> None:
        client, service = await self.open()
        service.stays = True
        client.send(b"last")
        client.end()
        await service.when(lambda: service.read_ended)
        self.assertEqual(bytes(service.received), b"last")
        service.send(b"answer")
        self.assertEqual(await client.exactly(6), b"answer")
        service.close()
        await client.gone()
        await service.gone()
        self.assertFalse(client.was_reset)

    async def test_half_close_of_the_service(self) -> None:
        client, service = await self.open()
        client.stays = True
        service.send(b"last")
        service.end()
        self.assertEqual(await client.rest(), b"last")
        client.send(b"answer")
        self.assertEqual(await service.exactly(6), b"answer")
        client.close()
        await service.gone()
        self.assertFalse(service.was_reset)

    async def test_resets(self) -> None:
        client, service = await self.open()
        client.reset()
        await service.gone()
        self.assertTrue(service.was_reset)
        client, service = await self.open()
        service.reset()
        await client.gone()
        self.assertTrue(client.was_reset)

    async def test_close_on_both_sides(self) -> None:
        client, service = await self.open()
        client.close()
        await service.gone()
        self.assertFalse(service.was_reset)
        client, service = await self.open()
        service.close()
        await client.gone()
        self.assertFalse(client.was_reset)

    async def test_refused_handshake_is_a_response(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(HANDSHAKE)
        service = await backend.accept()
        await service.head()
        refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
        service.send(refusal)
        self.assertEqual(await client.exactly(len(refusal)), refusal)
        client.send(b"GET /job1/ HTTP/1.1\r\nHost: d\r\n\r\n")
        self.assertTrue((await service.head()).startswith(b"GET /job1/ "))

    async def test_other_upgrades_are_not_passed(self) -> None:
        backend = self.job()
        self.start()
        for extra in (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
        ):
            client = await self.connect()
            client.send(b"GET /job1/ HTTP/1.1\r\nHost: d\r\n" + extra)
            service = await backend.accept()
            head = await service.head()
            self.assertNotIn(b"pgrade", head)
            self.assertNotIn(b"HTTP2-Settings", head)
            service.send(ACCEPT)
            self.assertTrue((await client.head()).startswith(b"HTTP/1.1 502 "))
