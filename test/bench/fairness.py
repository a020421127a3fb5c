"""How long commands take while somebody downloads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from test.bench import load, transfer
from test.bench.figures import Goal, Sample, Section, Series, milliseconds, render_failures
from test.bench.http_load import render_post
from test.bench.load import Load
from test.bench.scene import Scene, render_form
from test.bench.transfer import Transfer
from test.bench.ways import Service, Way, near_ways

_ROUNDS: Final = 3
_SECONDS: Final = 3.0
_MOST_TIMES: Final = 3.0

# More than can be had while anybody measures.
_ENDLESS: Final = 10**13


def measure(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """A question that the snapshot answers and one that is a command, without and with a bulk."""
    with near_ways(scene, service) as ways:
        ours, ssh = ways[:2]
        commands = {"POST /runstatus": _runstatus(scene, ours), "pvcls": _pvcls(ours)}
        bulks: dict[str, Way | None] = {
            "nothing": None,
            "a download through the daemon": ours,
            "a download through ssh -N -L": ssh,
        }
        samples: dict[tuple[str, str], list[Sample]] = {}
        for number in range(_ROUNDS):
            for bulk, way in bulks.items():
                tell(f"commands' latency, round {number + 1} of {_ROUNDS}, meanwhile {bulk}")
                for command, asked in commands.items():
                    with _downloading(way):
                        samples.setdefault((command, bulk), []).append(load.run(asked))
    series = {key: Series(runs) for key, runs in samples.items()}
    rows = [("", "meanwhile", "p50 ms", "p99 ms", "p99 is")]
    goals = []
    for command in commands:
        alone = series[command, "nothing"].latency(99)
        for bulk in bulks:
            one = series[command, bulk]
            times = one.latency(99) / alone
            rows.append(
                (
                    command,
                    bulk,
                    milliseconds(one, 50),
                    milliseconds(one, 99),
                    f"{times:.2f} x" if bulk != "nothing" else "",
                )
            )
        times = series[command, "a download through the daemon"].latency(99) / alone
        goals.append(
            Goal(
                text=f"{command}, p99 during a download: at most {_MOST_TIMES:.0f} x without",
                measured=f"{times:.2f} x",
                reached=times <= _MOST_TIMES,
            )
        )
    return Section(
        title=f"Commands during a bulk transfer, one caller (medians of {_ROUNDS} runs)",
        table=rows,
        remarks=[
            "(what a download through ssh -N -L costs is the machine's share: cores are shared)",
        ],
        goals=goals,
        broken=[
            f"{command} during {bulk}: {render_failures(one.failures)}"
            for (command, bulk), one in series.items()
            if one.failures
        ],
    )


@contextlib.contextmanager
def _downloading(way: Way | None) -> Iterator[None]:
    """Somebody downloads without end; nobody where there is no way."""
    if way is None:
        yield
        return
    process = transfer.start(Transfer(port=way.port, path=way.path, size=_ENDLESS))
    try:
        yield
        if process.poll() is not None:
            transfer.finish(process)
    finally:
        process.kill()
        process.communicate()


def _runstatus(scene: Scene, way: Way) -> Load:
    return Load(
        technique="http",
        callers=1,
        seconds=_SECONDS,
        port=way.port,
        requests=tuple(job.request for job in scene.jobs),
        expected='[["n',
    )


def _pvcls(way: Way) -> Load:
    return Load(
        technique="http",
        callers=1,
        seconds=_SECONDS,
        port=way.port,
        requests=(render_post("/request/pvcls", render_form({"qs": {"path": ["/usr"]}})),),
        expected="/data/usr/bin",
    )
