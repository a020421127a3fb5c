"""Bulk downloads and uploads through a job's address, beside `ssh -L` and paramiko."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from test.bench import transfer
from test.bench.figures import Goal, Section, median_ratio
from test.bench.namespaces import NEAR_ADDRESS, NamespaceFailedError, Wire, wire
from test.bench.scene import Scene
from test.bench.service import serve_connections
from test.bench.throughput import DIRECTIONS, Bulk, render_bulk
from test.bench.transfer import Transfer
from test.bench.ways import LARGE_BUFFERS, ROUND_TRIP, Service, Way, far_ways, near_ways

_MIB: Final = 1024 * 1024
_ROUNDS: Final = 5
_SIZE: Final = 256 * _MIB
_LEAST_OF_SSH: Final = 0.8
_LEAST_OF_PARAMIKO: Final = 1.5

_FAR_ROUNDS: Final = 3
_USUAL_ROUNDS: Final = 1
_FAR_SIZE: Final = 128 * _MIB
_LEAST_OF_SSH_FAR: Final = 2.0
# What Linux allows TCP to buffer if it is not told otherwise.
_USUAL_BUFFERS: Final = 4 * _MIB


def measure_near(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """On this machine."""
    with near_ways(scene, service) as ways:
        _transfer_all(ways, 16 * _MIB)
        results = _measure(ways, _SIZE, _ROUNDS, tell)
    ours = results["daemon"]
    return Section(
        title=(
            f"Bulk through a job's address, {_SIZE // _MIB} MiB at a time"
            f" (medians of {_ROUNDS} rounds)"
        ),
        table=render_bulk(results),
        remarks=[
            "(the ratios are medians of the rounds' own, the CPU is the forwarding process's)"
        ],
        goals=[
            _goal(
                f"{direction}: at least {least} x {title}", ours, results[title], direction, least
            )
            for direction in DIRECTIONS
            for title, least in (("ssh -N -L", _LEAST_OF_SSH), ("paramiko", _LEAST_OF_PARAMIKO))
        ],
    )


def measure_far(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """Over a distance, with TCP's usual buffers and with large ones."""
    milliseconds = f"{ROUND_TRIP * 1000:.0f} ms"
    texts = {
        direction: f"{direction} at {milliseconds}: at least {_LEAST_OF_SSH_FAR} x ssh -N -L"
        for direction in DIRECTIONS
    }
    title = (
        f"Bulk at a round trip of {milliseconds}, {_FAR_SIZE // _MIB} MiB at a time"
        f" (medians of {_FAR_ROUNDS} rounds)"
    )
    try:
        with wire(ROUND_TRIP) as distance:
            distance.set_tcp_buffers(LARGE_BUFFERS)
            large = _measure_over(distance, _FAR_ROUNDS, scene, service, tell)
            distance.set_tcp_buffers(_USUAL_BUFFERS)
            usual = _measure_over(distance, _USUAL_ROUNDS, scene, service, tell)
    except NamespaceFailedError as error:
        goals = [Goal(text=text, measured="not measured", reached=False) for text in texts.values()]
        return Section(title=title, table=[("",)], remarks=[f"not measured: {error}"], goals=goals)
    rows = [("TCP buffers up to", *render_bulk(large)[0][1:])]
    for buffers, results in ((LARGE_BUFFERS, large), (_USUAL_BUFFERS, usual)):
        rows += [
            (f"{buffers // _MIB} MiB: {name}", *figures)
            for name, *figures in render_bulk(results)[1:]
        ]
    return Section(
        title=title,
        table=rows,
        remarks=[
            "(a TUN wire between network namespaces delays all packets, as netem does where the",
            f"kernel has it; {_USUAL_BUFFERS // _MIB} MiB are Linux's own, in one round; the goals"
            f" are for {LARGE_BUFFERS // _MIB} MiB)",
        ],
        goals=[
            _goal(text, large["daemon"], large["ssh -N -L"], direction, _LEAST_OF_SSH_FAR)
            for direction, text in texts.items()
        ],
    )


def _measure_over(
    distance: Wire,
    rounds: int,
    scene: Scene,
    service: Service,
    tell: Callable[[str], None],
) -> Mapping[str, Bulk]:
    """The ways over a wire, and TCP alone."""
    with far_ways(scene, service, distance) as ways:
        results = dict(_measure(ways, _FAR_SIZE, rounds, tell))
    with distance.near.entered():
        listener = socket.create_server((NEAR_ADDRESS, 0))
    with listener:
        threading.Thread(target=serve_connections, args=(listener,), daemon=True).start()
        alone = Bulk.nothing()
        for direction in DIRECTIONS:
            tell(f"{direction} over {ROUND_TRIP * 1000:.0f} ms: TCP alone")
            asked = Transfer(
                host=NEAR_ADDRESS,
                port=listener.getsockname()[1],
                path="/",
                size=_FAR_SIZE,
                upload=direction == "upload",
            )
            seconds = transfer.finish(transfer.start(asked, distance.far))
            alone.add(direction, _FAR_SIZE, seconds, 0.0)
        listener.shutdown(socket.SHUT_RDWR)
    return {**results, "TCP alone, no SSH": alone}


def _measure(
    ways: Sequence[Way], size: int, rounds: int, tell: Callable[[str], None]
) -> Mapping[str, Bulk]:
    """Both directions through every way in turn, then all of them again."""
    results = {way.title: Bulk.nothing() for way in ways}
    for number in range(rounds):
        for direction in DIRECTIONS:
            for way in ways:
                tell(f"{direction}, round {number + 1} of {rounds}: {way.title}")
                cpu = way.cpu_seconds()
                seconds = _transfer(way, direction, size)
                results[way.title].add(direction, size, seconds, way.cpu_seconds() - cpu)
                # What it leaves behind to be done is not the next one's.
                time.sleep(0.1)
    return results


def _transfer_all(ways: Sequence[Way], size: int) -> None:
    for way in ways:
        for direction in DIRECTIONS:
            _transfer(way, direction, size)


def _transfer(way: Way, direction: str, size: int) -> float:
    asked = Transfer(port=way.port, path=way.path, size=size, upload=direction == "upload")
    return transfer.finish(transfer.start(asked, way.namespace))


def _goal(text: str, ours: Bulk, theirs: Bulk, direction: str, least: float) -> Goal:
    times = median_ratio(ours.rates[direction], theirs.rates[direction])
    return Goal(text=text, measured=f"{times:.2f} x", reached=times >= least)
