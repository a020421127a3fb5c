# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""Whose turn it is: the commands of a link, served as sessions of its connections."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from jarvice_slurmd.errors import CommandTimedOutError, LinkLostError, NotConnectedError
from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.ssh.command import CommandChannel, SessionRefusedError
from jarvice_slurmd.ssh.connection import LinkConnection
from jarvice_slurmd.ssh.options import Destination, LinkOptions
from jarvice_slurmd.ssh.pool import ConnectionPool
from jarvice_slurmd.ssh.queue import CommandQueue, PendingCommand
from jarvice_slurmd.ssh.sessions import PooledConnection
from jarvice_slurmd.ssh.shell import make_nonce, render_invocation

# On the login node a command is ended so many seconds after our own bound, should the link have
# died and our request to end it never have arrived.
_REMOTE_GRACE = 3
# How long a connection may take to end in order.
_CLOSE_PATIENCE = 2.0


class CommandDispatcher:
    """Runs commands first come, first served, as channels of the connections of its `pool`.

    Further connections than the first are asked for, one at a time, only while commands wait for a
    free session. A command that finds the link down waits `down_patience` seconds for it, unless
    it has been down for as long already and an attempt has failed: then it fails at once, with
    that attempt's reason.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connect: Callable[[], Deferred[LinkConnection]],
        destination: Destination,
        options: LinkOptions,
    ) -> None:
        self.pool = ConnectionPool(clock, connect, destination, options, self)
        self._clock = clock
        self._destination = destination
        self._options = options
        self._waiting = CommandQueue()
        self._commands: set[PendingCommand] = set()
        self._count = 0
        self._is_running = False
        self._growth: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None

    def start(self) -> None:
        """Connect, and stay connected."""
        self._is_running = True
        self.pool.start()

    async def stop(self) -> None:
        """Let the commands that there are end, for `stop_grace` s, and disconnect.

        No `run` may follow.
        """
        self._is_running = False
        if not self.pool.connected:
            self._end_all(NotConnectedError("the daemon is shutting down"))
        if self._commands:
            self._drained = Deferred()
            late = self._clock.callLater(
                self._options.stop_grace,
                self._end_all,
                LinkLostError("the daemon shut down while the command ran"),
            )
            await self._drained
            if late.active():
                late.cancel()
        if self._growth is not None:
            self._growth.cancel()
            self._growth = None
        await self.pool.stop(_CLOSE_PATIENCE)

    def run(
        self, script: bytes, stdin: bytes, timeout: float | None, max_output: int | None
    ) -> Deferred[CommandResult]:
        """As `IRemoteShell.run`, of an encoded script."""
        if len(self._waiting) >= self._options.max_queued:
            return fail(NotConnectedError("too many commands wait for the login node already"))
        if self._is_known_to_be_down():
            return fail(self._not_connected())
        command = self._take(script, stdin, timeout, max_output)
        self._waiting.push(command)
        self.pool_has_room()
        if not self.pool.connected:
            self._lose_patience_later(command)
        return command.result

    def _take(
        self, script: bytes, stdin: bytes, timeout: float | None, max_output: int | None
    ) -> PendingCommand:
        bound = self._options.command_timeout if timeout is None else timeout
        self._count += 1
        now = self._clock.seconds()
        command = PendingCommand(
            number=self._count,
            script=script,
            stdin=stdin,
            max_output=self._options.max_output if max_output is None else max_output,
            timeout=bound,
            arrived=now,
            queued=now,
            result=Deferred(lambda _: self._end(command, CancelledError())),
        )
        self._commands.add(command)
        command.deadline = self._clock.callLater(bound, self._timed_out, command)
        return command

    # From the pool

    def pool_has_room(self) -> None:
        """Start what waits, as far as there are sessions; then think about more of them."""
        while self._waiting:
            member = self.pool.find_room()
            if member is None:
                break
            self._start(self._waiting.pop(), member)
        self._consider_growth()

    def pool_is_down(self) -> None:
        """The link is lost: what waits gets so long for its return."""
        for command in self._waiting:
            self._lose_patience_later(command)

    # Inside

    def _start(self, command: PendingCommand, member: PooledConnection) -> None:
        if command.patience is not None:
            command.patience.cancel()
            command.patience = None
        left = command.arrived + command.timeout - self._clock.seconds()
        invocation = render_invocation(
            command.script, nonce=make_nonce(), seconds=math.ceil(left) + _REMOTE_GRACE
        )
        command.channel = CommandChannel(invocation, command.stdin, command.max_output)
        command.channel.result.addCallbacks(
            lambda result: self._settle(command, result),
            lambda failure: self._failed(command, member, failure),
        )
        self.pool.open(member, command.channel)

    def _failed(self, command: PendingCommand, member: PooledConnection, failure: Failure) -> None:
        """The channel has failed; a command that never ran takes its place in the queue again."""
        command.channel = None
        if failure.check(SessionRefusedError) is None:
            self._settle(command, failure)
            return
        if not member.connection.is_lost:
            self.pool.refused(member)
        if not command.is_over:
            command.queued = self._clock.seconds()
            self._waiting.push(command)
            if not self.pool.connected:
                self._lose_patience_later(command)

    def _settle(self, command: PendingCommand, result: CommandResult | Failure) -> None:
        if command.is_over:
            return
        command.is_over = True
        for timer in (command.deadline, command.patience):
            if timer is not None and timer.active():
                timer.cancel()
        self._commands.discard(command)
        if isinstance(result, Failure):
            command.result.errback(result)
        else:
            command.result.callback(result)
        if not self._commands and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def _end(self, command: PendingCommand, error: Exception) -> None:
        """Fail a command, and end it on the login node when it has a session there."""
        channel = command.channel
        self._settle(command, Failure(error))
        if channel is not None:
            channel.end(error)
        else:
            self._waiting.discard(command)

    def _end_all(self, error: Exception) -> None:
        for command in list(self._commands):
            self._end(command, error)

    def _timed_out(self, command: PendingCommand) -> None:
        bound = f"{command.timeout:g} s"
        if command.channel is not None and command.channel.is_open:
            self._end(command, CommandTimedOutError(f"the command did not end within {bound}"))
        elif command.channel is not None:
            self._end(command, NotConnectedError(f"no session was opened within {bound}"))
        elif not self.pool.connected:
            self._end(command, self._not_connected())
        else:
            self._end(command, NotConnectedError(f"no session became free within {bound}"))

    # A link that is down

    def _is_known_to_be_down(self) -> bool:
        """Whether there is no use in waiting: down for long, and an attempt has failed since."""
        down_for = self._clock.seconds() - self.pool.down_since
        return (
            not self.pool.connected
            and self.pool.failures > 0
            and down_for >= self._options.down_patience
        )

    def _not_connected(self) -> NotConnectedError:
        why = self.pool.last_error or "the first attempt to connect has not ended yet"
        return NotConnectedError(f"there is no SSH link to {self._destination}: {why}")

    def _lose_patience_later(self, command: PendingCommand) -> None:
        if command.is_over or (command.patience is not None and command.patience.active()):
            return
        command.patience = self._clock.callLater(
            self._options.down_patience, self._lose_patience, command
        )

    def _lose_patience(self, command: PendingCommand) -> None:
        command.patience = None
        if command.channel is None and not self.pool.connected:
            self._end(command, self._not_connected())

    # Too few sessions

    def _consider_growth(self) -> None:
        """Open a further connection once the first in the queue has waited long enough."""
        if self._growth is not None:
            self._growth.cancel()
            self._growth = None
        pause = self.pool.growth_pause()
        first = self._waiting.first
        if pause is None or first is None or not self._is_running:
            return
        due = first.queued + self._options.queue_patience - self._clock.seconds()
        if max(pause, due) > 0:
            self._growth = self._clock.callLater(max(pause, due), self._growth_is_due)
        else:
            self.pool.grow()

    def _growth_is_due(self) -> None:
        self._growth = None
        self.pool_has_room()
