# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""One authenticated SSH connection and its channels, hardened where Conch's own is brittle.

In Conch one exception in one channel's callback, or a message for a channel already gone, ends the
connection and with it every other channel; and nothing notices a peer that went silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.conch.error import ConchError
from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

if TYPE_CHECKING:
    from jarvice_slurmd.ssh.client import LinkTransport

# Of a channel; larger ones are slower (TRAPS), and OpenSSH takes no more on a forwarded channel.
PACKET = 32 * 1024

# Global request of OpenSSH (PROTOCOL in its source, ssh_config(5) ServerAliveInterval): a server
# that doesn't know it refuses, and that is an answer too.
_KEEPALIVE = b"keepalive@openssh.com"


class WarningsLogger(Logger):
    """Passes warnings and worse: below that Conch logs payloads, which may hold secrets."""

    def emit(self, level: Any, format: str | None = None, **kwargs: object) -> None:
        """See `Logger.emit`."""
        if level >= LogLevel.warn:
            super().emit(level, format, **kwargs)


class ServerVersion(NamedTuple):
    """What the server said it was: the protocol's version, and the software's."""

    protocol: str
    software: str


class LinkConnection(conch.SSHConnection):
    """The ssh-connection service (RFC 4254) on an authenticated transport.

    `lost` fires with the reason, one sentence, once the connection has ended; then the channels
    are told.
    """

    _log = WarningsLogger()
    transport: LinkTransport

    def __init__(self, clock: IReactorTime, interval: float, max_missed: int) -> None:
        super().__init__()
        self.lost: Deferred[str] = Deferred()
        self.is_lost = False
        self._clock = clock
        self._interval = interval
        self._max_missed = max_missed
        self._missed = 0
        self._heard = False
        self._ticking: IDelayedCall | None = None

    @property
    def server_version(self) -> ServerVersion:
        """The server's version, from the line with which it greeted."""
        return self.transport.server_version

    @property
    def lost_reason(self) -> str:
        """Why the connection ended, one sentence."""
        return self.transport.reason

    def serviceStarted(self) -> None:
        """Authentication is done: start keep-alives and hand the connection over."""
        self._ticking = self._clock.callLater(self._interval, self._tick)
        self.transport.authenticated(self)

    def serviceStopped(self) -> None:
        """The transport has ended: tell every channel, whatever one of them makes of it."""
        self.is_lost = True
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        self.lost.callback(self.transport.reason)
        for channel in list(self.channels.values()):
            if channel in self.channelsToRemoteChannel:
                self.channelClosed(channel)
            else:
                del self.channels[channel.id]
                self._guarded(channel, channel.openFailed, ConnectionLost())
        self._cleanupGlobalDeferreds()

    def packetReceived(self, messageNum: int, packet: bytes) -> Any:
        """Dispatch a message; one that can't be handled costs at most its own channel."""
        self._heard = True
        if not conch.MSG_CHANNEL_OPEN_CONFIRMATION <= messageNum <= conch.MSG_CHANNEL_FAILURE:
            return self._guarded(None, super().packetReceived, messageNum, packet)
        channel = self.channels.get(int.from_bytes(packet[:4], "big"))
        if channel is None:
            # It crossed our own close on the way; nobody is left to want it.
            return None
        return self._guarded(channel, super().packetReceived, messageNum, packet)

    def channelClosed(self, channel: SSHChannel) -> None:
        """Both sides have closed the channel, or the connection has ended."""
        self._guarded(None, super().channelClosed, channel)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """Refuse: a server asks nothing of us that we have (hostkeys-00, keep-alives)."""
        return 0

    def _guarded(self, channel: SSHChannel | None, call: Any, *args: Any) -> Any:
        """Call, and log what it raises; the channel that could not go on is closed."""
        try:
            return call(*args)
        except Exception:
            self._log.failure("A message on an SSH channel could not be handled")
        if channel is not None and channel in self.channelsToRemoteChannel:
            try:
                self.sendClose(channel)
            except Exception:
                self._log.failure("An SSH channel could not be closed")
        return None

    def _tick(self) -> None:
        """An interval has passed: ask for a sign of life when there was none meanwhile."""
        self._ticking = self._clock.callLater(self._interval, self._tick)
        if self._heard:
            self._heard = False
            self._missed = 0
            return
        if self._missed >= self._max_missed:
            silence = self._interval * (self._missed + 1)
            self.abort(f"the login node has not answered for {silence:g} s")
            return
        self._missed += 1
        self.probe()

    def probe(self) -> Deferred[None]:
        """Ask for an answer, any; fires when it has come, or the connection has ended."""
        if self.is_lost:
            return succeed(None)
        answered: Deferred[Any] = self.sendGlobalRequest(_KEEPALIVE, b"", wantReply=1)
        # A refusal is an answer as well; the connection's end is told by `lost`.
        return answered.addErrback(lambda failure: failure.trap(ConchError)).addCallback(_nothing)

    def close(self) -> None:
        """End the connection in order: what is written goes out first. `lost` fires later."""
        self.transport.close("closed by this daemon")

    def abort(self, reason: str) -> None:
        """End the connection at once, without waiting for anybody. `lost` fires soon."""
        self.transport.abort(reason)


def _nothing(_: object) -> None:
    """Forget a result."""
