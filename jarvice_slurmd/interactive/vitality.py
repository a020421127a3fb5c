"""Noticing that a browser is gone when nothing is read from it or written to it.

A connection that idles for days looks the same whether its browser lives or its network died; one
that is not read because a job stalls does not even tell of a reset. Both are the kernel's to know.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from typing import Any, Final

# Linux, tcp(7): the first byte of struct tcp_info is the state, 7 is TCP_CLOSE.
_TCP_CLOSE: Final = 7

#: Seconds of silence before the kernel asks, between its questions, and how many it asks (tcp(7)).
IDLE_SECONDS: Final = 60
INTERVAL_SECONDS: Final = 15
PROBES: Final = 4


def watch_peer(transport: Any) -> None:
    """Have the kernel probe an idle TCP connection: a dead one is reset within two minutes."""
    transport.setTcpKeepAlive(True)
    handle = _socket_of(transport)
    if handle is not None and hasattr(socket, "TCP_KEEPIDLE"):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_SECONDS)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


def is_gone(transport: Any) -> bool:
    """Whether a TCP connection was reset, or its far end found dead, without our being told."""
    handle = _socket_of(transport)
    if handle is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:
        return False


def untaken(transport: Any) -> int:
    """How many bytes, given to the kernel, the far end has not taken; 0 where that is not known.

    A far end that does not read takes no more than its own kernel has room for. While there are
    such bytes the kernel tells of a far end that is gone by itself, sooner or later.
    """
    handle = _socket_of(transport)
    if handle is None:
        return 0
    try:
        answer = fcntl.ioctl(handle.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _socket_of(transport: Any) -> socket.socket | None:
    # Under TLS it is the inner transport that has the socket.
    get_handle = getattr(getattr(transport, "transport", transport), "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    return handle if isinstance(handle, socket.socket) else None
