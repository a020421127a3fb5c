"""Network namespaces of the bench's own, and a wire with a delay between two of them.

The wire is a TUN device on either side, and a process that reads packets from each and writes them
to the other a fixed time later. It does what `tc netem` does on a veth pair, on kernels without
sch_netem too: TCP on both sides is the kernel's own, at an MTU of 1500, and large packets cross
whole, as they do on veth (TUNSETOFFLOAD, linux/if_tun.h). Nothing is reordered, and nothing is lost
unless the wire is given a rate: then as a router does, whose queue is full.

The machine's own network is not touched. Namespaces and devices last as long as a process has them,
and every process here ends with the bench, even if that is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Final

from attrs import frozen

from deploy.demo.processes import PROJECT

#: RFC 2544's addresses for benchmarks.
NEAR_ADDRESS: Final = "198.18.0.1"
FAR_ADDRESS: Final = "198.18.0.2"

#: Words that end a process with the one that started it.
LEASHED: Final = ("setpriv", "--pdeathsig=TERM")

_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_CLONE_NEWNET: Final = 0x40000000

# A large packet with its virtio header.
_MOST: Final = 65_536 + 64
# How many packets may wait in a device: a queue that is full would lose some.
_QUEUE: Final = 20_000


class NamespaceFailedError(Exception):
    """A namespace or a wire can't be had here; the text says why."""


class Namespace:
    """A context manager; a network with a loopback device and nothing else."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def words(self) -> list[str]:
        """What runs a command in it, and ends it with the bench."""
        return [*LEASHED, "nsenter", f"--net={self._path}"]

    @property
    def _path(self) -> Path:
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/ns/net")

    def __enter__(self) -> Namespace:
        script = "ip link set lo up && echo up && exec cat"
        self._process = subprocess.Popen(
            [*LEASHED, "unshare", "--net", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"up\n":
            self._end()
            raise NamespaceFailedError("this machine gives the bench no network namespace")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets and devices made meanwhile, by this thread, belong to the namespace."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self._path, os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(own)
        finally:
            os.close(there)
            os.close(own)

    def set_tcp_buffers(self, most: int) -> None:
        """Let TCP's own buffers grow to so many bytes (net.ipv4.tcp_wmem, tcp_rmem)."""
        with self.entered():
            for name, usual in (("tcp_wmem", 16_384), ("tcp_rmem", 131_072)):
                Path(f"/proc/sys/net/ipv4/{name}").write_text(f"4096 {usual} {most}")


def inside(namespace: Namespace | None) -> contextlib.AbstractContextManager[None]:
    """As `Namespace.entered`; None is the bench's own."""
    return contextlib.nullcontext() if namespace is None else namespace.entered()


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@frozen(kw_only=True)
class Wire:
    """The namespaces at the two ends of a wire."""

    near: Namespace
    far: Namespace

    def set_tcp_buffers(self, most: int) -> None:
        """As `Namespace.set_tcp_buffers`, at both ends."""
        self.near.set_tcp_buffers(most)
        self.far.set_tcp_buffers(most)


@contextlib.contextmanager
def wire(round_trip: float, rate: float = inf) -> Iterator[Wire]:
    """Two namespaces and the wire between them.

    `round_trip` is in seconds, `rate` in bytes a second in either direction.
    """
    installer = PROJECT / "deploy" / "install-packages"
    if subprocess.run([installer, "iproute2"], check=False).returncode:
        raise NamespaceFailedError("ip (iproute2) is missing")
    with contextlib.ExitStack() as stack:
        near, far = Namespace(), Namespace()
        devices = []
        for namespace, address, peer in (
            (stack.enter_context(near), NEAR_ADDRESS, FAR_ADDRESS),
            (stack.enter_context(far), FAR_ADDRESS, NEAR_ADDRESS),
        ):
            try:
                with namespace.entered():
                    devices.append(_open_device(address, peer))
            except (OSError, subprocess.CalledProcessError) as error:
                raise NamespaceFailedError(f"no TUN device: {error}") from error
            stack.callback(os.close, devices[-1])
        words = [sys.executable, "-m", "test.bench.namespaces"]
        process = subprocess.Popen(
            [*LEASHED, *words, *map(str, [*devices, round_trip / 2, rate])],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            pass_fds=devices,
        )
        assert process.stdin is not None
        stack.callback(process.wait)
        stack.callback(process.stdin.close)
        yield Wire(near=near, far=far)


def _open_device(address: str, peer: str) -> int:
    """A new TUN device that is up; its descriptor."""
    device = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    try:
        asked = struct.pack("16sH22x", b"", _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
        name = fcntl.ioctl(device, _TUNSETIFF, asked)[:16].rstrip(b"\0").decode()
        fcntl.ioctl(device, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
        for words in (
            ["address", "add", address, "peer", peer, "dev", name],
            ["link", "set", name, "txqueuelen", str(_QUEUE), "up"],
        ):
            subprocess.run(["ip", *words], check=True)
    except BaseException:
        os.close(device)
        raise
    return device


class Delay:
    """One direction: packets come out of `source` and go into `sink` `seconds` later.

    With a `rate`, in bytes a second, they queue before that; what would wait there for longer than
    a round trip is lost.
    """

    def __init__(self, source: int, sink: int, seconds: float, rate: float = inf) -> None:
        self.source = source
        self._sink = sink
        self._seconds = seconds
        self._rate = rate
        self._free = 0.0
        self._waiting: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float | None:
        """When the next packet goes on, by the monotonic clock; None while there is none."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, now: float) -> None:
        """Take packets that have come."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                packet = os.read(self.source, _MOST)
                begins = max(now, self._free)
                if begins - now > 2 * self._seconds:
                    continue
                self._free = begins + len(packet) / self._rate
                self._waiting.append((self._free + self._seconds, packet))

    def give(self, now: float) -> None:
        """Let go what is due."""
        while self._waiting and self._waiting[0][0] <= now:
            os.write(self._sink, self._waiting.popleft()[1])


def main() -> None:
    """Carry packets between the two devices named by their descriptors until stdin ends."""
    near, far = map(int, sys.argv[1:3])
    seconds, rate = map(float, sys.argv[3:])
    ways = [Delay(near, far, seconds, rate), Delay(far, near, seconds, rate)]
    while True:
        due = [way.due for way in ways if way.due is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select([0, near, far], [], [], timeout)
        if 0 in readable:
            return
        for way in ways:
            if way.source in readable:
                way.take(time.monotonic())
            way.give(time.monotonic())


if __name__ == "__main__":
    main()
