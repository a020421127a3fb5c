"""WebSockets through a job's address: how fast a keystroke is, and what a thousand cost."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from test.bench.figures import Goal, Sample, Section, Series, ratio
from test.bench.namespaces import inside
from test.bench.scene import Scene, SceneError
from test.bench.service import read_head
from test.bench.ways import Service, Way, daemon_way, near_ways

_PATIENCE: Final = 30.0
_KIB: Final = 1024

# A message of 100 bytes as a browser sends it: final, binary, masked (RFC 6455 §5.2).
MESSAGE: Final = bytes([0x82, 0x80 | 100]) + b"mask" + bytes(100)

_ROUNDS: Final = 5
_MESSAGES: Final = 300
_MOST_OF_SSH: Final = 2.0

_IDLE: Final = 500
_AT_ONCE: Final = 1000
_MOST_KIB: Final = 100.0


def measure_latency(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """There and back, one message at a time, each way in turn."""
    tell(f"WebSockets: {_MESSAGES} messages there and back, {_ROUNDS} rounds")
    with ExitStack() as stack:
        ways = stack.enter_context(near_ways(scene, service))
        sockets = [stack.enter_context(open_sockets(way, 1)[0]) for way in ways]
        for connection in sockets:
            there_and_back(connection)
        samples: list[list[Sample]] = [[] for _ in ways]
        for _ in range(_ROUNDS):
            latencies: list[list[float]] = [[] for _ in ways]
            for _ in range(_MESSAGES):
                for connection, mine in zip(sockets, latencies, strict=True):
                    mine.append(there_and_back(connection))
            for mine, runs in zip(latencies, samples, strict=True):
                runs.append(Sample(seconds=sum(mine), latencies=mine))
    series = [Series(runs) for runs in samples]
    ours, ssh = (one.latency(50) for one in series[:2])
    rows = [("", "p50 ms", "p99 ms", "daemon's p50 is")]
    rows += [
        (
            way.title,
            f"{one.latency(50):.3f}",
            f"{one.latency(99):.3f}",
            ratio(ours, one.latency(50)) if one is not series[0] else "",
        )
        for way, one in zip(ways, series, strict=True)
    ]
    return Section(
        title=f"100 bytes over a WebSocket, there and back (medians of {_ROUNDS} rounds)",
        table=rows,
        goals=[
            Goal(
                text=f"100 bytes there and back: at most {_MOST_OF_SSH:.0f} x ssh -N -L",
                measured=f"{ours / ssh:.2f} x",
                reached=ours / ssh <= _MOST_OF_SSH,
            )
        ],
    )


def measure_many(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """Hundreds at once, in a daemon that has been used before."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    broken: list[str] = []
    with ExitStack() as stack:
        way = stack.enter_context(daemon_way(scene, service))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for connection in open_sockets(way, 20):
            there_and_back(connection)
            connection.close()
        time.sleep(1.0)
        sockets: list[socket.socket] = []
        rows = [("WebSockets", "opened in s", "answered", "in s", "memory MiB", "KiB each")]
        before = way.memory()
        each = 0.0
        rows.append(("none", "", "", "", f"{before / _KIB / _KIB:.1f}", ""))
        for count in (_IDLE, _AT_ONCE):
            tell(f"{count} WebSockets at once")
            began = time.monotonic()
            try:
                opened = open_sockets(way, count - len(sockets))
            except (OSError, SceneError) as error:
                broken.append(f"{count} WebSockets: {error}")
                break
            sockets += [stack.enter_context(connection) for connection in opened]
            opening = time.monotonic() - began
            # Idle: what opening them has left to be done is done.
            time.sleep(1.0)
            memory = way.memory()
            if count == _IDLE:
                each = (memory - before) / _KIB / count
            began = time.monotonic()
            answered = _answered(sockets)
            if answered != count:
                broken.append(f"only {answered} of {count} WebSockets answered")
            rows.append(
                (
                    str(count),
                    f"{opening:.2f}",
                    str(answered),
                    f"{time.monotonic() - began:.2f}",
                    f"{memory / _KIB / _KIB:.1f}",
                    f"{(memory - before) / _KIB / count:.1f}",
                )
            )
    return Section(
        title="WebSockets that are open at once, in the daemon",
        table=rows,
        remarks=["(the memory is before their first message, resident)"],
        goals=[
            Goal(
                text=f"{_IDLE} idle WebSockets: at most {_MOST_KIB:.0f} KiB each",
                measured=f"{each:.1f} KiB" if each else "not measured",
                reached=0 < each <= _MOST_KIB,
            ),
            Goal(
                text=f"{_AT_ONCE} WebSockets at once work",
                measured="they do not" if broken else "all answered",
                reached=not broken,
            ),
        ],
        broken=broken,
    )


def open_sockets(way: Way, count: int) -> list[socket.socket]:
    """Open so many at the same moment."""
    address = ("127.0.0.1", way.port)
    with inside(way.namespace):
        sockets = [socket.create_connection(address, _PATIENCE) for _ in range(count)]
    handshake = (
        f"GET {way.path}echo HTTP/1.1\r\nHost: 127.0.0.1:{way.port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    for connection in sockets:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(handshake)
    for connection in sockets:
        taken = read_head(connection, b"")
        if taken is None or not taken[0].startswith(b"HTTP/1.1 101 "):
            said = "the connection ended" if taken is None else taken[0].partition(b"\r\n")[0]
            raise SceneError(f"a WebSocket was not opened: {said!r}")
    return sockets


def there_and_back(connection: socket.socket) -> float:
    """The seconds that one message takes."""
    began = time.perf_counter()
    connection.sendall(MESSAGE)
    _receive(connection)
    return time.perf_counter() - began


def _answered(sockets: Sequence[socket.socket]) -> int:
    """How many answer when all are sent a message at once."""
    answered = 0
    for connection in sockets:
        connection.sendall(MESSAGE)
    for connection in sockets:
        try:
            _receive(connection)
        except OSError:
            continue
        answered += 1
    return answered


def _receive(connection: socket.socket) -> None:
    missing = len(MESSAGE)
    while missing:
        data = connection.recv(missing)
        if not data:
            raise ConnectionResetError("a WebSocket was closed")
        missing -= len(data)
