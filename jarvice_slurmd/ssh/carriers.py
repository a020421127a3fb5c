# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""The SSH connections that carry tunnels: opened when one is needed, a single attempt at a time."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from jarvice_slurmd.errors import NotConnectedError
from jarvice_slurmd.ssh.command import CommandChannel
from jarvice_slurmd.ssh.flow import FlowConnection
from jarvice_slurmd.ssh.options import LinkOptions
from jarvice_slurmd.ssh.shell import make_nonce, render_invocation
from jarvice_slurmd.ssh.stream import NEAR_WINDOW
from jarvice_slurmd.ssh.tunnel import TunnelChannel

# The largest window of a stream over a distance: what a round trip at full speed holds (TRAPS,
# Window). In bytes, and the round trip in seconds that parts it from the near one.
_FAR_WINDOW = 16 * 1024 * 1024
_FAR = 0.005
# How long a connection may take to end in order.
_CLOSE_PATIENCE = 2.0


@define(eq=False)
class Carrier:
    """A connection, its tunnels, and the largest window that a tunnel on it may have."""

    connection: FlowConnection
    window: int
    limit: int
    tunnels: set[TunnelChannel] = field(factory=set, init=False)
    # The first session of every connection is the one that primes it.
    sessions: int = field(default=1, init=False)
    idle: IDelayedCall | None = field(default=None, init=False)
    is_closing: bool = field(default=False, init=False)
    _freed: Callable[[Carrier], None] = field(kw_only=True)

    def open(self, channel: TunnelChannel) -> None:
        """Open a tunnel."""
        self.tunnels.add(channel)
        self.sessions += channel.takes_session
        channel.ended.addCallback(lambda _: self._ended(channel))
        self.connection.openChannel(channel, channel.open_data)

    def primed(self) -> None:
        """The first session is free again."""
        self.sessions -= 1
        self._freed(self)

    def refused(self) -> None:
        """The server opened no session: it allows no more than there are."""
        self.limit = min(self.limit, self.sessions)

    def _ended(self, channel: TunnelChannel) -> None:
        self.tunnels.discard(channel)
        self.sessions -= channel.takes_session
        self._freed(self)


@define(eq=False)
class _Waiter:
    """A tunnel that waits for a connection."""

    sessions: bool
    carrier: Deferred[Carrier]
    deadline: IDelayedCall | None = None


@define(eq=False)
class Carriers:
    """Finds a connection with room for one more tunnel, or makes one."""

    _clock: IReactorTime
    _connect: Callable[[], Deferred[FlowConnection]]
    _options: LinkOptions
    _most: int
    _members: list[Carrier] = field(factory=list, init=False)
    _waiters: list[_Waiter] = field(factory=list, init=False)
    _attempt: Deferred[None] | None = field(default=None, init=False)
    # The end of the last connection that was given up before it carried anything.
    _abandoned: Deferred[None] = field(factory=lambda: succeed(None), init=False)
    _retry: IDelayedCall | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _last_error: str = field(default="the attempt to connect has not ended yet", init=False)
    _is_running: bool = field(default=False, init=False)
    # All sessions are taken, and the log has said so.
    _is_full: bool = field(default=False, init=False)
    _log = Logger()

    @property
    def size(self) -> int:
        """How many connections there are."""
        return len(self._members)

    @property
    def tunnels(self) -> int:
        """How many tunnels they carry."""
        return sum(len(m.tunnels) for m in self._members)

    def start(self) -> None:
        """Connect whenever a tunnel needs it."""
        self._is_running = True

    async def stop(self) -> None:
        """Refuse what waits, end every tunnel, and disconnect."""
        self._is_running = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._attempt is not None:
            self._attempt.cancel()
        self._refuse_waiters("the daemon is shutting down")
        closing = [self._end(member.connection) for member in self._members]
        await DeferredList([*closing, self._abandoned])

    def with_room(self, *, sessions: bool) -> Deferred[Carrier]:
        """Fires with a connection that can take one more tunnel.

        `sessions` says that the tunnel takes a session, of which sshd allows only so many a
        connection. Errors back with `NotConnectedError` after `down_patience` seconds.
        """
        waiter = _Waiter(sessions, Deferred(lambda _: self._forget(waiter)))
        self._waiters.append(waiter)
        waiter.deadline = self._clock.callLater(
            self._options.down_patience, self._lose_patience, waiter
        )
        self._serve()
        return waiter.carrier

    def _serve(self) -> None:
        """Give waiters what there is, and connect when that is not enough."""
        for waiter in list(self._waiters):
            member = self._find(waiter)
            if member is not None:
                if member.idle is not None:
                    member.idle.cancel()
                    member.idle = None
                self._forget(waiter)
                waiter.carrier.callback(member)
        if (
            self._waiters
            and self._is_running
            and self._attempt is None
            and self._retry is None
            and self.size < self._most
        ):
            self._try()
        elif not self._is_running:
            self._refuse_waiters("the daemon is shutting down")

    def _find(self, waiter: _Waiter) -> Carrier | None:
        """The connection that carries least, of those with room."""
        room = [
            m
            for m in self._members
            if not m.is_closing
            and not m.connection.is_lost
            and (not waiter.sessions or m.sessions < m.limit)
        ]
        return min(room, key=lambda m: len(m.tunnels), default=None)

    # Attempts

    def _try(self) -> None:
        self._retry = None
        self._attempt = Deferred.fromCoroutine(self._add())
        self._attempt.addErrback(self._failed).addBoth(lambda _: self._tried())

    def _tried(self) -> None:
        self._attempt = None
        self._serve()

    async def _add(self) -> None:
        connection = await self._connect()
        try:
            await self._join(connection)
        except BaseException:
            self._abandoned = self._end(connection)
            raise

    async def _join(self, connection: FlowConnection) -> None:
        # sshd delays small packets until a connection has had a session (TRAPS, Nagle). The probe
        # comes back after the session's confirmation, so what follows it finds the delay gone.
        invocation = render_invocation(b"", nonce=make_nonce(), seconds=60)
        prime = CommandChannel(invocation, b"", 1024)
        prime.result.addErrback(lambda _: None)
        connection.openChannel(prime)
        await connection.probe()
        round_trip = min([await connection.measure() for _ in range(2)])
        if connection.is_lost:
            raise NotConnectedError(connection.lost_reason)
        window = _FAR_WINDOW if round_trip > _FAR else NEAR_WINDOW
        member = Carrier(connection, window, self._options.max_sessions, freed=self._freed)
        self._members.append(member)
        prime.released.addCallback(lambda _: member.primed())
        connection.lost.addCallback(self._lost, member)
        self._failures = 0
        self._log.info(
            "Opened SSH connection {n} for tunnels, round trip {ms:.1f} ms",
            n=self.size,
            ms=round_trip * 1000,
        )

    def _failed(self, failure: Failure) -> None:
        if not self._is_running:
            return
        if failure.check(NotConnectedError) is None:
            self._log.failure("An SSH connection for tunnels failed unexpectedly", failure)
        self._last_error = failure.getErrorMessage()
        self._log.info("No SSH connection for tunnels: {why}", why=self._last_error)
        if self._waiters:
            pause = self._options.pause(self._failures)
            self._failures += 1
            self._retry = self._clock.callLater(pause, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self._serve()

    def _lost(self, reason: str, member: Carrier) -> str:
        self._members.remove(member)
        self._is_full = False
        if member.idle is not None:
            member.idle.cancel()
            member.idle = None
        if self._is_running:
            self._last_error = reason
            self._log.info(
                "Lost an SSH connection with {n} tunnels: {why}", n=len(member.tunnels), why=reason
            )
        return reason

    # Waiters

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.deadline is not None and waiter.deadline.active():
            waiter.deadline.cancel()

    def _lose_patience(self, waiter: _Waiter) -> None:
        self._forget(waiter)
        if self.size < self._most:
            why = f"there is no SSH link for a tunnel: {self._last_error}"
        else:
            sessions = sum(member.sessions for member in self._members)
            why = f"there is no room for a tunnel: {sessions} sessions are in use (MaxSessions)"
            if not self._is_full:
                self._is_full = True
                self._log.warn("On the login node {why}", why=why)
        waiter.carrier.errback(NotConnectedError(why))

    def _refuse_waiters(self, why: str) -> None:
        for waiter in list(self._waiters):
            self._forget(waiter)
            waiter.carrier.errback(NotConnectedError(why))

    # Ends

    def _freed(self, member: Carrier) -> None:
        self._serve()
        if not member.tunnels and self.size > 1 and member.idle is None and self._is_running:
            member.idle = self._clock.callLater(
                self._options.idle_timeout, self._close_idle, member
            )

    def _close_idle(self, member: Carrier) -> None:
        member.idle = None
        if not member.tunnels and self.size > 1:
            member.is_closing = True
            self._end(member.connection)

    def _end(self, connection: FlowConnection) -> Deferred[None]:
        late = self._clock.callLater(
            _CLOSE_PATIENCE, connection.abort, "the login node did not end the connection"
        )
        gone: Deferred[None] = Deferred()

        def lost(reason: str) -> str:
            if late.active():
                late.cancel()
            gone.callback(None)
            return reason

        connection.lost.addCallback(lost)
        connection.close()
        return gone
