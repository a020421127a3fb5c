"""What bulk transfers came to, as a table. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Final

from attrs import frozen

from test.bench.figures import median_ratio

DIRECTIONS: Final = ("download", "upload")


@frozen(kw_only=True)
class Bulk:
    """What a way gave in every round and direction: MB/s, and its CPU seconds for a GB."""

    rates: Mapping[str, list[float]]
    cpu: Mapping[str, list[float]]

    @classmethod
    def nothing(cls) -> Bulk:
        """Before the first round."""
        return cls(rates={way: [] for way in DIRECTIONS}, cpu={way: [] for way in DIRECTIONS})

    def add(self, direction: str, size: int, seconds: float, cpu: float) -> None:
        """A round of one direction."""
        self.rates[direction].append(size / seconds / 1e6)
        self.cpu[direction].append(cpu / size * 1e9)


def render_bulk(results: Mapping[str, Bulk]) -> list[tuple[str, ...]]:
    """The table's rows, its head first."""
    ours = results["daemon"]
    rows: list[tuple[str, ...]] = []
    rows.append(
        ("", "download MB/s", "daemon is", "upload MB/s", "daemon is", "CPU s/GB down", "up")
    )
    for title, theirs in results.items():
        row = [title]
        for direction in DIRECTIONS:
            row.append(f"{median(theirs.rates[direction]):.0f}")
            row.append("" if theirs is ours else _times(ours, theirs, direction))
        for direction in DIRECTIONS:
            cpu = median(theirs.cpu[direction])
            row.append(f"{cpu:.1f}" if cpu else "-")
        rows.append(tuple(row))
    return rows


def _times(ours: Bulk, theirs: Bulk, direction: str) -> str:
    if len(theirs.rates[direction]) != len(ours.rates[direction]):
        return f"{median(ours.rates[direction]) / median(theirs.rates[direction]):.2f} x"
    return f"{median_ratio(ours.rates[direction], theirs.rates[direction]):.2f} x"
