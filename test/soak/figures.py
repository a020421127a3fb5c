"""What a soak has seen, and the table that it prints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from attrs import define, field


@define
class Endpoint:
    """What one endpoint was asked and answered: status codes, and seconds."""

    codes: Counter[int] = field(factory=Counter)
    seconds: list[float] = field(factory=list)
    lost: int = 0


@define
class Process:
    """A daemon's size over time: bytes of resident memory, and open file descriptors."""

    name: str
    rss: list[int] = field(factory=list)
    fds: list[int] = field(factory=list)

    def quarters(self, samples: Sequence[int]) -> tuple[int, int]:
        """The median of the second quarter of the samples, when all is warm, and of the last."""
        size = max(1, len(samples) // 4)
        return int(median(samples[size : 2 * size] or samples)), int(median(samples[-size:]))


@define
class Figures:
    """All of it; `wrong` holds a sentence for each thing that should not have been."""

    injected: Counter[str] = field(factory=Counter)
    endpoints: dict[str, Endpoint] = field(factory=lambda: defaultdict(Endpoint))
    jobs: Counter[str] = field(factory=Counter)
    processes: list[Process] = field(factory=list)
    wrong: list[str] = field(factory=list)
    seconds: float = 0.0

    def answered(self, endpoint: str, code: int, seconds: float) -> None:
        """An endpoint has answered."""
        self.endpoints[endpoint].codes[code] += 1
        self.endpoints[endpoint].seconds.append(seconds)

    def is_wrong(self, sentence: str) -> None:
        """Something that should not have been."""
        self.wrong.append(sentence)


def percentile(seconds: Sequence[float], share: float) -> float:
    """The value below which so large a share of the values lies, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


def render_figures(figures: Figures) -> Iterator[str]:
    """The table: what was injected, how often, what was asked, what was wrong."""
    yield f"Soak of {figures.seconds:.0f} s"
    yield ""
    yield f"{'injected':<44}{'times':>8}"
    for what, times in figures.injected.most_common():
        yield f"{what:<44}{times:>8}"
    yield ""
    columns = ("asked", "times", "right", "told", "no answer", "p50 ms", "p99 ms", "max ms")
    yield f"{columns[0]:<14}" + "".join(f"{column:>11}" for column in columns[1:])
    for name, endpoint in sorted(figures.endpoints.items()):
        right = sum(n for code, n in endpoint.codes.items() if code in (200, 404, 409))
        times = sum(endpoint.codes.values())
        slow = [
            f"{percentile(endpoint.seconds, share):>11.1f}" if endpoint.seconds else f"{'-':>11}"
            for share in (0.5, 0.99, 1.0)
        ]
        yield f"{name:<14}{times:>11}{right:>11}{times - right:>11}{endpoint.lost:>11}" + "".join(
            slow
        )
    yield ""
    yield f"{'jobs':<44}{'times':>8}"
    for what, times in figures.jobs.most_common():
        yield f"{what:<44}{times:>8}"
    yield ""
    yield f"{'daemon':<14}{'RSS MiB':>14}{'later':>10}{'most':>10}{'fds':>8}{'later':>8}{'most':>8}"
    for process in figures.processes:
        rss, fds = process.quarters(process.rss), process.quarters(process.fds)
        yield (
            f"{process.name:<14}{rss[0] / 2**20:>14.1f}{rss[1] / 2**20:>10.1f}"
            f"{max(process.rss) / 2**20:>10.1f}{fds[0]:>8}{fds[1]:>8}{max(process.fds):>8}"
        )
    yield ""
    yield f"wrong: {len(figures.wrong)}"
    for sentence, times in Counter(figures.wrong).most_common(40):
        yield f"  {times} x {sentence}"
