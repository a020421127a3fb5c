"""What a reader and a job that stall cost the daemon in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from test.bench import transfer
from test.bench.figures import Goal, Section
from test.bench.scene import Scene
from test.bench.transfer import Transfer
from test.bench.ways import Service, Way, daemon_way

_MIB: Final = 1024 * 1024
_SIZE: Final = 1024 * _MIB
_PAUSE: Final = 3.0
_MOST_MIB: Final = 32.0
# Seconds between two looks at the memory.
_TICK: Final = 0.02


def measure(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """A download whose reader stalls, and an upload whose job does; both then end well."""
    rows = [("", "memory before, MiB", "at most, MiB", "cost MiB", "seconds")]
    goals = []
    for upload, title in (
        (False, "a response of 1 GiB whose reader stalls"),
        (True, "an upload of 1 GiB whose job stalls"),
    ):
        tell(title)
        with daemon_way(scene, service) as way:
            for direction in (False, True):
                warm = Transfer(port=way.port, path=way.path, size=64 * _MIB, upload=direction)
                transfer.finish(transfer.start(warm))
            time.sleep(0.5)
            before = way.memory()
            asked = Transfer(port=way.port, path=way.path, size=_SIZE, upload=upload, pause=_PAUSE)
            most, seconds = _watch(way, asked)
        cost = (most - before) / _MIB
        rows.append(
            (
                title,
                f"{before / _MIB:.1f}",
                f"{most / _MIB:.1f}",
                f"{cost:.1f}",
                f"{seconds:.1f}",
            )
        )
        goals.append(
            Goal(
                text=f"{title}: under {_MOST_MIB:.0f} MiB",
                measured=f"{cost:.1f} MiB",
                reached=cost < _MOST_MIB,
            )
        )
    return Section(
        title=f"Stalled for {_PAUSE:.0f} s after 64 MiB, then read to the end",
        table=rows,
        remarks=["(the daemon's resident memory, looked at every 20 ms)"],
        goals=goals,
    )


def _watch(way: Way, asked: Transfer) -> tuple[int, float]:
    """The most memory during a transfer, in bytes, and its seconds."""
    process = transfer.start(asked)
    most = 0
    while process.poll() is None:
        most = max(most, way.memory())
        time.sleep(_TICK)
    return most, transfer.finish(process)
