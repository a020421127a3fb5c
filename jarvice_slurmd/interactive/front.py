"""The listener that browsers and upstream reach: every request goes to whom it is for.

One connection may carry requests for several jobs and for the API, as an ingress sends them. They
are answered one after another, in their order.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import ServerFactory
from zope.interface import implementer

from jarvice_slurmd.interactive.channel import FrontChannel
from jarvice_slurmd.interactive.front_settings import FrontSettings


@implementer(IProtocolFactory)
class FrontFactory(ServerFactory):
    """Builds the channels of a listener and starts and stops the API's site with it."""

    noisy = False

    def __init__(self, settings: FrontSettings) -> None:
        self.settings = settings
        self.channels: set[FrontChannel] = set()
        self._drained: Deferred[None] | None = None

    def startFactory(self) -> None:
        """The first listener is up."""
        if self.settings.site is not None:
            self.settings.site.doStart()

    def stopFactory(self) -> None:
        """The last listener is gone."""
        if self.settings.site is not None:
            self.settings.site.doStop()

    def buildProtocol(self, addr: IAddress | None) -> FrontChannel:
        """A channel for a connection that has come in."""
        channel = FrontChannel(self.settings, self._ended)
        channel.factory = self
        self.channels.add(channel)
        return channel

    def drain(self) -> Deferred[None]:
        """Let requests in flight be answered and end the rest; fires when no connection is left."""
        if not self.channels:
            return succeed(None)
        if self._drained is None:
            self._drained = Deferred()
        drained = self._drained
        for channel in tuple(self.channels):
            channel.drain()
        return drained

    def _ended(self, channel: FrontChannel) -> None:
        self.channels.discard(channel)
        if not self.channels and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)
