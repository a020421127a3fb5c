"""Connections to what answers: jobs' services through tunnels, and the API's own site.

A browser's connection keeps a few of them for its next requests, because a page is hundreds of
small files and a tunnel costs a round trip to open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import Factory

from jarvice_slurmd.errors import TunnelConnectError
from jarvice_slurmd.interactive.interfaces import Target
from jarvice_slurmd.interactive.memory import connect_in_memory
from jarvice_slurmd.interactive.relay import End, discard
from jarvice_slurmd.interfaces import ITunnelOpener

#: Tunnels that one browser's connection keeps open for its next requests.
MAX_IDLE: Final = 4


@frozen
class TunnelKey:
    """What a kept connection may be used for again: the same port of the same job."""

    number: int
    host: str
    port: int


class Upstream(End):
    """A connection that requests are sent to, one after another."""

    def __init__(self, key: TunnelKey | None, *, clock: IReactorTime, close_timeout: float) -> None:
        super().__init__(clock=clock, close_timeout=close_timeout)
        self.key = key
        self.used = False
        self.abandoned = False
        self.on_end: Callable[[bool], object] = discard_end
        self.idle_call: IDelayedCall | None = None

    def connected_(self) -> None:
        """The tunnel is open, if too late for who wanted it."""
        if self.abandoned:
            self.abort()

    def reading_ended(self) -> None:
        """What answers sends no more."""
        self.on_end(True)

    def connection_ended(self, clean: bool) -> None:
        """It is gone: tell who waits for it."""
        on_end, self.on_end = self.on_end, discard_end
        on_end(clean)

    def let_go(self) -> None:
        """Nobody listens to it any more."""
        self.sink = discard
        self.on_end = discard_end


def discard_end(clean: bool) -> None:
    """Nobody waits for the end of this connection."""


async def open_tunnel(
    opener: ITunnelOpener, target: Target, *, clock: IReactorTime, close_timeout: float
) -> Upstream:
    """A new connection to a job's service; errors as `ITunnelOpener.open`.

    Cancelled, it leaves no connection behind, even where the opener finishes all the same.
    """
    key = TunnelKey(target.number, target.host, target.port)
    upstream = Upstream(key, clock=clock, close_timeout=close_timeout)
    factory = Factory.forProtocol(lambda: upstream)
    opening: Deferred[IProtocol] = opener.open(target.host, target.port, factory)
    try:
        await opening
    except BaseException:
        upstream.abandoned = True
        if upstream.transport is not None:
            upstream.abort()
        raise
    if upstream.lost:
        raise TunnelConnectError("The job's port closed the connection at once.")
    return upstream


def open_site(
    site: IProtocolFactory, outer: ITransport, *, secure: bool, clock: IReactorTime
) -> Upstream:
    """A connection to a site of this process, which sees the addresses of `outer`'s."""
    upstream = Upstream(None, clock=clock, close_timeout=0)
    channel = site.buildProtocol(outer.getPeer())
    assert channel is not None
    connect_in_memory(
        upstream, channel, clock=clock, peer=outer.getPeer(), host=outer.getHost(), secure=secure
    )
    return upstream


class IdleUpstreams:
    """The connections that one browser's connection keeps for later, the newest last."""

    def __init__(self, *, clock: IReactorTime, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._kept: list[Upstream] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, upstream: Upstream) -> None:
        """Keep a connection whose last response is complete; the oldest of too many goes."""
        upstream.used = True
        upstream.sink = lambda data: self._drop(upstream)  # Bytes that nobody asked for.
        upstream.on_end = lambda clean: self._drop(upstream)
        self._kept.append(upstream)
        if upstream.key is not None:
            upstream.idle_call = self._clock.callLater(self._timeout, self._expire, upstream)
        if len(self._kept) > MAX_IDLE:
            self._drop(self._kept[0])

    def take(self, key: TunnelKey | None) -> Upstream | None:
        """A kept connection that is still good, or None."""
        for upstream in reversed(self._kept):
            if upstream.key == key:
                self._forget(upstream)
                return upstream
        return None

    def clear(self) -> None:
        """Close all."""
        for upstream in tuple(self._kept):
            self._drop(upstream)

    def _expire(self, upstream: Upstream) -> None:
        upstream.idle_call = None
        self._drop(upstream)

    def _drop(self, upstream: Upstream) -> None:
        self._forget(upstream)
        upstream.close()

    def _forget(self, upstream: Upstream) -> None:
        self._kept.remove(upstream)
        upstream.let_go()
        if upstream.idle_call is not None:
            upstream.idle_call.cancel()
            upstream.idle_call = None
