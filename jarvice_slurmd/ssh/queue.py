"""The commands of a link that wait for a session, first come, first served."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.ssh.command import CommandChannel


@define(eq=False, order=False)
class PendingCommand:
    """One call of `run`, waiting for a session or running in one."""

    number: int
    script: bytes = field(repr=False)
    stdin: bytes = field(repr=False)
    max_output: int
    timeout: float
    arrived: float
    result: Deferred[CommandResult]
    queued: float = 0.0
    channel: CommandChannel | None = None
    deadline: IDelayedCall | None = None
    patience: IDelayedCall | None = None
    is_over: bool = False

    def __lt__(self, other: PendingCommand) -> bool:
        return self.number < other.number


@define(eq=False)
class CommandQueue:
    """Keeps the order of arrival, also for a command that comes back because no session opened."""

    _heap: list[PendingCommand] = field(factory=list, init=False)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[PendingCommand]:
        return iter(tuple(self._heap))

    @property
    def first(self) -> PendingCommand | None:
        """Whose turn it is."""
        return self._heap[0] if self._heap else None

    def push(self, command: PendingCommand) -> None:
        """Take a command in, at the place of its number."""
        heapq.heappush(self._heap, command)

    def pop(self) -> PendingCommand:
        """Take out the command whose turn it is."""
        return heapq.heappop(self._heap)

    def discard(self, command: PendingCommand) -> None:
        """Forget a command, and with it its script and stdin."""
        if command in self._heap:
            self._heap.remove(command)
            heapq.heapify(self._heap)
