"""Both ends of the tunnel endpoint on real loopback sockets, driven line by line by a test.

`Gateway` is the endpoint under test between `Peer`s: raw clients on one side, raw backends on the
other. Only timers are the test's own (a `Clock`), where the API's site is not in play.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import evolve
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from jarvice_slurmd.errors import TunnelConnectError
from jarvice_slurmd.interactive.forwarding import Rules
from jarvice_slurmd.interactive.front import FrontFactory
from jarvice_slurmd.interactive.front_settings import FrontLimits, FrontSettings
from jarvice_slurmd.interactive.head import RequestHead
from jarvice_slurmd.interactive.interfaces import Api, IRouter, Page, Route, Target
from jarvice_slurmd.interactive.pages import render_unknown_page
from jarvice_slurmd.interfaces import ITunnelOpener

reactor: Any = _reactor


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for something that no connection tells; the test's own timeout bounds it."""
    while not condition():
        await deferLater(reactor, 0.002)


@implementer(IHalfCloseableProtocol)
class Peer(Protocol):
    """One raw connection: `send` what you like, await what must come.

    It answers the far end's close with its own, unless `stays` is set.
    """

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.count = 0
        self.counting = False
        self.read_ended = False
        self.stays = False
        self.lost: Failure | None = None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self._refused: Callable[[], str] = lambda: ""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        if not self.counting:
            self.received += data
        self._check()

    def readConnectionLost(self) -> None:
        self.read_ended = True
        if not self.stays:
            self.close()
        self._check()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.read_ended = True
        self._check()

    @property
    def was_reset(self) -> bool:
        return self.lost is not None and not self.lost.check(ConnectionDone)

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def end(self) -> None:
        self.transport.loseWriteConnection()

    def close(self) -> None:
        self.transport.loseConnection()

    def reset(self) -> None:
        self.transport.abortConnection()

    async def when(self, condition: Callable[[], bool]) -> None:
        """Wait for something that this connection's events bring about."""
        if not condition():
            waiting: Deferred[None] = Deferred()
            self._waiting.append((condition, waiting))
            await waiting

    async def until(self, mark: bytes) -> bytes:
        """Take what came up to and with `mark`; fails when the connection ends before."""
        await self.when(lambda: mark in self.received or self.read_ended)
        if mark not in self.received:
            raise AssertionError(f"{mark!r} never came, but {bytes(self.received)!r}")
        end = self.received.index(mark) + len(mark)
        return self._take(end)

    async def exactly(self, size: int) -> bytes:
        """Take `size` bytes."""
        await self.when(lambda: len(self.received) >= size or self.read_ended)
        if len(self.received) < size:
            raise AssertionError(f"only {bytes(self.received)!r} came")
        return self._take(size)

    async def head(self) -> bytes:
        """Take a head."""
        return await self.until(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Take all up to the end."""
        await self.when(lambda: self.read_ended)
        return self._take(len(self.received))

    async def gone(self) -> None:
        """Wait until the connection is lost."""
        await self.when(lambda: self.lost is not None)

    def _take(self, size: int) -> bytes:
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def _check(self) -> None:
        for entry in tuple(self._waiting):
            condition, waiting = entry
            if condition():
                self._waiting.remove(entry)
                waiting.callback(None)


class Backend(Factory):
    """A service of a job's: its connections come out of `connections`, one after another."""

    noisy = False

    def __init__(self) -> None:
        self.connections: DeferredQueue[Peer] = DeferredQueue()
        self.all: list[Peer] = []
        self.port: Any = None

    def buildProtocol(self, addr: object) -> Peer:
        peer = Peer()
        self.all.append(peer)
        self.connections.put(peer)
        return peer

    async def accept(self) -> Peer:
        return await self.connections.get()


@implementer(ITunnelOpener)
class PlainOpener:
    """Opens plain TCP connections, whatever host is asked for, and notes what was asked."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, int]] = []
        self.failures: list[Exception] = []

    def open(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.opened.append((host, port))
        if self.failures:
            failed: Deferred[IProtocol] = Deferred()
            failed.errback(Failure(self.failures.pop(0)))
            return failed

        def refused(failure: Failure) -> Failure:
            raise TunnelConnectError(f"Nothing answers at {host}:{port}.")

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        connecting: Deferred[IProtocol] = endpoint.connect(factory)
        connecting.addErrback(refused)
        return connecting


@implementer(IRouter)
class PathRouter:
    """`/job<number>/…` by a table of targets, all else to the API."""

    def __init__(self) -> None:
        self.targets: dict[bytes, Target | Callable[[], Awaitable[Route]]] = {}
        self.heads: list[RequestHead] = []
        self.ended: set[int] = set()

    async def unreachable(self, head: RequestHead, target: Target) -> Page | None:
        ended = target.number in self.ended
        return render_unknown_page(target.number, head.headers) if ended else None

    def route(self, head: RequestHead) -> Route | Awaitable[Route]:
        self.heads.append(head)
        first = head.target.partition(b"?")[0].split(b"/")[1]
        if not first.startswith(b"job"):
            return Api()
        target = self.targets.get(first)
        if target is None:
            return render_unknown_page(int(first[3:] or b"0"), head.headers)
        return target if isinstance(target, Target) else target()


class GatewayCase(TestCase):
    """A test with a gateway, its router and opener, and as many peers as it asks for."""

    timeout = 60
    limits = FrontLimits()
    rules = Rules()
    clock: Any

    def setUp(self) -> None:
        self.clock = Clock()
        self.opener = PlainOpener()
        self.router = PathRouter()
        self.site: IProtocolFactory | None = None

    def start(self, **changes: Any) -> FrontFactory:
        """Listen; `changes` are fields of `FrontSettings`."""
        return self.listen(reactor.listenTCP, **changes)

    def listen(self, listen: Callable[..., Any], **changes: Any) -> FrontFactory:
        """Listen by a method of the reactor's."""
        settings = FrontSettings(
            router=self.router,
            opener=self.opener,
            clock=self.clock,
            site=self.site,
            rules=self.rules,
            limits=self.limits,
        )
        self.front = FrontFactory(evolve(settings, **changes))
        self.port = listen(0, self.front, interface="127.0.0.1")
        self.addCleanup(self._stop, self.port, self.front)
        return self.front

    async def connect(self) -> Peer:
        """A raw client of the gateway."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        peer: Peer = await connectProtocol(endpoint, Peer())
        self.addCleanup(self._leave, peer)
        return peer

    def job(self, number: int = 1, *, strip_prefix: bool = False, by_path: bool = True) -> Backend:
        """A job with a backend of its own."""
        backend = Backend()
        backend.port = reactor.listenTCP(0, backend, interface="127.0.0.1")
        self.addCleanup(backend.port.stopListening)
        self.addCleanup(self._leave_all, backend)
        name = b"job%d" % number
        self.router.targets[name] = Target(
            number=number,
            host=f"n{number}",
            port=backend.port.getHost().port,
            prefix=b"/" + name if by_path else b"",
            strip_prefix=strip_prefix,
        )
        return backend

    def _leave_all(self, backend: Backend) -> Any:
        return gatherResults([self._leave(peer) for peer in backend.all])

    def _leave(self, peer: Peer) -> Deferred[None]:
        if peer.lost is None:
            peer.transport.resumeProducing()
            peer.reset()
        return Deferred.fromCoroutine(peer.gone())

    def _stop(self, port: Any, front: FrontFactory) -> Deferred[None]:
        async def stop() -> None:
            await port.stopListening()
            for channel in tuple(front.channels):
                channel.abort()
            await front.drain()

        return Deferred.fromCoroutine(stop())
