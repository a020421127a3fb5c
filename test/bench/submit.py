"""How long a submit takes, and how many of a hundred at once fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from shlex import quote
from statistics import median
from typing import Final

from attrs import frozen

from test.bench.figures import (
    Goal,
    Sample,
    Section,
    Series,
    milliseconds,
    ratio,
    render_failures,
)
from test.bench.neighbours import Ask, AskFailedError, ControlMaster, FreshParamiko
from test.bench.scene import Scene, SceneError, job_text, submission

_ROUNDS: Final = 30
_AT_ONCE: Final = 100
_BURSTS: Final = 2
_MOST_RATIO: Final = 1.5

_TEXT: Final = job_text("sleep 1")


@frozen(kw_only=True)
class Submitter:
    """A way to submit a held job; `submit` gives its job id.

    `connect` makes a `submit` for one caller, so that each can have a connection of its own.
    """

    title: str
    connect: Callable[[], Callable[[], str]]


def submitters(scene: Scene, master: ControlMaster) -> Sequence[Submitter]:
    """The daemon first."""

    def daemon() -> Callable[[], str]:
        upstream = scene.upstream()

        def submit() -> str:
            args = submission(*scene.names.next("submit"), _TEXT, held=True)
            jobid, _ = upstream.post("/submit", args)
            return str(jobid)

        return submit

    def sbatch(ask: Ask) -> Callable[[], Callable[[], str]]:
        def submit() -> str:
            name, _ = scene.names.next("sbatch")
            said = ask(
                f"sbatch --parsable -H -J jarvice_{quote(name)} -o /dev/null -N 1 -n 1",
                b"#!/bin/sh\n" + _TEXT.encode(),
            )
            return said.decode().strip()

        return lambda: submit

    return (
        Submitter(title="daemon, POST /submit", connect=daemon),
        Submitter(title="OpenSSH ControlMaster, sbatch", connect=sbatch(master.ask)),
        Submitter(
            title="paramiko, as the predecessor",
            connect=sbatch(FreshParamiko(scene.login, look_up=True).ask),
        ),
        Submitter(
            title="paramiko, no key look-up",
            connect=sbatch(FreshParamiko(scene.login, look_up=False).ask),
        ),
    )


def measure_latency(scene: Scene, master: ControlMaster, tell: Callable[[str], None]) -> Section:
    """One submit at a time, each technique in turn."""
    tell(f"submits, {_ROUNDS} rounds of one after the other")
    ways = submitters(scene, master)
    connected = [way.connect() for way in ways]
    for submit in connected:
        submit()
    latencies: list[list[float]] = [[] for _ in ways]
    for _ in range(_ROUNDS):
        for submit, mine in zip(connected, latencies, strict=True):
            asked = time.perf_counter()
            submit()
            mine.append(time.perf_counter() - asked)
    _cancel_what_waits(scene)
    series = [Series([Sample(seconds=sum(mine), latencies=mine)]) for mine in latencies]
    warm = series[1].latency(50)
    times = series[0].latency(50) / warm
    rows = [("", "p50 ms", "p99 ms", "of ControlMaster's p50")]
    rows += [
        (
            way.title,
            f"{one.latency(50):.1f}",
            f"{one.latency(99):.1f}",
            ratio(one.latency(50), warm),
        )
        for way, one in zip(ways, series, strict=True)
    ]
    return Section(
        title=f"Submit, one at a time ({_ROUNDS} each, held jobs)",
        table=rows,
        goals=[
            Goal(
                text=f"submit: at most {_MOST_RATIO} x sbatch over a warm ControlMaster",
                measured=f"{times:.2f} x",
                reached=times <= _MOST_RATIO,
            )
        ],
    )


def measure_burst(scene: Scene, master: ControlMaster, tell: Callable[[str], None]) -> Section:
    """A hundred submits at the same moment, to an sshd with its own limits."""
    broken: list[str] = []
    ways = submitters(scene, master)[:3]
    samples: list[list[Sample]] = [[] for _ in ways]
    for number in range(_BURSTS):
        for way, mine in zip(ways, samples, strict=True):
            tell(f"{_AT_ONCE} submits at once, round {number + 1} of {_BURSTS}: {way.title}")
            sample, jobids = _at_once([way.connect() for _ in range(_AT_ONCE)])
            mine.append(sample)
            if way is ways[0]:
                broken += _wrong(scene, sample, jobids)
            _cancel_what_waits(scene)
    series = [Series(mine) for mine in samples]
    rows = [("", "submitted", "failed", "seconds", "p50 ms", "slowest ms")]
    rows += [
        (
            way.title,
            str(one.answers),
            str(one.failures.total()),
            f"{median(sample.seconds for sample in one.samples):.1f}",
            milliseconds(one, 50),
            milliseconds(one, 100),
        )
        for way, one in zip(ways, series, strict=True)
    ]
    return Section(
        title=f"{_AT_ONCE} submits at once, {_BURSTS} times (sshd's own MaxStartups, MaxSessions)",
        table=rows,
        remarks=[
            f"{way.title}: {render_failures(one.failures)}"
            for way, one in zip(ways, series, strict=True)
            if one.failures
        ],
        goals=[
            Goal(
                text=f"{_AT_ONCE} submits at once: none fails",
                measured=f"{series[0].failures.total()} failed",
                reached=not broken,
            )
        ],
        broken=broken,
    )


def _at_once(submits: Sequence[Callable[[], str]]) -> tuple[Sample, Sequence[str]]:
    gate = threading.Barrier(len(submits) + 1)
    lock = threading.Lock()
    latencies: list[float] = []
    failures: dict[str, int] = {}
    jobids: list[str] = []

    def call(submit: Callable[[], str]) -> None:
        gate.wait()
        asked = time.perf_counter()
        try:
            jobid = submit()
        except (AskFailedError, SceneError, OSError) as error:
            with lock:
                failures[str(error)] = failures.get(str(error), 0) + 1
        else:
            with lock:
                latencies.append(time.perf_counter() - asked)
                jobids.append(jobid)

    threads = [threading.Thread(target=call, args=(submit,)) for submit in submits]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    return Sample(seconds=seconds, latencies=latencies, failures=failures), jobids


def _wrong(scene: Scene, sample: Sample, jobids: Sequence[str]) -> list[str]:
    """What is wrong with a burst through the daemon: failures, lost or doubled jobs."""
    wrong = [f"submits at once: {render_failures(sample.failures)}"] if sample.failures else []
    waiting = scene.cluster.slurm(
        "squeue", "--noheader", "--states=PENDING", "-u", scene.login.user, "--format=%i"
    ).split()
    if sorted(waiting) != sorted(jobids):
        wrong.append(
            f"{len(jobids)} submits were answered, {len(set(jobids))} of them with a job id of "
            f"their own, and {len(waiting)} jobs wait"
        )
    return wrong


def _cancel_what_waits(scene: Scene) -> None:
    scene.cluster.slurm("scancel", "--state=PENDING", "-u", scene.login.user)
