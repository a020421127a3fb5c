"""The web service that the bench reaches through tunnels: Python's standard library and no more.

Its source is the text of an interactive job. It goes by the end of a path, whatever stands before:

    GET  bytes?N      N bytes
    POST swallow      reads the body and answers how many bytes it had
    POST swallow?S    the same, but after 64 MiB it reads nothing for S seconds
    GET  echo         a WebSocket's handshake, then what comes goes back as it came
    GET  place        node and port, as JSON
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import resource
import socket
import threading
import time

BLOCK = bytes(range(256)) * 4096
STALL_AFTER = 64 * 1024 * 1024
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def read_head(connection: socket.socket, received: bytes) -> tuple[bytes, bytes] | None:
    """The next message's head and what came behind it; None where the connection ends."""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65536)
        if not data:
            return None
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def find_field(head: bytes, name: bytes) -> bytes:
    """A header field's value; empty where there is none."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return b""


def serve(connection: socket.socket) -> None:
    """Answer one request after another."""
    with connection:
        rest = b""
        while (taken := read_head(connection, rest)) is not None:
            head, rest = taken
            path, _, query = head.split(b" ", 2)[1].partition(b"?")
            name = path.rpartition(b"/")[2]
            if name == b"bytes":
                send_bytes(connection, int(query))
            elif name == b"swallow":
                length = int(find_field(head, b"content-length"))
                swallow(connection, length - len(rest), float(query or 0))
                rest = b""
                answer(connection, str(length).encode())
            elif name == b"echo":
                connection.sendall(accept_websocket(head) + rest)
                echo(connection)
                return
            else:
                place = {
                    "node": os.environ.get("SLURMD_NODENAME"),
                    "port": connection.getsockname()[1],
                }
                answer(connection, json.dumps(place).encode())


def answer(connection: socket.socket, body: bytes) -> None:
    """A short answer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)


def send_bytes(connection: socket.socket, size: int) -> None:
    """So many bytes, in large pieces: it is the tunnel that is measured."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
    )
    connection.sendall(head % size)
    block = memoryview(BLOCK)
    for _ in range(size // len(block)):
        connection.sendall(block)
    connection.sendall(block[: size % len(block)])


def swallow(connection: socket.socket, size: int, stall: float) -> None:
    """Read so many bytes, with a pause of `stall` seconds on the way."""
    buffer = bytearray(len(BLOCK))
    first = size - STALL_AFTER
    while size > 0:
        if stall and size <= first:
            time.sleep(stall)
            stall = 0
        count = connection.recv_into(buffer, min(size, len(buffer)))
        if not count:
            raise ConnectionResetError("the body did not come to its end")
        size -= count


def accept_websocket(head: bytes) -> bytes:
    """The answer to a WebSocket's handshake (RFC 6455 §4.2.2)."""
    key = find_field(head, b"sec-websocket-key")
    digest = base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % digest
    )


def echo(connection: socket.socket) -> None:
    """Send back what comes until there is no more."""
    while data := connection.recv(65536):
        connection.sendall(data)


def guarded_serve(connection: socket.socket) -> None:
    """As `serve`; a client that leaves is no error."""
    with contextlib.suppress(OSError):
        serve(connection)


def serve_connections(listener: socket.socket) -> None:
    """Serve each connection in a thread of its own, until the listener is shut down."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=guarded_serve, args=(connection,), daemon=True).start()


def main() -> None:
    """Listen where JARVICE says."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    threading.stack_size(256 * 1024)
    address = ("", int(os.environ["JARVICE_SERVICE_PORT"]))
    with socket.create_server(address, backlog=2048) as listener:
        serve_connections(listener)


if __name__ == "__main__":
    main()
