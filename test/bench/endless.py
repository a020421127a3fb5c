"""A bulk transfer that goes on while something else is measured, and tells how much it has moved.

`python -m test.bench.endless` reads a `Transfer` as JSON from the first line of stdin, and answers
each further line with the number of bytes moved so far; it ends with stdin. `moving` runs it so.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

from attrs import asdict

from deploy.demo.processes import PROJECT
from test.bench.namespaces import LEASHED, Namespace
from test.bench.service import BLOCK, read_head
from test.bench.transfer import Transfer, TransferFailedError

#: More than can be had while anybody measures.
ENDLESS: Final = 10**13

_PATIENCE: Final = 60.0


class Bulk:
    """A transfer under way."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def moved(self) -> int:
        """The bytes it has moved so far; `TransferFailedError` once it is over."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said.strip():
            raise TransferFailedError("a transfer without end has ended")
        return int(said)


@contextlib.contextmanager
def moving(transfer: Transfer, namespace: Namespace | None = None) -> Iterator[Bulk]:
    """Move bytes in a process of its own; it has to go on until the end of the context."""
    before = LEASHED if namespace is None else namespace.words
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "test.bench.endless"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    bulk = Bulk(process)
    try:
        assert process.stdin is not None
        process.stdin.write(f"{json.dumps(asdict(transfer))}\n".encode())
        yield bulk
        bulk.moved()
    finally:
        process.kill()
        process.communicate()


def download(connection: socket.socket, path: str, count: Callable[[int], object]) -> None:
    """GET without end."""
    connection.sendall(f"GET {path}bytes?{ENDLESS} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    taken = read_head(connection, b"")
    if taken is None or not taken[0].startswith(b"HTTP/1.1 200 "):
        raise TransferFailedError("the download was not answered")
    buffer = bytearray(len(BLOCK))
    while received := connection.recv_into(buffer):
        count(received)


def upload(connection: socket.socket, path: str, count: Callable[[int], object]) -> None:
    """POST without end; what the connection has taken counts as moved."""
    head = f"POST {path}swallow HTTP/1.1\r\nHost: bench\r\nContent-Length: {ENDLESS}\r\n\r\n"
    connection.sendall(head.encode())
    while True:
        connection.sendall(BLOCK)
        count(len(BLOCK))


def main() -> None:
    """Do what stdin says."""
    transfer = Transfer(**json.loads(sys.stdin.readline()))
    moved = 0

    def count(more: int) -> None:
        nonlocal moved
        moved += more

    def move() -> None:
        try:
            with socket.create_connection((transfer.host, transfer.port), _PATIENCE) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                (upload if transfer.upload else download)(connection, transfer.path, count)
        finally:
            # Whatever the reason: nothing moves any longer, and who asks has to see that.
            os._exit(1)

    threading.Thread(target=move, daemon=True).start()
    for _ in sys.stdin:
        print(moved, flush=True)


if __name__ == "__main__":
    main()
