"""Questions asked while somebody moves much: how they are taken in turns, and their table."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from test.bench.endless import ENDLESS, moving
from test.bench.figures import Sample, Series, percentile, render_failures
from test.bench.transfer import Transfer

if TYPE_CHECKING:
    from test.bench.ways import Way

#: What is moved while nothing is.
NOTHING: Final = "nothing"


@frozen(kw_only=True)
class Question:
    """What is measured; if it has a `way`, only while that way moves something, or nothing does."""

    title: str
    ask: Callable[[], Sample]
    way: Way | None = None


@frozen(kw_only=True)
class Move:
    """What somebody moves meanwhile."""

    title: str
    way: Way
    upload: bool = False


@frozen
class Meanwhile:
    """What came out, by question and by what was moved; `rates` are the moves' own, in MB/s."""

    samples: dict[tuple[str, str], list[Sample]] = field(factory=lambda: defaultdict(list))
    rates: dict[tuple[str, str], list[float]] = field(factory=lambda: defaultdict(list))

    def times(self, question: str, moved: str) -> float:
        """How many times as long its p99 is as with nothing moved."""
        return self.latency(question, moved, 99) / self.latency(question, NOTHING, 99)

    def latency(self, question: str, moved: str, percent: float) -> float:
        """A percentile in milliseconds, of all rounds' latencies together; infinite without any.

        A round holds too few of what is slow for a p99 of its own.
        """
        rounds = self.samples[question, moved]
        latencies = [latency for sample in rounds for latency in sample.latencies]
        return percentile(latencies, percent) * 1000 if latencies else inf

    def render(self) -> list[tuple[str, ...]]:
        """The table, its head first, question by question."""
        rows: list[tuple[str, ...]] = [("", "meanwhile", "MB/s", "p50 ms", "p99 ms", "p99 is")]
        order = list(dict.fromkeys(question for question, _ in self.samples))
        for question, moved in sorted(self.samples, key=lambda key: order.index(key[0])):
            rates = self.rates.get((question, moved))
            rows.append(
                (
                    question,
                    moved,
                    f"{median(rates):.0f}" if rates else "",
                    *(f"{self.latency(question, moved, percent):.2f}" for percent in (50, 99)),
                    f"{self.times(question, moved):.2f} x" if moved != NOTHING else "",
                )
            )
        return rows

    def broken(self) -> list[str]:
        """What was not answered, or wrongly."""
        return [
            f"{question}, meanwhile {moved}: {render_failures(failures)}"
            for (question, moved), samples in self.samples.items()
            if (failures := Series(samples).failures)
        ]


def measure(
    questions: Sequence[Question],
    moves: Sequence[Move],
    *,
    rounds: int,
    ramp: float,
    tell: Callable[[str], None],
) -> Meanwhile:
    """Ask every question beside nothing and beside every move, then all of them again.

    A move gets `ramp` seconds to come to its speed.
    """
    found = Meanwhile()
    for number in range(rounds):
        for move in (None, *moves):
            moved = NOTHING if move is None else move.title
            tell(f"commands and keystrokes, round {number + 1} of {rounds}, meanwhile {moved}")
            _ask_all(questions, move, moved, ramp, found)
    return found


def _ask_all(
    questions: Sequence[Question], move: Move | None, moved: str, ramp: float, found: Meanwhile
) -> None:
    with ExitStack() as stack:
        bulk = None
        if move is not None:
            way = move.way
            asked = Transfer(port=way.port, path=way.path, size=ENDLESS, upload=move.upload)
            bulk = stack.enter_context(moving(asked, way.namespace))
            time.sleep(ramp)
        for question in questions:
            if move is not None and question.way not in (None, move.way):
                continue
            key = question.title, moved
            began, before = time.monotonic(), bulk.moved() if bulk else 0
            found.samples[key].append(question.ask())
            if bulk is not None:
                seconds = time.monotonic() - began
                found.rates[key].append((bulk.moved() - before) / seconds / 1e6)
