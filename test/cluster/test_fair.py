"""Nobody starves on a real cluster: commands and keystrokes beside bulk, tunnel beside tunnel.

What is counted is bytes, never seconds: how much the bulk moved while the others waited.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProcessTransport, IPullProducer
from twisted.internet.task import deferLater
from twisted.internet.tcp import Client
from zope.interface import implementer

from deploy.demo.processes import Daemon, free_port
from test.cluster.daemon import DaemonClient, Job
from test.cluster.interactive import InteractiveTestCase, application_text, frame
from test.interactive.loopback import Peer

reactor: Any = _reactor

MEGABYTE = 1024 * 1024
_BLOCK = bytes(65_536)

# What all bulk together may move while one message goes there and back, or one command runs: ten
# times what it does where everybody has a turn.
_MOST_BESIDE = 128 * MEGABYTE
_MOST_ON_AVERAGE = 32 * MEGABYTE

# Where the kernel counts the bytes that were acknowledged and received (linux/tcp.h, tcp_info).
_TCP_INFO_BYTES = 120


class Bulk(Protocol):
    """A transfer without end; `count` is how many bytes it has moved."""

    count: int


@implementer(IPullProducer)
class Upload:
    """Writes to a connection as fast as that takes it."""

    def __init__(self, peer: Peer) -> None:
        self.count = 0
        self._transport = peer.transport
        self._transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Write the next block."""
        self.count += len(_BLOCK)
        self._transport.write(_BLOCK)

    def stopProducing(self) -> None:
        """The connection is gone."""


class BulkTestCase(InteractiveTestCase):
    """A test in which much is moved through a job's address."""

    async def all_of(self, coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Run them at the same time; what each returned."""
        running = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
        results: list[Any] = await gatherResults(running, consumeErrors=True)
        return results

    async def open_job(self) -> Job:
        """A job that runs the small web application, open to browsers."""
        job = await self.start(application_text())
        await self.until_open(job)
        return job

    async def download(self, job: Job) -> Peer:
        """Start a download without end; its first bytes have come."""
        peer = await self.request(job, "/endless")
        peer.counting = True
        await peer.when(lambda: peer.count > 0 or peer.read_ended)
        self.assertFalse(peer.read_ended)
        return peer

    async def upload(self, job: Job) -> Upload:
        """Start an upload without end; the job has begun to read it."""
        peer = await self.request(
            job, "/echo", f"Content-Length: {10**13}", "Expect: 100-continue", method="PUT"
        )
        self.assertTrue((await peer.head()).startswith(b"HTTP/1.1 100 "))
        return Upload(peer)

    async def until_moved(self, bulks: Sequence[Bulk], size: int) -> list[int]:
        """Wait until all together have moved so much more; what each has."""
        before = [bulk.count for bulk in bulks]

        def moved() -> list[int]:
            return [bulk.count - had for bulk, had in zip(bulks, before, strict=True)]

        while sum(moved()) < size:
            await deferLater(reactor, 0.01)
        return moved()

    async def type_into(self, peer: Peer, number: int) -> None:
        """A message of 100 bytes, there and back."""
        message = b"%0100d" % number
        peer.send(frame(message))
        expected = frame(message, mask=b"")
        self.assertEqual(await peer.exactly(len(expected)), expected)

    async def ask_one(self, job: Job, number: int) -> None:
        """A question that is a command, or one that the snapshot answers."""
        if number % 2:
            response = await self.client.post("/request/pvcls", {"qs": {"path": ["/usr"]}})
            self.assertEqual(response.code, 200, response.body)
            self.assertIn(b"/data/usr/bin/\n", response.body)
        else:
            response = await self.client.post("/runstatus", job.ref)
            self.assertEqual(response.code, 200, response.body)
            self.assertEqual(len(response.json[0]), 1)


class FairTests(BulkTestCase):
    """Beside bulk through one job's address."""

    async def test_others_beside_bulk(self) -> None:
        """Commands and another job's keystrokes have their turn, and the bulk goes on."""
        busy, other = await self.open_job(), await self.open_job()
        typing = [await self.websocket(other)]
        downloads = [await self.download(busy) for _ in range(2)]
        uploads = [await self.upload(busy) for _ in range(2)]
        bulks: list[Bulk] = [*downloads, *uploads]
        # Whether it was there before the bulk or comes later.
        typing.append(await self.websocket(other))

        async def count_beside(times: int, act: Any) -> list[int]:
            counts = []
            for number in range(times):
                before = sum(bulk.count for bulk in bulks)
                await act(number)
                counts.append(sum(bulk.count for bulk in bulks) - before)
            return counts

        begun = [bulk.count for bulk in bulks]
        typed, asked = await self.all_of(
            (
                count_beside(100, lambda number: self.type_into(typing[number % 2], number)),
                count_beside(20, lambda number: self.ask_one(other, number)),
            )
        )
        await self.until_moved(bulks, MEGABYTE)
        for counts in typed, asked:
            self.assertLess(max(counts), _MOST_BESIDE)
            self.assertLess(sum(counts) / len(counts), _MOST_ON_AVERAGE)
        for bulk, had in zip(bulks, begun, strict=True):
            self.assertGreater(bulk.count, had)

    async def test_connections(self) -> None:
        """Tunnels share one SSH connection, and commands have another."""
        busy = await self.open_job()
        downloads = [await self.download(busy) for _ in range(3)]
        before = self.ssh_traffic()
        for number in range(10):
            await self.ask_one(busy, number)
        await self.until_moved(downloads, 64 * MEGABYTE)
        after = self.ssh_traffic()
        self.assertEqual(len(after), 2, after)
        commands, tunnels = sorted(after[one] - before[one] for one in after)
        self.assertGreater(tunnels, 64 * MEGABYTE)
        # Ten answers, and whatever else the daemon asks meanwhile.
        self.assertGreater(commands, 0)
        self.assertLess(commands, MEGABYTE)

    def ssh_traffic(self) -> dict[int, int]:
        """The daemon's connections to sshd by their local port: the bytes that each has moved."""
        sshd = int(self.cluster.env()["JARVICE_SLURM_CLUSTER_PORT"])
        traffic = {}
        for reader in reactor.getReaders():
            if isinstance(reader, Client) and reader.getPeer().port == sshd:
                info = reader.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                traffic[reader.getHost().port] = sum(
                    struct.unpack_from("@QQ", info, _TCP_INFO_BYTES)
                )
        return traffic

    async def test_shares(self) -> None:
        """Tunnels of one job, side by side, each get a fair part; those who stop delay nobody."""
        job = await self.open_job()
        stalled = [await self.download(job) for _ in range(3)]
        for peer in stalled:
            peer.transport.pauseProducing()
        downloads = [await self.download(job) for _ in range(4)]
        self.check_shares(await self.until_moved(downloads, 256 * MEGABYTE))
        for peer in downloads:
            peer.reset()
            await peer.gone()
        uploads = [await self.upload(job) for _ in range(4)]
        self.check_shares(await self.until_moved(uploads, 256 * MEGABYTE))
        for peer in stalled:
            peer.transport.resumeProducing()
        await self.until_moved(stalled, 16 * MEGABYTE)

    def check_shares(self, moved: Sequence[int]) -> None:
        """None has less than a fifth of its even share."""
        self.assertGreater(min(moved), sum(moved) / len(moved) / 5, moved)


class ManyTests(BulkTestCase):
    """Many browsers of a daemon that is a process of its own."""

    count = 1000

    async def setUp(self) -> None:  # type: ignore[override]
        """Allow this process, and those that it starts, as many descriptors as they may have."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        await super().setUp()

    async def test_websockets(self) -> None:
        """All are open at once, each gets its own message back, and none leaves anything behind."""
        text = application_text(before="ulimit -n $(ulimit -Hn)")
        job = await self.start(text)
        await self.until_open(job)
        process = await self.start_process(job)

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{process}/fd"))

        # While it is open the tunnels have their SSH connection, and it has a descriptor itself.
        first = await self.websocket(job)
        before = descriptors() - 1
        await self.leave([first])

        # Fewer at the same moment than the service lets wait to be accepted.
        some = DeferredSemaphore(100)

        async def open_one() -> Peer:
            peer: Peer = await some.run(lambda: Deferred.fromCoroutine(self.websocket(job)))
            return peer

        peers: list[Peer] = await self.all_of(open_one() for _ in range(self.count))
        self.assertGreaterEqual(descriptors(), before + self.count)
        await self.all_of(self.type_into(peer, number) for number, peer in enumerate(peers))
        await self.leave(peers)

        async def are_closed() -> bool:
            return descriptors() <= before

        await self.until(are_closed)

    async def start_process(self, job: Job) -> int:
        """Start the daemon by twistd, and ask it from now on; its process id."""
        lines: list[str] = []
        self.public_port = free_port()
        endpoint = f"tcp:{self.public_port}:interface=127.0.0.1:backlog=1024"
        daemon = Daemon.start(
            reactor, {**self.cluster.env(), **self.settings}, ["--http", endpoint], lines.append
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        client = DaemonClient(f"http://127.0.0.1:{self.public_port}", self.client.agent)

        async def answers() -> bool:
            self.assertFalse(daemon.ended.called, lines)
            try:
                return (await self.ask(job, "/echo", client=client)).code == 200
            except ConnectionRefusedError:
                return False

        await self.until(answers)
        transport = daemon.transport
        assert IProcessTransport.providedBy(transport)
        return int(transport.pid)

    async def leave(self, peers: Sequence[Peer]) -> None:
        """Close as a browser does: the service agrees, and then all is gone."""
        for peer in peers:
            peer.send(frame(b"", 8))
        for peer in peers:
            self.assertEqual(await peer.rest(), frame(b"", 8, mask=b""))
            await peer.gone()
