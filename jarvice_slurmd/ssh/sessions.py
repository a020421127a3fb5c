"""One connection of the pool: how many sessions it may have, and has."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

from jarvice_slurmd.ssh.command import CommandChannel
from jarvice_slurmd.ssh.connection import LinkConnection

# A server that refused a session is asked for as many again only after so long...
_RELEARN = 60.0
# ...and one that refused the first of a connection is left alone for so long.
REFUSED_PAUSE = 1.0


@define(eq=False)
class PooledConnection:
    """A connection and its sessions, no more at once than the server allows."""

    connection: LinkConnection
    since: float
    _limit: int
    _usual_limit: int
    channels: set[CommandChannel] = field(factory=set, init=False)
    idle: IDelayedCall | None = field(default=None, init=False)
    is_closing: bool = field(default=False, init=False)
    _limited_until: float = field(default=0.0, init=False)
    _blocked_until: float = field(default=0.0, init=False)

    def has_room(self, now: float) -> bool:
        """Whether one more session may be tried."""
        if now >= self._limited_until:
            self._limit = self._usual_limit
        return (
            not self.is_closing
            and not self.connection.is_lost
            and now >= self._blocked_until
            and len(self.channels) < self._limit
        )

    def refused(self, now: float) -> bool:
        """The server opened no session: learn from it. True when it has opened none at all."""
        opened = sum(c.is_open for c in self.channels)
        self._limit = max(1, opened)
        self._limited_until = now + _RELEARN
        if opened == 0:
            self._blocked_until = now + REFUSED_PAUSE
        return opened == 0
