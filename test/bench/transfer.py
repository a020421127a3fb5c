"""The browser of the bulk measurements: one large request, in a process of its own.

`python -m test.bench.transfer` reads a `Transfer` as JSON from stdin and prints the seconds taken.
`start` runs it so, and `measure` waits for it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Final

from attrs import asdict, frozen

from deploy.demo.processes import PROJECT
from test.bench.namespaces import LEASHED, Namespace
from test.bench.service import BLOCK, find_field, read_head

# Seconds that nothing may move for, beyond the pauses asked for.
_PATIENCE: Final = 60.0


class TransferFailedError(Exception):
    """A transfer did not come to its end; the text says why."""


@frozen(kw_only=True)
class Transfer:
    """A request to TCP `port` of `host`: `upload` or download of `size` bytes.

    `path` is where the bench's service is reached. A download reads nothing for `pause` seconds
    after `pause_after` bytes.
    """

    port: int
    path: str
    size: int
    upload: bool = False
    pause: float = 0.0
    pause_after: int = 64 * 1024 * 1024
    host: str = "127.0.0.1"


def start(transfer: Transfer, namespace: Namespace | None = None) -> subprocess.Popen[bytes]:
    """Begin a transfer in a process of its own."""
    before = LEASHED if namespace is None else namespace.words
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "test.bench.transfer"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(transfer)).encode())
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[bytes]) -> float:
    """The seconds that a transfer took."""
    said, complaint = process.communicate()
    if process.returncode != 0:
        lines = complaint.decode("utf-8", "replace").strip().splitlines()
        raise TransferFailedError(lines[-1] if lines else f"exit status {process.returncode}")
    return float(said)


def run(transfer: Transfer) -> float:
    """Do it; seconds from the first packet of the connection to the last byte of the answer."""
    began = time.perf_counter()
    with socket.create_connection((transfer.host, transfer.port), _PATIENCE) as connection:
        connection.settimeout(_PATIENCE + transfer.pause)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        (upload if transfer.upload else download)(connection, transfer)
    return time.perf_counter() - began


def download(connection: socket.socket, transfer: Transfer) -> None:
    """GET so many bytes, and count them."""
    request = f"GET {transfer.path}bytes?{transfer.size} HTTP/1.1\r\nHost: bench\r\n\r\n"
    connection.sendall(request.encode())
    received = _answered(connection, transfer.size)
    buffer = bytearray(len(BLOCK))
    pause = transfer.pause
    while received < transfer.size:
        if pause and received >= transfer.pause_after:
            time.sleep(pause)
            pause = 0.0
        count = connection.recv_into(buffer)
        if not count:
            break
        received += count
    if received != transfer.size:
        raise TransferFailedError(f"{received} bytes came of {transfer.size}")


def upload(connection: socket.socket, transfer: Transfer) -> None:
    """POST so many bytes, and have them counted."""
    query = f"?{transfer.pause}" if transfer.pause else ""
    head = f"POST {transfer.path}swallow{query} HTTP/1.1\r\nHost: bench\r\n"
    connection.sendall(f"{head}Content-Length: {transfer.size}\r\n\r\n".encode())
    block = memoryview(BLOCK)
    for _ in range(transfer.size // len(block)):
        connection.sendall(block)
    connection.sendall(block[: transfer.size % len(block)])
    _answered(connection, len(str(transfer.size)))


def _answered(connection: socket.socket, length: int) -> int:
    """Read an answer's head, which must be 200 and say this length; how much of its body came."""
    taken = read_head(connection, b"")
    if taken is None:
        raise TransferFailedError("the connection ended without an answer")
    head, rest = taken
    status = head.partition(b"\r\n")[0]
    if not status.startswith(b"HTTP/1.1 200 "):
        raise TransferFailedError(status.decode("ascii", "replace"))
    if find_field(head, b"content-length") != str(length).encode():
        raise TransferFailedError("the answer is not of the length asked for")
    return len(rest)


if __name__ == "__main__":
    print(run(Transfer(**json.load(sys.stdin))))
