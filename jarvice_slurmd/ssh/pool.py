# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""The connections of a link: at least one kept up, further ones while they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from jarvice_slurmd.errors import NotConnectedError
from jarvice_slurmd.ssh.client import AuthenticationError
from jarvice_slurmd.ssh.command import CommandChannel
from jarvice_slurmd.ssh.connection import LinkConnection, ServerVersion
from jarvice_slurmd.ssh.options import Destination, LinkOptions
from jarvice_slurmd.ssh.sessions import REFUSED_PAUSE, PooledConnection


class PoolOwner(Protocol):
    """Who is told what happens to the pool."""

    def pool_has_room(self) -> None:
        """A session may be free: a connection came up, or a session has ended."""

    def pool_is_down(self) -> None:
        """The last connection has ended."""


@define(eq=False)
class ConnectionPool:
    """Connects, reconnects with growing pauses, and knows what state the link is in.

    At most one attempt is under way at a time, so that sshd's MaxStartups (10 unauthenticated
    connections before it drops some) is never in danger from us. Tells `owner` of changes.
    """

    _clock: IReactorTime
    _connect: Callable[[], Deferred[LinkConnection]]
    _destination: Destination
    _options: LinkOptions
    _owner: PoolOwner
    last_error: str | None = field(default=None, init=False)
    down_since: float = field(default=0.0, init=False)
    failures: int = field(default=0, init=False)
    _members: list[PooledConnection] = field(factory=list, init=False)
    _attempt: Deferred[Any] | None = field(default=None, init=False)
    _is_trying: bool = field(default=False, init=False)
    _retry: IDelayedCall | None = field(default=None, init=False)
    _nudge: IDelayedCall | None = field(default=None, init=False)
    _growth_paused_until: float = field(default=0.0, init=False)
    _growth_failures: int = field(default=0, init=False)
    _is_running: bool = field(default=False, init=False)
    _was_told: bool = field(default=False, init=False)
    _told: set[str] = field(factory=set, init=False)
    _first_is_over: bool = field(default=False, init=False)
    _first_reason: str | None = field(default=None, init=False)
    _first_waiters: list[Deferred[str | None]] = field(factory=list, init=False)
    _log = Logger()

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return bool(self._members)

    @property
    def size(self) -> int:
        """How many connections there are."""
        return len(self._members)

    @property
    def server_version(self) -> ServerVersion | None:
        """What the login node says it runs, while connected."""
        return self._members[0].connection.server_version if self._members else None

    def start(self) -> None:
        """Connect now, and keep a connection up until `stop`."""
        self._is_running = True
        self.down_since = self._clock.seconds()
        self._try()

    def first_attempt(self) -> Deferred[str | None]:
        """Fires with None or the reason once the first attempt to connect has ended."""
        waiter: Deferred[str | None] = Deferred()
        if self._first_is_over:
            waiter.callback(self._first_reason)
        else:
            self._first_waiters.append(waiter)
        return waiter

    def find_room(self) -> PooledConnection | None:
        """A connection that can take one more session; the oldest, so that others fall idle."""
        now = self._clock.seconds()
        return next((m for m in self._members if m.has_room(now)), None)

    def open(self, member: PooledConnection, channel: CommandChannel) -> None:
        """Open a session on a connection."""
        if member.idle is not None:
            member.idle.cancel()
            member.idle = None
        member.open(channel).addCallback(lambda _: self._freed(member))

    def refused(self, member: PooledConnection) -> None:
        """The server opened no session on this connection."""
        if member.refused(self._clock.seconds()) and self._nudge is None:
            self._nudge = self._clock.callLater(REFUSED_PAUSE, self._nudge_owner)

    def _nudge_owner(self) -> None:
        self._nudge = None
        self._owner.pool_has_room()

    def growth_pause(self) -> float | None:
        """In how many seconds a further connection may be tried; None when not at all for now."""
        if not self._members or self.size >= self._options.max_connections or self._is_trying:
            return None
        return max(0.0, self._growth_paused_until - self._clock.seconds())

    def grow(self) -> None:
        """Try to open one further connection."""
        if self.growth_pause() == 0.0:
            self._try()

    async def stop(self, patience: float) -> None:
        """Close every connection in order; drop those that have not ended after `patience` s."""
        self._is_running = False
        for timer in (self._retry, self._nudge):
            if timer is not None and timer.active():
                timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        self._first_attempt_ended("the link was stopped")
        await DeferredList([self._close(m, patience) for m in self._members])

    def _close(self, member: PooledConnection, patience: float) -> Deferred[None]:
        """End a connection in order; fires when it has ended."""
        member.is_closing = True
        if member.idle is not None:
            member.idle.cancel()
            member.idle = None
        late = self._clock.callLater(
            patience, member.connection.abort, "the login node did not end the connection"
        )
        gone: Deferred[None] = Deferred()

        def lost(reason: str) -> str:
            if late.active():
                late.cancel()
            gone.callback(None)
            return reason

        member.connection.lost.addCallback(lost)
        member.connection.close()
        return gone

    # Attempts

    def _try(self) -> None:
        self._retry = None
        self._is_trying = True
        attempt: Deferred[Any] = self._connect()
        self._attempt = attempt
        attempt.addCallbacks(self._succeeded, self._failed)
        attempt.addErrback(self._went_wrong)

    def _succeeded(self, connection: LinkConnection) -> None:
        self._is_trying = False
        if not self._is_running:
            connection.close()
            return
        now = self._clock.seconds()
        limit = self._options.max_sessions
        member = PooledConnection(connection, now, limit, limit)
        self._members.append(member)
        connection.lost.addCallback(self._lost, member)
        if self.size == 1:
            self._is_up(now)
        else:
            self._growth_failures = 0
            self._log.info("Opened connection {n} to {to}", n=self.size, to=self._destination)
            self._watch_idle(member)
        self._owner.pool_has_room()

    def _is_up(self, now: float) -> None:
        if self._was_told:
            # As loud as the loss was: whoever read that wants to read this.
            self._log.warn(
                "The SSH link to {to} is back after {seconds:.0f} s",
                to=self._destination,
                seconds=now - self.down_since,
            )
        self._was_told = False
        self._told = set()
        self.last_error = None
        self._first_attempt_ended(None)

    def _failed(self, failure: Failure) -> None:
        self._is_trying = False
        if failure.check(NotConnectedError) is None and self._is_running:
            self._log.failure("An attempt to connect failed in an unexpected way", failure)
        if not self._is_running:
            return
        if self._members:
            pause = self._options.pause(self._growth_failures)
            self._growth_failures += 1
            self._growth_paused_until = self._clock.seconds() + pause
            self._log.info("No further connection: {why}", why=failure.getErrorMessage())
            self._owner.pool_has_room()
            return
        self.last_error = failure.getErrorMessage()
        self._tell_cause(failure)
        self._retry_later()
        if not self._first_is_over:
            # Whoever waits for the first attempt tells how it ended.
            self._was_told = True
            self._first_attempt_ended(self.last_error)

    def _went_wrong(self, failure: Failure) -> None:
        self._log.failure("The SSH link could not take a connection", failure)

    def _retry_later(self) -> None:
        self._retry = self._clock.callLater(self._options.pause(self.failures), self._try)
        self.failures += 1

    def _lost(self, reason: str, member: PooledConnection) -> str:
        self._members.remove(member)
        if member.idle is not None:
            member.idle.cancel()
            member.idle = None
        if not self._is_running or self._members:
            return reason
        now = self._clock.seconds()
        self.down_since = now
        self.last_error = reason
        self._was_told = True
        self._log.warn(
            "Lost the SSH link to {to}: {why}; reconnecting", to=self._destination, why=reason
        )
        if now - member.since >= self._options.stable_after:
            self.failures = 0
        if not self._is_trying:
            self._retry_later()
        self._owner.pool_is_down()
        return reason

    def _tell_cause(self, failure: Failure) -> None:
        """Log why an attempt failed: what a person must mend once, the rest for the curious."""
        words = failure.getErrorMessage()
        if words in self._told:
            return
        self._told.add(words)
        if failure.check(AuthenticationError):
            self._was_told = True
            self._log.error("Could not connect to {to}: {why}", to=self._destination, why=words)
        else:
            self._log.info("Could not connect to {to}: {why}", to=self._destination, why=words)

    def _first_attempt_ended(self, reason: str | None) -> None:
        if not self._first_is_over:
            self._first_is_over = True
            self._first_reason = reason
            for waiter in self._first_waiters:
                waiter.callback(reason)
            self._first_waiters.clear()

    # Sessions

    def _freed(self, member: PooledConnection) -> None:
        self._watch_idle(member)
        self._owner.pool_has_room()

    def _watch_idle(self, member: PooledConnection) -> None:
        """Start to count how long a connection that is not the only one is not used."""
        if not member.in_use and member.idle is None and self.size > 1 and self._is_running:
            member.idle = self._clock.callLater(
                self._options.idle_timeout, self._close_idle, member
            )

    def _close_idle(self, member: PooledConnection) -> None:
        member.idle = None
        if member.in_use or self.size < 2:
            return
        self._log.info("Closing a connection to {to} that is idle", to=self._destination)
        self._close(member, self._options.connect_timeout)
