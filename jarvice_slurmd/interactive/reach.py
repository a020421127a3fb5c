"""From a browser's connection to what answers its requests."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from typing import Final

from attrs import frozen
from twisted.internet.interfaces import ITransport
from twisted.internet.task import deferLater

from jarvice_slurmd.errors import NotConnectedError, TunnelConnectError
from jarvice_slurmd.interactive.front_settings import FrontSettings
from jarvice_slurmd.interactive.head import RequestHead
from jarvice_slurmd.interactive.interfaces import Api, Page, Route, Target
from jarvice_slurmd.interactive.upstream import (
    IdleUpstreams,
    TunnelKey,
    Upstream,
    open_site,
    open_tunnel,
)

#: Seconds between two tries while there is no link.
RETRY_SECONDS: Final = 0.5


@frozen
class Reached:
    """Whose a request is, and a connection that answers it."""

    route: Target | Api
    upstream: Upstream


class Reach:
    """Finds and opens connections for the requests of one browser's connection."""

    def __init__(self, settings: FrontSettings, transport: ITransport, *, secure: bool) -> None:
        self._settings = settings
        self._transport = transport
        self._secure = secure
        self.idle = IdleUpstreams(clock=settings.clock, timeout=settings.limits.tunnel_keep)

    def site(self) -> Reached:
        """The API's own site, which needs no waiting."""
        site = self._settings.site
        assert site is not None, "a router sent a request to an API that is not here"
        upstream = self.idle.take(None)
        if upstream is None:
            clock = self._settings.clock
            upstream = open_site(site, self._transport, secure=self._secure, clock=clock)
        return Reached(Api(), upstream)

    async def find(
        self, head: RequestHead, route: Route | Awaitable[Route], *, reuse: bool
    ) -> Reached | Page:
        """Where a route leads. `reuse` allows a kept connection, which may be closing meanwhile.

        While there is no link it is tried again, for a bounded time: nothing was sent, so once
        there is one it is as if it had been there. Errors as `IRouter.route` and
        `ITunnelOpener.open`.
        """
        clock = self._settings.clock
        deadline = clock.seconds() + self._settings.limits.link_wait
        while True:
            try:
                return await self._find_once(head, route, reuse=reuse)
            except NotConnectedError:
                if clock.seconds() >= deadline:
                    raise
            await deferLater(clock, RETRY_SECONDS)
            route = self._settings.router.route(head)

    async def _find_once(
        self, head: RequestHead, route: Route | Awaitable[Route], *, reuse: bool
    ) -> Reached | Page:
        found = await route if isawaitable(route) else route
        assert isinstance(found, Target | Api | Page)
        if isinstance(found, Page):
            return found
        if isinstance(found, Api):
            return self.site()
        upstream = None
        if reuse:
            upstream = self.idle.take(TunnelKey(found.number, found.host, found.port))
        if upstream is None:
            try:
                upstream = await open_tunnel(
                    self._settings.opener,
                    found,
                    clock=self._settings.clock,
                    close_timeout=self._settings.limits.close_timeout,
                )
            except TunnelConnectError:
                page = await self._settings.router.unreachable(head, found)
                if page is None:
                    raise
                return page
        return Reached(found, upstream)
