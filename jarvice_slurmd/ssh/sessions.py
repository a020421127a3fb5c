# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""One connection of the pool: how many sessions it may have, and has."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from jarvice_slurmd.ssh.command import CommandChannel
from jarvice_slurmd.ssh.connection import LinkConnection

# After a refusal one more session at once is tried again every so many seconds...
_RELEARN = 10.0
# ...and a connection that was refused its first session is left alone for so long.
REFUSED_PAUSE = 1.0


@define(eq=False)
class PooledConnection:
    """A connection and its sessions, no more at once than the server allows."""

    connection: LinkConnection
    since: float
    _usual_limit: int
    _limit: int
    idle: IDelayedCall | None = field(default=None, init=False)
    is_closing: bool = field(default=False, init=False)
    _channels: set[CommandChannel] = field(factory=set, init=False)
    _relearn_at: float = field(default=0.0, init=False)
    _blocked_until: float = field(default=0.0, init=False)

    @property
    def in_use(self) -> int:
        """How many sessions are open, opening or not yet free again."""
        return len(self._channels)

    def has_room(self, now: float) -> bool:
        """Whether one more session may be tried."""
        if self._limit < self._usual_limit and now >= self._relearn_at:
            self._limit += 1
            self._relearn_at = now + _RELEARN
        return (
            not self.is_closing
            and not self.connection.is_lost
            and now >= self._blocked_until
            and len(self._channels) < self._limit
        )

    def open(self, channel: CommandChannel) -> Deferred[None]:
        """Open a session; fires once the server can have another one in its place."""
        self._channels.add(channel)
        free: Deferred[None] = Deferred()
        channel.released.addCallback(lambda _: self._closed(channel, free))
        self.connection.openChannel(channel)
        return free

    def refused(self, now: float) -> bool:
        """The server opened no session: learn from it. True when it has opened none at all."""
        opened = sum(c.is_open for c in self._channels)
        self._limit = max(1, min(self._limit, opened))
        self._relearn_at = now + _RELEARN
        if opened == 0:
            self._blocked_until = now + REFUSED_PAUSE
        return opened == 0

    def _closed(self, channel: CommandChannel, free: Deferred[None]) -> None:
        if len(self._channels) < self._limit or not channel.is_open or self.connection.is_lost:
            self._free(channel, free)
            return
        # sshd counts a session until it has gone once more around its loop: an open request that
        # comes together with the close is refused. One round trip later it is not.
        answered = self.connection.probe()
        answered.addBoth(lambda _: self._free(channel, free))

    def _free(self, channel: CommandChannel, free: Deferred[None]) -> None:
        self._channels.discard(channel)
        free.callback(None)
