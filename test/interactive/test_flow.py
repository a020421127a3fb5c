"""Bytes are never held: what a stalled far end costs, counted in bytes."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.interactive.channel import FrontChannel
from jarvice_slurmd.interactive.relay import BUFFER_FULL, HELD_SECONDS, End, join
from jarvice_slurmd.interactive.vitality import is_gone, untaken
from test.interactive.loopback import GatewayCase, Peer, eventually, reactor

GET = b"GET /job1/ HTTP/1.1\r\nHost: d\r\n"
PIECE = b"x" * 65536
# Kernel buffers of two loopback connections, with room; a gigabyte would be far beyond.
KERNEL = 40 * 1024 * 1024


class Flood:
    """Writes to a peer's transport for as long as it may."""

    def __init__(self, peer: Peer, limit: int) -> None:
        self.sent = 0
        self.paused = False
        self._peer = peer
        self._limit = limit
        peer.transport.registerProducer(self, True)
        self._write()

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self._write()

    def stopProducing(self) -> None:
        self.paused = True
        self._limit = 0

    def _write(self) -> None:
        while not self.paused and self.sent < self._limit:
            self.sent += len(PIECE)
            self._peer.transport.write(PIECE)
        if self.sent >= self._limit:
            self._peer.transport.unregisterProducer()


class StallTests(GatewayCase):
    """A gigabyte meant for somebody who does not read."""

    timeout = 60

    def buffered(self) -> int:
        """Bytes in the write buffers of all the gateway's own sockets."""
        total = 0
        for channel in self.front.channels:
            for end in (channel, channel.peer):
                if end is not None:
                    transport: Any = end.transport
                    total += len(transport.dataBuffer) + transport._tempDataLen
            total += channel.collected
        return total

    async def stalled(self, flood: Flood) -> None:
        """Wait until nothing moves any more; check what that took."""
        (channel,) = self.front.channels
        await eventually(lambda: flood.paused and (channel.full or channel.held))
        last = -1
        while last != flood.sent:
            last = flood.sent
            for _ in range(20):  # Turns of the reactor in which any socket that can move does.
                await deferLater(reactor, 0)
        self.assertLess(flood.sent, KERNEL)
        self.assertLess(self.buffered(), 512 * 1024)

    async def ask(self, request: bytes) -> tuple[Peer, Peer]:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(request)
        service = await backend.accept()
        await service.head()
        return client, service

    async def test_stalled_reader_of_a_response(self) -> None:
        for framing in (b"Content-Length: 1073741824\r\n", b""):
            client, service = await self.ask(b"GET /job1/ HTTP/1.1\r\nHost: d\r\n\r\n")
            client.transport.pauseProducing()
            service.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
            flood = Flood(service, 1 << 30)
            await self.stalled(flood)
            # It goes on where it stopped.
            client.counting = True
            sent = flood.sent
            client.transport.resumeProducing()
            await self.reads_on(client, sent)
            client.reset()
            await service.gone()

    async def test_browser_that_leaves_a_stalled_upload(self) -> None:
        client, service = await self.ask(
            b"PUT /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 1073741824\r\n\r\n"
        )
        service.transport.pauseProducing()
        await self.stalled(Flood(client, 1 << 30))
        client.reset()
        await client.gone()
        (channel,) = self.front.channels
        await eventually(lambda: is_gone(channel.transport))
        self.assertFalse(channel.lost)  # Nobody told: it is not read.
        self.clock.advance(HELD_SECONDS)
        await eventually(lambda: channel.lost)
        service.counting = True
        service.transport.resumeProducing()
        await service.gone()

    async def reads_on(self, reader: Peer, sent: int) -> None:
        await reader.when(lambda: reader.count > sent + 10_000_000)

    async def test_stalled_upload(self) -> None:
        client, service = await self.ask(
            b"PUT /job1/ HTTP/1.1\r\nHost: d\r\nContent-Length: 1073741824\r\n\r\n"
        )
        service.transport.pauseProducing()
        flood = Flood(client, 1 << 30)
        await self.stalled(flood)
        service.counting = True
        sent = flood.sent
        service.transport.resumeProducing()
        await self.reads_on(service, sent)
        service.reset()
        await client.gone()

    async def test_stalled_websocket(self) -> None:
        for to_service in (True, False):
            client, service = await self.ask(
                b"GET /job1/ HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\n\r\n"
            )
            service.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            await client.head()
            writer, reader = (client, service) if to_service else (service, client)
            reader.transport.pauseProducing()
            await self.stalled(Flood(writer, 1 << 30))
            # The other direction is not concerned.
            reader.send(b"hello")
            self.assertEqual(await writer.exactly(5), b"hello")
            reader.reset()
            await writer.gone()
            await eventually(lambda: not self.front.channels)

    async def test_pipelining_without_reading(self) -> None:
        self.start()
        client = await self.connect()
        client.transport.pauseProducing()
        request = b"GET /job9/ HTTP/1.1\r\nHost: d\r\n\r\n"
        client.send(request * 400_000)
        await eventually(lambda: self.front.channels)
        (channel,) = self.front.channels
        await eventually(lambda: channel.full and channel.held)
        self.assertLess(self.buffered(), 512 * 1024)


def _asks_for_room(transport: Any) -> bool:
    """Whether the kernel asks a far end now and then if it takes more (tcp_info's backoff)."""
    info = transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 5)
    return bool(info[4])


class PausedReaderTests(GatewayCase):
    """A reader that pauses when the rest of its response is in our hands already."""

    async def paused(self, request: bytes) -> tuple[Peer, Peer, FrontChannel]:
        """A client that has not read the end of a response which its service has sent whole."""
        backend = self.job()
        self.start()
        client = await self.connect()
        (channel,) = self.front.channels
        transport: Any = channel.transport
        for handle, option in (
            (client.transport.getHandle(), socket.SO_RCVBUF),
            (transport.getHandle(), socket.SO_SNDBUF),
        ):
            handle.setsockopt(socket.SOL_SOCKET, option, 4096)
        client.send(request)
        service = await backend.accept()
        await service.head()
        client.transport.pauseProducing()
        service.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not (_asks_for_room(transport) and self.buffered(transport)):
            if not self.buffered(transport):
                service.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await deferLater(reactor, 0.002)
        service.send(b"0\r\n\r\n")
        await eventually(lambda: channel.peer is None)
        return client, service, channel

    def buffered(self, transport: Any) -> int:
        """Bytes that the kernel has not been given yet."""
        return len(transport.dataBuffer) + int(transport._tempDataLen)

    def wait(self, channel: FrontChannel) -> None:
        """Let more time pass than any of the bounds."""
        self.clock.advance(self.limits.keep_alive)
        for _ in range(10):
            self.clock.advance(self.limits.close_timeout)
        self.assertFalse(channel.lost)

    async def reads_on(self, client: Peer) -> None:
        client.transport.resumeProducing()
        await client.until(b"\r\n0\r\n\r\n")
        await client.gone()
        self.assertFalse(client.was_reset)
        # Where it had half-closed before, nothing but a look tells that it has taken everything.
        self.clock.advance(self.limits.close_timeout)
        await eventually(lambda: not self.front.channels)

    async def test_it_gets_the_rest(self) -> None:
        """However long it pauses, on a connection that goes on and on one that does not."""
        for fields in (b"", b"Connection: close\r\n"):
            client, _, channel = await self.paused(GET + fields + b"\r\n")
            self.wait(channel)
            await self.reads_on(client)

    async def test_it_gets_the_rest_after_a_half_close(self) -> None:
        """One that has said that it sends no more may still read."""
        client, _, channel = await self.paused(GET + b"Connection: close\r\n\r\n")
        client.end()
        await eventually(lambda: channel.closing)
        self.wait(channel)
        await self.reads_on(client)

    async def test_it_never_closes(self) -> None:
        """When it has everything it is not waited for any longer."""
        client, _, channel = await self.paused(GET + b"\r\n")
        client.stays = True
        self.wait(channel)
        client.transport.resumeProducing()
        await client.rest()
        await eventually(lambda: not untaken(channel.transport))
        self.clock.advance(self.limits.close_timeout)
        await eventually(lambda: not self.front.channels)

    async def test_it_is_gone(self) -> None:
        """Then nothing is waited for."""
        client, _, channel = await self.paused(GET + b"\r\n")
        self.wait(channel)
        client.reset()
        await eventually(lambda: channel.lost)

    async def test_it_is_cut_off_when_the_daemon_stops(self) -> None:
        for wait in (True, False):
            client, _, channel = await self.paused(GET + b"\r\n")
            if wait:
                self.wait(channel)
            drained = self.front.drain()
            self.assertFalse(channel.lost)
            self.clock.advance(self.limits.close_timeout)
            await drained
            client.transport.resumeProducing()
            await client.gone()
            self.assertTrue(client.was_reset)


class _Near(End):
    """An end for itself."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock, close_timeout=5)
        self.got: list[bytes] = []
        self.sink = self.got.append


class _Transport(StringTransport):
    """Knows of half-closes and resets, too."""

    half_closed = False
    aborted = False
    resumed = 0
    handle: socket.socket | None = None

    def getHandle(self) -> socket.socket | None:
        return self.handle

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def resumeProducing(self) -> None:
        self.resumed += 1
        super().resumeProducing()


class RelayTests(SynchronousTestCase):
    """Two ends on transports of the test's own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.left, self.right = _Near(self.clock), _Near(self.clock)
        self.a, self.b = _Transport(), _Transport()
        self.left.makeConnection(self.a)
        self.right.makeConnection(self.b)
        join(self.left, self.right)

    def test_bytes_pass(self) -> None:
        self.left.dataReceived(b"one")
        self.right.dataReceived(b"two")
        self.assertEqual((self.a.value(), self.b.value()), (b"two", b"one"))

    def test_each_is_the_others_producer(self) -> None:
        self.assertIs(self.a.producer, self.left)
        self.left.pauseProducing()
        self.assertEqual((self.a.producerState, self.b.producerState), ("producing", "paused"))
        self.left.resumeProducing()
        self.assertEqual(self.b.producerState, "producing")

    def test_reasons_to_hold_add_up(self) -> None:
        self.left.pauseProducing()
        self.right.hold(BUFFER_FULL)
        self.left.resumeProducing()
        self.assertEqual(self.b.producerState, "paused")
        self.right.release(BUFFER_FULL)
        self.assertEqual(self.b.producerState, "producing")
        self.right.release(BUFFER_FULL)
        self.assertEqual(self.b.resumed, 1)

    def test_half_close_passes_and_both_close(self) -> None:
        self.left.readConnectionLost()
        self.assertTrue(self.b.half_closed)
        # A transport with a producer would wait for it.
        self.assertIsNone(self.b.producer)
        self.assertFalse(self.a.disconnecting or self.b.disconnecting)
        self.right.readConnectionLost()
        self.assertTrue(self.a.half_closed)
        self.assertTrue(self.a.disconnecting and self.b.disconnecting)

    def test_ended_reader_is_not_resumed(self) -> None:
        self.right.pauseProducing()
        self.left.readConnectionLost()
        self.right.resumeProducing()
        self.assertEqual(self.a.resumed, 0)

    def test_end_is_a_close_and_reset_a_reset(self) -> None:
        self.left.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.b.disconnecting)
        self.assertFalse(self.b.aborted)
        self.setUp()
        self.left.connectionLost(Failure(ConnectionLost()))
        self.assertTrue(self.b.aborted)

    def test_close_of_what_does_not_tell(self) -> None:
        """Nobody knows what an SSH channel's far end has taken: it gets a while."""
        self.left.close()
        self.assertTrue(self.a.disconnecting)
        self.assertFalse(self.a.aborted)
        self.clock.advance(5)
        self.assertTrue(self.a.aborted)

    def untaken(self) -> socket.socket:
        """Give the left end a socket, and that something to send; its far end."""
        self.a.handle, far = socket.socketpair()
        self.addCleanup(self.a.handle.close)
        self.addCleanup(far.close)
        self.a.handle.send(b"rest")
        return far

    def test_close_that_is_not_taken(self) -> None:
        """A far end that does not read is waited for, one that has read only until it closes."""
        far = self.untaken()
        self.left.close()
        self.assertTrue(self.a.half_closed)
        for _ in range(100):
            self.clock.advance(5)
        self.assertFalse(self.a.disconnecting or self.a.aborted)
        far.recv(9)
        self.clock.advance(5)
        self.assertTrue(self.a.disconnecting)
        self.assertFalse(self.a.aborted)
        self.clock.advance(5)
        self.assertTrue(self.a.aborted)

    def test_far_end_that_closes_when_it_has_read(self) -> None:
        far = self.untaken()
        self.left.close()
        far.recv(9)
        self.left.readConnectionLost()
        self.assertTrue(self.a.disconnecting)

    def test_close_that_has_to_hurry(self) -> None:
        """Before the close or after it: the far end has no more than its while."""
        for hurried in (True, False):
            self.setUp()
            self.untaken()
            if hurried:
                self.left.hurry()
            self.left.close()
            self.assertEqual(self.a.disconnecting, hurried)
            self.left.hurry()
            self.assertFalse(self.a.aborted)
            self.clock.advance(5)
            self.assertTrue(self.a.aborted)

    def test_error_of_our_own_cuts_the_connection_and_no_more(self) -> None:
        def broken(data: bytes) -> None:
            raise ZeroDivisionError

        self.left.sink = broken
        self.left.dataReceived(b"x")
        self.assertTrue(self.a.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
