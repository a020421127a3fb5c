"""A port forwarder with paramiko as it comes, two threads a connection, as most are written.

`python -m test.bench.paramiko_forward` reads what to do as JSON from stdin (`login`, `port` of
loopback, `to_host`, `to_port`) and forwards until it is ended.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable

import paramiko  # type: ignore[import-not-found, import-untyped, unused-ignore]

from test.bench.neighbours import Login, load_key

_PIECE = 32 * 1024


def pump(
    read: Callable[[int], bytes], write: Callable[[bytes], object], end: Callable[[], object]
) -> None:
    """Pass one direction on until it ends, then `end` it."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while data := read(_PIECE):
            write(data)
    with contextlib.suppress(OSError, EOFError):
        end()


def forward(transport: paramiko.Transport, to: tuple[str, int], connection: socket.socket) -> None:
    """Pass one connection on."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel = transport.open_channel("direct-tcpip", to, connection.getpeername())

        def end() -> None:
            connection.shutdown(socket.SHUT_WR)

        other = threading.Thread(target=pump, args=(channel.recv, connection.sendall, end))
        other.start()
        pump(connection.recv, channel.sendall, channel.shutdown_write)
        other.join()
        channel.close()


def main() -> None:
    """Do what stdin says."""
    said = json.load(sys.stdin)
    login = Login(**said["login"])
    transport = paramiko.Transport((login.host, login.port))
    transport.connect(username=login.user, pkey=load_key(login.key))
    with socket.create_server(("127.0.0.1", said["port"]), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            words = (transport, (said["to_host"], said["to_port"]), connection)
            threading.Thread(target=forward, args=words, daemon=True).start()


if __name__ == "__main__":
    main()
