"""Where a message's body ends (RFC 9112 §6 and §7.1), without touching its bytes; no I/O.

A body is told of every piece of data and says how much of it is its own. The bytes go on as they
came, so a chunked body keeps its chunks, its extensions and its trailers.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from jarvice_slurmd.errors import JarviceSlurmdError

#: Bytes of a line that begins a chunk, and of all trailers together.
MAX_CHUNK_LINE: Final = 4096
MAX_TRAILERS: Final = 16 * 1024

#: A token, such as a field's name, and what a field's value is made of (RFC 9110 §5.6.2, §5.5).
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;" + _VALUE + rb")?\r\n")
_TRAILER: Final = re.compile(TOKEN + rb":" + _VALUE + rb"\r\n")


class BadFramingError(JarviceSlurmdError):
    """The chunks of a body are not what RFC 9112 §7.1 allows."""


class Body(Protocol):
    """The bytes of one body, counted as they pass."""

    done: bool

    def feed(self, data: bytes) -> int:
        """How many of the first bytes of `data` belong to the body; sets `done` at its end."""


class LengthBody:
    """A body of a known number of bytes, which may be none."""

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = not length

    def feed(self, data: bytes) -> int:
        """As `Body.feed`."""
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return size
        size = self.remaining
        self.remaining = 0
        self.done = True
        return size


class ClosedBody:
    """A response's body that lasts until its connection is closed."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> int:
        """As `Body.feed`; all of it."""
        return len(data)


class ChunkedBody:
    """A chunked body with its trailers.

    With `payload`, the data inside the chunks is also appended there, for a recipient that does
    not understand chunks; whoever gave the list empties it.
    """

    __slots__ = ("_left", "_line", "_state", "_trailers", "done", "payload")

    def __init__(self, payload: list[bytes] | None = None) -> None:
        self.done = False
        self.payload = payload
        self._state = self._size
        self._line = b""
        self._left = 0
        self._trailers = 0

    def feed(self, data: bytes) -> int:
        """As `Body.feed`; raises `BadFramingError`."""
        position = 0
        end = len(data)
        while position < end and not self.done:
            position = self._state(data, position)
        return position

    def _take_line(self, data: bytes, position: int) -> tuple[bytes | None, int]:
        newline = data.find(b"\n", position, position + MAX_CHUNK_LINE)
        if newline < 0:
            self._line += data[position : position + MAX_CHUNK_LINE]
            if len(self._line) >= MAX_CHUNK_LINE:
                raise BadFramingError("A line between the chunks is too long.")
            return None, len(data)
        line = self._line + data[position : newline + 1]
        self._line = b""
        return line, newline + 1

    def _size(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position)
        if line is not None:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise BadFramingError("A chunk does not begin with its size.")
            self._left = int(match[1], 16)
            self._state = self._data if self._left else self._trailer
        return position

    def _data(self, data: bytes, position: int) -> int:
        size = min(self._left, len(data) - position)
        if self.payload is not None:
            self.payload.append(data[position : position + size])
        self._left -= size
        if not self._left:
            self._state = self._data_end
        return position + size

    def _data_end(self, data: bytes, position: int) -> int:
        wanted = b"\r\n"[len(self._line) :]
        got = data[position : position + len(wanted)]
        if not wanted.startswith(got):
            raise BadFramingError("A chunk is longer than its size says.")
        self._line += got
        if len(self._line) == 2:
            self._line = b""
            self._state = self._size
        return position + len(got)

    def _trailer(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position)
        if line is None:
            return position
        if line == b"\r\n":
            self.done = True
            return position
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS or not _TRAILER.fullmatch(line):
            raise BadFramingError("The trailers of a chunked body can't be read.")
        return position
