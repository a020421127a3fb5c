"""The bench's arithmetic and its tables. Pure: no clock, no I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, inf
from statistics import median
from typing import Final

from attrs import field, frozen

# Questions about jobs; squeue with one user asks REQUEST_JOB_USER_INFO, with one job …_SINGLE.
_QUESTIONS: Final = re.compile(
    r"\bREQUEST_JOB_(?:INFO|USER_INFO)\w*\s*\(\s*\d+\) count:(\d+)", re.ASCII
)


class NoFiguresError(Exception):
    """A figure was asked of measurements that were never made."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that `percent` of them do not exceed (nearest rank)."""
    if not values:
        raise NoFiguresError("no value was measured")
    rank = max(1, ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]


def ratio(ours: float, theirs: float) -> str:
    """How many times theirs ours is, as a table shows it."""
    if theirs == 0:
        return "-"
    times = ours / theirs
    return f"{times:.0f} x" if times >= 10 else f"{times:.2f} x"


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times theirs ours is: the median of the rounds, each compared with its own."""
    if not ours:
        raise NoFiguresError("no round was made")
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def count_questions(sdiag: str) -> int:
    """How often slurmctld has been asked about jobs, as `sdiag` counts it."""
    return sum(int(count) for count in _QUESTIONS.findall(sdiag))


@frozen(kw_only=True)
class Sample:
    """What one run of one technique gave.

    `seconds` runs from the first question to the last answer, `latencies` are those of right
    answers, in seconds, and `failures` counts everything else by its reason.
    """

    seconds: float
    latencies: Sequence[float]
    failures: Mapping[str, int] = field(factory=dict)

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return len(self.latencies) / self.seconds

    def latency(self, percent: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        return percentile(self.latencies, percent) * 1000


@frozen
class Series:
    """Runs of the same measurement, made at different times of the bench; medians of them."""

    samples: Sequence[Sample]

    @property
    def rate(self) -> float:
        """Right answers a second: the median of the runs."""
        return median(sample.rate for sample in self._samples())

    @property
    def answers(self) -> int:
        """All right answers."""
        return sum(len(sample.latencies) for sample in self.samples)

    @property
    def failures(self) -> Counter[str]:
        """All failures by reason."""
        total: Counter[str] = Counter()
        for sample in self.samples:
            total.update(sample.failures)
        return total

    def latency(self, percent: float) -> float:
        """The median over the runs of a percentile of the latencies, in milliseconds.

        Infinite when no run had an answer.
        """
        answered = [sample for sample in self._samples() if sample.latencies]
        return median(sample.latency(percent) for sample in answered) if answered else inf

    def _samples(self) -> Sequence[Sample]:
        if not self.samples:
            raise NoFiguresError("no run was made")
        return self.samples


@frozen(kw_only=True)
class Goal:
    """One goal of the issues: what was asked, what came out, whether that is reached."""

    text: str
    measured: str
    reached: bool


@frozen(kw_only=True)
class Section:
    """One part of the report: a title, a table whose first row is its head, goals.

    `remarks` are lines below the table; `broken` says what went wrong, as opposed to slow.
    """

    title: str
    table: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()
    goals: Sequence[Goal] = ()
    broken: Sequence[str] = ()


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "".join(f"  {line.rstrip()}\n" for line in lines)


def render_report(
    facts: Iterable[str], sections: Sequence[Section], broken: Sequence[str] = ()
) -> str:
    """The whole report; `broken` is what went wrong, in the sections or around them."""
    parts = ["".join(f"{fact}\n" for fact in facts)]
    for number, section in enumerate(sections, 1):
        remarks = "".join(f"  {remark}\n" for remark in section.remarks)
        parts.append(f"{number}. {section.title}\n\n{render_table(section.table)}{remarks}")
    goals = [goal for section in sections for goal in section.goals]
    if goals:
        rows = [("goal", "measured", "")]
        rows += [(g.text, g.measured, "reached" if g.reached else "MISSED") for g in goals]
        parts.append(f"Goals\n\n{render_table(rows)}")
    parts.append("".join(f"FAILED: {line}\n" for line in broken) or "Nothing failed.\n")
    return "\n".join(parts)


def milliseconds(series: Series, percent: float) -> str:
    """A percentile of the latencies, in milliseconds, as a table shows it; `-` for none."""
    return f"{series.latency(percent):.1f}" if series.answers else "-"


def render_failures(failures: Mapping[str, int]) -> str:
    """Failures by reason, the most frequent first, in one line."""
    ranked = sorted(failures.items(), key=lambda item: -item[1])
    return "; ".join(f"{count} x {reason}" for reason, count in ranked)
