# mypy: allow-untyped-calls
"""Tunnels through a real OpenSSH server, to services on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from jarvice_slurmd.errors import ForwardingRefusedError, NotConnectedError, TunnelConnectError
from jarvice_slurmd.interfaces import ITunnelOpener
from jarvice_slurmd.ssh.forward import SSHTunnelOpener, TunnelOptions
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy
from jarvice_slurmd.ssh.keys import load_private_key
from jarvice_slurmd.ssh.options import LinkOptions
from jarvice_slurmd.ssh.transport import PacketTransport
from test.ssh.sshd import PATIENT, Sshd, private_pem
from test.ssh.streams import HalfCloseRecorder, Recorder, Source, one

_KEY = ed25519.Ed25519PrivateKey.generate()
_MIB = 1 << 20
_REFUSED = "AllowTcpForwarding no"
_COREUTILS = ("head", "cat", "sleep", "tail", "timeout", "readlink")


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """Sends back what it gets, at its reader's pace, and its end of data after the other's."""

    transport: Any

    def connectionMade(self) -> None:
        """Read no faster than can be written."""
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        """Back."""
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        """The other side is done, so are we."""
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Both directions are over; Twisted leaves it to us to say so."""
        self.transport.loseConnection()


class Services(Factory):
    """A listening factory that remembers its connections."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self.connections: list[Any] = []

    def have_read(self, count: int) -> bool:
        """Whether there are so many connections, and the last one has read something."""
        return len(self.connections) == count and bool(self.connections[-1].data)

    def buildProtocol(self, addr: Any) -> Any:
        """A new one."""
        protocol = self._make()
        self.connections.append(protocol)
        return protocol


class _TunnelTests(TestCase):
    """An opener and a server of this test's own."""

    def start_sshd(self, config: str = "") -> Sshd:
        """An sshd that ends with the test."""
        sshd = Sshd([_KEY], config)
        self.addCleanup(sshd.stop)
        sshd.start()
        return sshd

    def opener(self, sshd: Sshd, *, link: LinkOptions = PATIENT, **options: Any) -> SSHTunnelOpener:
        """A started opener that ends before the server does."""
        opener = SSHTunnelOpener(
            reactor,
            sshd.destination.host,
            sshd.destination.port,
            sshd.destination.user,
            load_private_key(private_pem(_KEY)),
            HostKeyPolicy(),
            TunnelOptions(link=link, **options),
        )
        opener.startService()
        self.addCleanup(opener.stopService)
        return opener

    def listen(self, make: Any = Echo) -> tuple[int, Services]:
        """A service on a port of its own."""
        services = Services(make)
        listening: Any = reactor
        port = listening.listenTCP(0, services, backlog=1024, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(self.drop, services)
        return port.getHost().port, services

    def drop(self, services: Services) -> None:
        """End what is still connected."""
        for protocol in services.connections:
            if protocol.transport is not None:
                protocol.transport.abortConnection()

    async def until(self, condition: Any) -> None:
        """Come back when it is so."""
        while not condition():
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]

    async def check_stream(self, opener: SSHTunnelOpener, port: int, size: int) -> None:
        """So many bytes there and back again through an echo, unchanged, to a clean end."""
        protocol = HalfCloseRecorder()
        await opener.open("127.0.0.1", port, one(protocol))
        Source(protocol.transport, size)
        await protocol.lost
        self.assertIsNotNone(protocol.reason.check(ConnectionDone))
        self.assertEqual(len(protocol.data), size)
        chunk = bytes(range(256)) * 256
        whole = chunk * (size // len(chunk)) + chunk[: size % len(chunk)]
        self.assertEqual(protocol.data, whole)


class ForwardingTests(_TunnelTests):
    """`SSHTunnelOpener` where sshd forwards."""

    async def test_stream(self) -> None:
        """Megabytes there and back, half-closed on both sides, and nothing is left."""
        opener = self.opener(self.start_sshd())
        self.assertTrue(verifyObject(ITunnelOpener, opener))
        port, _ = self.listen()
        for size in (0, 1, 10 * _MIB + 7):
            await self.check_stream(opener, port, size)
        # A reader is told before the other side has agreed.
        await self.until(lambda: not opener.tunnels)
        self.assertEqual(opener.connections, 1)

    async def test_rekey(self) -> None:
        """Data stays whole under rekeying every megabyte, with every cipher, many at once."""
        port, _ = self.listen()
        for cipher in PacketTransport.supportedCiphers:
            sshd = self.start_sshd(
                f"RekeyLimit 1M\nLogLevel DEBUG1\nCiphers {cipher.decode('ascii')}"
            )
            opener = self.opener(sshd)
            streams = [self.check_stream(opener, port, 4 * _MIB) for _ in range(4)]
            await gatherResults([Deferred.fromCoroutine(s) for s in streams])
            self.assertGreater(sshd.log().count("NEWKEYS sent"), 10)

    async def test_far_end_closes(self) -> None:
        """A service that ends first, as most do: its last words come through, then the end."""

        class Brief(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                self.transport.write(b"bye" * 100_000)
                self.transport.loseConnection()

        port, _ = self.listen(Brief)
        protocol = Recorder()
        await self.opener(self.start_sshd()).open("127.0.0.1", port, one(protocol))
        await protocol.lost
        self.assertEqual(protocol.data, b"bye" * 100_000)
        self.assertIsNotNone(protocol.reason.check(ConnectionDone))

    async def test_leaving(self) -> None:
        """One that leaves, politely or not, is gone on the other side at once."""
        opener = self.opener(self.start_sshd())
        port, services = self.listen(Recorder)
        for count, leave in enumerate(("loseConnection", "abortConnection"), 1):
            protocol = Recorder()
            await opener.open("127.0.0.1", port, one(protocol))
            protocol.transport.write(b"last words")
            await self.until(partial(services.have_read, count))
            getattr(protocol.transport, leave)()
            await services.connections[-1].lost
            self.assertEqual(services.connections[-1].data, b"last words")
        await self.until(lambda: not opener.tunnels)

    async def test_errors(self) -> None:
        """A closed port and an unknown host are told apart from forbidden forwarding."""
        opener = self.opener(self.start_sshd())
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with self.assertRaises(TunnelConnectError) as caught:
                await opener.open("127.0.0.1", port, one(Recorder()))
        self.assertIn("Connection refused", str(caught.exception))
        for host, number in (("-oProxyCommand=x", 80), ("a b", 80), ("", 80), ("h", 0)):
            with self.assertRaises(TunnelConnectError):
                await opener.open(host, number, one(Recorder()))

    async def test_unanswered(self) -> None:
        """A port that does not answer is given up, and a caller may give up earlier."""
        opener = self.opener(self.start_sshd(), open_timeout=0.3)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            address = full.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                self.addCleanup(filler.close)
                filler.setblocking(False)
                filler.connect_ex(address)
            with self.assertRaises(TunnelConnectError) as caught:
                await opener.open(address[0], address[1], one(Recorder()))
            self.assertIn("within 0.3 s", str(caught.exception))
            attempt = opener.open(address[0], address[1], one(Recorder()))
            attempt.cancel()
            await self.assertFailure(attempt, Exception)
            del filler

    async def test_many(self) -> None:
        """Two hundred tunnels at once through one connection, beyond MaxSessions by far."""
        opener = self.opener(self.start_sshd())
        port, _ = self.listen()
        streams = [self.check_stream(opener, port, 1000 + n) for n in range(200)]
        await gatherResults([Deferred.fromCoroutine(s) for s in streams])
        # A reader is told before the other side has agreed.
        await self.until(lambda: not opener.tunnels)
        self.assertEqual(opener.connections, 1)

    async def test_stalled_reader(self) -> None:
        """A reader that stalls holds a window at most, and holds up nobody else."""
        opener = self.opener(self.start_sshd())
        port, services = self.listen(HalfCloseRecorder)
        stalled = Recorder(pause_after=8 * _MIB)
        await opener.open("127.0.0.1", port, one(stalled))
        await self.until(lambda: services.connections)
        source = Source(services.connections[0].transport, 256 * _MIB)
        await self.until(lambda: len(stalled.data) >= 8 * _MIB)
        echo_port, _ = self.listen()
        await self.check_stream(opener, echo_port, 8 * _MIB)
        channel = stalled.transport
        self.assertLessEqual(sum(map(len, channel._pending)), channel._window.largest)
        self.assertGreater(source.left, 200 * _MIB)
        self.assertTrue(source.is_paused)
        stalled.transport.resumeProducing()
        await self.until(lambda: len(stalled.data) > 64 * _MIB)

    async def test_stalled_far_end(self) -> None:
        """A service that does not read pauses who writes to it, and holds up nobody else."""
        opener = self.opener(self.start_sshd())
        port, services = self.listen(lambda: Recorder(pause_after=1))
        writer = Recorder()
        await opener.open("127.0.0.1", port, one(writer))
        source = Source(writer.transport, 256 * _MIB)
        echo_port, _ = self.listen()
        await self.check_stream(opener, echo_port, 8 * _MIB)
        self.assertTrue(source.is_paused)
        self.assertLess(writer.transport._outbox.size, 256 * 1024)
        self.assertGreater(source.left, 200 * _MIB)
        services.connections[0].transport.resumeProducing()
        await self.until(lambda: len(services.connections[0].data) > 64 * _MIB)

    async def test_link_cut(self) -> None:
        """Tunnels end when the link does; the next one finds a new link."""
        sshd = self.start_sshd()
        opener = self.opener(sshd)
        port, services = self.listen(Recorder)
        protocol = Recorder()
        await opener.open("127.0.0.1", port, one(protocol))
        await self.until(lambda: services.connections)
        sshd.kill_sessions()
        await protocol.lost
        self.assertIsNotNone(protocol.reason.check(ConnectionLost))
        await services.connections[0].lost
        sshd.stop_listening()
        attempt = opener.open("127.0.0.1", port, one(Recorder()))
        sshd.start()
        await attempt

    async def test_no_link(self) -> None:
        """Without a login node the wait is bounded, and the reason told."""
        sshd = self.start_sshd()
        sshd.stop_listening()
        opener = self.opener(sshd, link=LinkOptions(down_patience=2))
        with self.assertRaises(NotConnectedError) as caught:
            await opener.open("127.0.0.1", 80, one(Recorder()))
        self.assertIn("refused", str(caught.exception))

    async def test_stop(self) -> None:
        """Stopping ends tunnels, and refuses new ones."""
        opener = self.opener(self.start_sshd())
        port, _ = self.listen(Recorder)
        protocol = Recorder()
        await opener.open("127.0.0.1", port, one(protocol))
        await opener.stopService()
        await protocol.lost
        with self.assertRaises(NotConnectedError):
            await opener.open("127.0.0.1", port, one(Recorder()))


class RelayTests(_TunnelTests):
    """`SSHTunnelOpener` where sshd does not forward."""

    def start_refusing(self, program: str | None, config: str = _REFUSED) -> Sshd:
        """An sshd that forbids forwarding, on a login node with this one program for a relay."""
        sshd = Sshd([_KEY], config)
        programs = Path(sshd.path, "bin")
        programs.mkdir()
        for name in (*_COREUTILS, "sh", "grep", program):
            if name is not None:
                # A shim of pyenv's is no program of its own.
                path = sys.executable if name == "python3" else shutil.which(name)
                if path is None:
                    self.fail(f"the package that has {name} is not installed")
                (programs / name).symlink_to(Path(path).resolve())
        sshd.environment["PATH"] = str(programs)
        self.addCleanup(sshd.stop)
        sshd.start()
        return sshd

    async def check_program(self, program: str) -> None:
        """Streams through a relay, to their ends, and what happens when there is no port."""
        sshd = self.start_refusing(program)
        opener = self.opener(sshd)
        port, _ = self.listen()
        with capturedLogs() as logs:
            for size in (1, 3 * _MIB + 7):
                await self.check_stream(opener, port, size)
        told = [e for e in logs if e["log_level"] >= LogLevel.warn and "why" in e]
        self.assertEqual(len(told), 1)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            with self.assertRaises(TunnelConnectError) as caught:
                await opener.open("127.0.0.1", closed.getsockname()[1], one(Recorder()))
        self.assertIn("refused", str(caught.exception))
        await self.check_nothing_left(sshd, opener)

    async def check_nothing_left(self, sshd: Sshd, opener: SSHTunnelOpener) -> None:
        """No tunnel, no session, and no process on the login node."""
        await self.until(lambda: not opener.tunnels and not sshd.commands())

    async def check_ends(self, program: str, *, halves: bool = True) -> None:
        """How the far end ends is told at once, while nobody writes, and leaves nothing.

        `halves` says whether the program still sends after the far end's end of data.
        """
        sshd = self.start_refusing(program)
        opener = self.opener(sshd)
        port, services = self.listen(HalfCloseRecorder)
        for make in (Recorder, HalfCloseRecorder):
            for end, reason in (
                ("loseConnection", ConnectionDone),
                ("abortConnection", ConnectionLost),
            ):
                protocol = make()
                await opener.open("127.0.0.1", port, one(protocol))
                await self.until(lambda: services.connections)
                service = services.connections.pop()
                service.transport.write(b"bye" * 100_000)
                await protocol.until(partial(protocol.has, b"bye" * 100_000))
                getattr(service.transport, end)()
                if end == "loseConnection" and isinstance(protocol, HalfCloseRecorder):
                    await protocol.until(partial(protocol.saw, "read lost"))
                    if halves:
                        # A closed port answers data with a reset: told as the break that it is.
                        while "lost" not in protocol.events:
                            protocol.transport.write(b"x")
                            await deferLater(reactor, 0.02)  # type: ignore[arg-type]
                        reason = ConnectionLost
                await protocol.lost
                self.assertIsNotNone(protocol.reason.check(reason), (make, end, protocol.reason))
                self.assertEqual(
                    "read lost" in protocol.events,
                    make is HalfCloseRecorder and end == "loseConnection",
                )
                await self.check_nothing_left(sshd, opener)
        if halves:
            await self.check_half_close(opener, port, services)
            await self.check_nothing_left(sshd, opener)
        await self.check_leaving(opener, port, services)
        await self.check_nothing_left(sshd, opener)
        protocol = Recorder()
        await opener.open("127.0.0.1", port, one(protocol))
        pids = sshd.commands()
        self.assertNotEqual(pids, [])
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await protocol.lost
        self.assertIsNotNone(protocol.reason.check(ConnectionLost))
        await self.check_nothing_left(sshd, opener)

    async def check_half_close(
        self, opener: SSHTunnelOpener, port: int, services: Services
    ) -> None:
        """A service that has ended its data still gets ours."""
        services.connections.clear()
        protocol = HalfCloseRecorder()
        await opener.open("127.0.0.1", port, one(protocol))
        await self.until(lambda: services.connections)
        (service,) = services.connections
        service.transport.loseWriteConnection()
        await protocol.until(partial(protocol.saw, "read lost"))
        for data in (b"a", b"b" * 3_000_000):
            service.data.clear()
            protocol.transport.write(data)
            await service.until(partial(service.has, data))
        protocol.transport.loseWriteConnection()
        await service.until(partial(service.saw, "read lost"))
        service.transport.loseConnection()
        await protocol.lost
        self.assertIsNotNone(protocol.reason.check(ConnectionDone))

    async def check_leaving(self, opener: Any, port: int, services: Services) -> None:
        """Our leaving is told to a service that says nothing, and does not take it for its end."""
        services.connections.clear()
        protocol = Recorder()
        await opener.open("127.0.0.1", port, one(protocol))
        await self.until(lambda: services.connections)
        (service,) = services.connections
        protocol.transport.write(b"last words")
        protocol.transport.loseConnection()
        await service.until(partial(service.saw, "read lost"))
        self.assertEqual(service.data, b"last words")
        await self.until(lambda: not opener.tunnels)
        service.transport.loseConnection()

    async def test_python(self) -> None:
        """With python3."""
        await self.check_program("python3")

    async def test_socat(self) -> None:
        """With socat."""
        await self.check_program("socat")

    async def test_nc(self) -> None:
        """With nc."""
        await self.check_program("nc")

    async def test_bash(self) -> None:
        """With bash alone, which can't half-close: the far end must end by itself."""
        sshd = self.start_refusing("bash")
        opener = self.opener(sshd)
        port, _ = self.listen()
        protocol = HalfCloseRecorder()
        await opener.open("127.0.0.1", port, one(protocol))
        protocol.transport.write(b"x" * 3_000_000)
        await protocol.until(lambda: len(protocol.data) == 3_000_000)
        protocol.transport.loseConnection()
        await protocol.lost
        await self.check_nothing_left(sshd, opener)

    async def test_ends_with_python(self) -> None:
        """How a relay of python3's ends."""
        await self.check_ends("python3")

    async def test_ends_with_socat(self) -> None:
        """How socat ends."""
        await self.check_ends("socat")

    async def test_ends_with_nc(self) -> None:
        """How nc ends, which sends no more after the far end's end."""
        await self.check_ends("nc", halves=False)

    async def test_ends_with_bash(self) -> None:
        """How bash ends."""
        await self.check_ends("bash")

    async def test_nothing(self) -> None:
        """A login node with none of the programs."""
        opener = self.opener(self.start_refusing(None))
        with self.assertRaises(ForwardingRefusedError) as caught:
            await opener.open("127.0.0.1", 80, one(Recorder()))
        self.assertIn("neither python3", str(caught.exception))

    async def test_permit_open(self) -> None:
        """A port that PermitOpen does not list goes through a relay as well."""
        sshd = self.start_sshd("PermitOpen 127.0.0.1:1")
        port, _ = self.listen()
        await self.check_stream(self.opener(sshd), port, 1000)

    async def test_many(self) -> None:
        """More relays at once than a connection has sessions take further connections."""
        opener = self.opener(self.start_refusing("socat"))
        port, _ = self.listen()
        protocols = [Recorder() for _ in range(25)]
        opened = [opener.open("127.0.0.1", port, one(p)) for p in protocols]
        await gatherResults(opened)
        self.assertEqual(opener.connections, 3)
        for protocol in protocols:
            protocol.transport.write(b"hello")
        for protocol in protocols:
            await protocol.until(partial(protocol.has, b"hello"))
            protocol.transport.loseConnection()
            await protocol.lost

    async def test_banner(self) -> None:
        """What the login shell prints is no part of the stream."""
        sshd = self.start_refusing("python3")
        (sshd.path / ".bashrc").write_text("echo Welcome; echo oops >&2\n")
        port, _ = self.listen()
        await self.check_stream(self.opener(sshd), port, 100_000)

    async def test_stalled_reader(self) -> None:
        """Flow control is that of forwarding."""
        opener = self.opener(self.start_refusing("python3"))
        port, services = self.listen(HalfCloseRecorder)
        stalled = Recorder(pause_after=_MIB)
        await opener.open("127.0.0.1", port, one(stalled))
        source = Source(services.connections[0].transport, 64 * _MIB)
        await self.until(lambda: source.is_paused and len(stalled.data) >= _MIB)
        await deferLater(reactor, 0.2)  # type: ignore[arg-type]
        channel = stalled.transport
        self.assertLessEqual(sum(map(len, channel._pending)), channel._window.largest)
        self.assertGreater(source.left, 32 * _MIB)
        stalled.transport.resumeProducing()
        await stalled.until(lambda: len(stalled.data) == 64 * _MIB)

    async def test_link_cut(self) -> None:
        """A relay ends with its link, and leaves no process on the login node."""
        sshd = self.start_refusing("python3")
        opener = self.opener(sshd)
        port, services = self.listen(Recorder)
        protocol = Recorder()
        await opener.open("127.0.0.1", port, one(protocol))
        sshd.kill_sessions()
        await protocol.lost
        await services.connections[0].lost
