"""What a stream has not sent yet, and what its reader has not taken yet; no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field


@define(eq=False)
class Outbox:
    """Bytes to be sent in packets; taking them costs no more than their number."""

    size: int = field(default=0, init=False)
    _chunks: deque[memoryview] = field(factory=deque, init=False)

    def append(self, data: bytes) -> None:
        """Put some at the end."""
        if data:
            # A buffer that its owner may change is copied, what can't change is not.
            self._chunks.append(memoryview(data if isinstance(data, bytes) else bytes(data)))
            self.size += len(data)

    def take(self, most: int) -> bytes:
        """Up to so many from the beginning, several small chunks joined."""
        parts = []
        room = most
        while room and self._chunks:
            chunk = self._chunks[0]
            if len(chunk) <= room:
                self._chunks.popleft()
            else:
                self._chunks[0] = chunk[room:]
                chunk = chunk[:room]
            parts.append(chunk)
            room -= len(chunk)
        self.size -= most - room
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self.size = 0


# A window that fills the way makes a queue on it, in which everybody's keystrokes wait. In round
# trips: a queue up to which a window grows, and one from which it shrinks, by a quarter; bytes
# below which it does not.
_SHORT_QUEUE = 0.15
_LONG_QUEUE = 0.4
_LEAST = 512 * 1024
# Up to here it doubles, in bytes.
_STEADY = 2 * 1024 * 1024


@define(eq=False)
class ReceiveWindow:
    """How much a far end may send before its reader has taken what came (RFC 4254 §5.2).

    It begins small and grows, up to `largest`, as often as the reader has taken a whole window
    and has little left to take: a stream whose reader keeps up gets what it needs over any
    distance, and one whose reader does not costs little. `queueing` says how much longer than the
    shortest a round trip takes just now, in such; where it is given the window grows only as long
    as that is little, and shrinks while it is much. All in bytes.
    """

    size: int
    largest: int
    queueing: Callable[[], float] | None = None
    _taken: int = field(default=0, init=False)
    _owed: int = field(default=0, init=False)

    def credit(self, taken: int, waiting: int) -> int:
        """The reader took so many, and so many wait for it: how many to grant the far end now."""
        self._owed += taken
        self._taken += taken
        if self._taken >= self.size:
            self._taken = 0
            self._resize(waiting)
        # An eighth: granting at half the window would halve the speed over a distance.
        if self._owed < self.size // 8:
            return 0
        granted, self._owed = self._owed, 0
        return granted

    def _resize(self, waiting: int) -> None:
        """A whole window was taken."""
        queue = 0.0 if self.queueing is None else self.queueing()
        change = 0
        if queue > _LONG_QUEUE:
            change = -max(0, min(self.size // 4, self.size - _LEAST))
        elif queue <= _SHORT_QUEUE and waiting <= self.size // 2:
            # What queue it makes is known a round trip later: so not in one go.
            step = self.size if self.size < _STEADY else self.size // 2
            change = min(step, self.largest - self.size)
        self.size += change
        self._owed += change
