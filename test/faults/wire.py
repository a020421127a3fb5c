"""A wire to the login node that loses, delays and cuts packets: real ones, between two stacks.

`Wire` starts this module as a process of its own. It makes two network namespaces: "far", where a
relay listens at `Wire.host` and passes what it gets on to the cluster's sshd, and between it and
this host's stack a second one, where frames go from one veth to the other through this process,
which drops or holds them as it is told. tc's netem does the same in the kernel, but not every
kernel has it (the one that this was written on has not). All of it is gone when the process is.

Needs root, iproute2 and Linux.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import ipaddress
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_SIOCETHTOOL = 0x8946
# ethtool.h: transmit checksums, TCP segmentation and generic segmentation, which a frame that is
# carried by hand must not be left to.
_OFFLOADS = (0x17, 0x1F, 0x24)


def _addresses(pid: int) -> tuple[str, str]:
    """The near and the far end of a wire: a network of its own for each process."""
    network = ipaddress.ip_address("10.231.0.0") + pid % 16384 * 4
    return str(network + 1), str(network + 2)


class Wire:
    """The near end: how tests make it, and make it bad.

    At `host` and `port` is the cluster's sshd, behind the wire.
    """

    def __init__(self, sshd_port: int) -> None:
        self.port = sshd_port
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(sshd_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        assert self._process.stdout is not None
        self.host = _addresses(self._process.pid)[1]
        said = self._process.stdout.readline().strip()
        if said != "ready":
            self._process.kill()
            raise OSError(f"the wire can't be made: {said or 'see stderr'}")

    @property
    def pid(self) -> int:
        """The process that carries the packets."""
        return self._process.pid

    def set(self, *, loss: float = 0.0, delay: float = 0.0) -> None:
        """Lose a part of all packets (1.0 is a cut), and hold each for some seconds, both ways."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{loss} {delay}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def counts(self) -> tuple[int, int]:
        """Packets that passed, and that were lost, so far."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("counts\n")
        self._process.stdin.flush()
        passed, lost = self._process.stdout.readline().split()
        return int(passed), int(lost)

    def close(self) -> None:
        """Take it away."""
        self._process.kill()
        self._process.communicate()


def _enter_new_namespace() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _without_offloads(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", name.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, request.ljust(40, b"\0"))


def _packets(name: str) -> socket.socket:
    carrier = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    carrier.bind((name, 0))
    return carrier


class _Frames:
    """Carries frames from one veth to the other, and some of them nowhere."""

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        self.loss = self.delay = 0.0
        self.passed = self.lost = 0
        self._ways = {one: other, other: one}
        self._held: list[tuple[float, int, socket.socket, bytes]] = []
        self._random = random.Random(77)

    def run(self) -> None:
        """Carry, for ever."""
        number = 0
        while True:
            now = time.monotonic()
            while self._held and self._held[0][0] <= now:
                _, _, way, frame = heapq.heappop(self._held)
                way.send(frame)
            wait = self._held[0][0] - now if self._held else None
            for carrier in select.select(list(self._ways), [], [], wait)[0]:
                frame, address = carrier.recvfrom(65536)
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                if self._random.random() < self.loss:
                    self.lost += 1
                    continue
                self.passed += 1
                number += 1
                due = time.monotonic() + self.delay
                heapq.heappush(self._held, (due, number, self._ways[carrier], frame))


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            end.close()


def _accept(listener: socket.socket, port: int) -> None:
    while True:
        near, _ = listener.accept()
        try:
            sshd = socket.create_connection(("127.0.0.1", port))
        except OSError:
            near.close()
            continue
        for ends in ((near, sshd), (sshd, near)):
            threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _main(port: int) -> None:
    # With the test's own process: nothing is left behind, whatever happens to it.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    host = os.open("/proc/self/ns/net", os.O_RDONLY)
    far = _enter_new_namespace()
    _enter_new_namespace()
    here = f"/proc/{os.getpid()}/fd/"
    ours, theirs = _addresses(os.getpid())
    name = f"wire{os.getpid()}"
    for end, peer, namespace in (("near", name, host), ("far", "wire", far)):
        words = ("link", "add", end, "type", "veth", "peer", "name", peer)
        _ip(*words, "netns", here + str(namespace))
    for end in ("near", "far"):
        _without_offloads(end)
        _ip("link", "set", end, "up")
    frames = _Frames(_packets("near"), _packets("far"))
    for namespace, device, address in ((far, "wire", theirs), (host, name, ours)):
        _enter(namespace)
        _without_offloads(device)
        _ip("address", "add", f"{address}/30", "dev", device)
        _ip("link", "set", device, "up")
        if namespace == far:
            listener = socket.create_server((theirs, port))
    threading.Thread(target=frames.run, daemon=True).start()
    threading.Thread(target=_accept, args=(listener, port), daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "counts\n":
            print(frames.passed, frames.lost, flush=True)
            continue
        loss, delay = line.split()
        frames.loss, frames.delay = float(loss), float(delay)
        print("set", flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
