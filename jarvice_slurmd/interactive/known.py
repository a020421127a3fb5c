"""What a process remembers of interactive jobs; nothing that another one would need."""

from __future__ import annotations

from typing import TypeVar

from attrs import define, field

from jarvice_slurmd.interactive.interfaces import Service
from jarvice_slurmd.interactive.probe import PROBE_SECONDS
from jarvice_slurmd.shared import Shared
from jarvice_slurmd.slurm.interactive import InteractiveRecord

#: How many jobs, and how many unknown numbers, are remembered.
MAX_KNOWN = 10_000

V = TypeVar("V")


@define(kw_only=True, eq=False)
class KnownJob:
    """What this process remembers of an interactive job; times are the clock's.

    `hostlist` is Slurm's, of the nodes on which it runs. `read_at` is when the record was read,
    `confirmed_at` when Slurm last said that the job runs, `tried_at` when its service was last
    asked; `patience` is how many seconds it has for its first answer.
    """

    record: InteractiveRecord
    read_at: float
    hostlist: str = ""
    reaching: Shared[None] = field(init=False)
    looking: Shared[None] = field(init=False)
    service: Service | None = None
    confirmed_at: float | None = None
    tried_at: float | None = None
    patience: float = PROBE_SECONDS
    trouble: str = ""
    announced: bool = False


def remember(known: dict[int, V], number: int, value: V) -> None:
    """Add what is remembered of a number; the oldest make room."""
    while len(known) >= MAX_KNOWN:
        del known[next(iter(known))]
    known[number] = value
