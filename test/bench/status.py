"""Status answers a second, and what they cost slurmctld."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from shlex import quote
from typing import Final

from attrs import evolve, frozen

from test.bench import load
from test.bench.figures import (
    Goal,
    NoFiguresError,
    Sample,
    Section,
    Series,
    count_questions,
    milliseconds,
    ratio,
    render_failures,
)
from test.bench.http_load import render_get
from test.bench.load import Load
from test.bench.neighbours import ControlMaster
from test.bench.scene import Scene

_CALLERS: Final = (1, 8, 64)
_ROUNDS: Final = 3

# The goals of issue 2, with 8 callers.
_LEAST_RATE: Final = 500.0
_MOST_P50_MS: Final = 10.0
_MOST_QUESTIONS: Final = 1.0

# Twice as long as the snapshot lets pass between two questions.
_QUIET_SECONDS: Final = 2.0
_MOST_SECONDS_UNTIL_QUIET: Final = 60.0


@frozen(kw_only=True)
class Technique:
    """A way to get status answers: what its row is called, and its load with one caller.

    `limit` bounds the questions of one run, given the callers: what is slow must end soon.
    """

    title: str
    load: Load
    limit: Callable[[int], int] = lambda callers: 10**9

    @property
    def is_ours(self) -> bool:
        """Whether it is the daemon that is asked."""
        return self.load.technique == "http"

    def with_callers(self, callers: int, seconds: float | None = None) -> Load:
        """Its load by so many callers."""
        return evolve(
            self.load,
            callers=callers,
            seconds=self.load.seconds if seconds is None else seconds,
            most=self.limit(callers),
        )


def runstatus(scene: Scene, port: int | None = None) -> Technique:
    """POST /runstatus of the running jobs, in turn."""
    return Technique(
        title="daemon, POST /runstatus",
        load=Load(
            technique="http",
            callers=1,
            seconds=1.5,
            port=port or scene.port,
            requests=tuple(job.request for job in scene.jobs),
            expected='[["n',
        ),
    )


def running(scene: Scene) -> Technique:
    """GET /running."""
    return Technique(
        title="daemon, GET /running",
        load=Load(
            technique="http",
            callers=1,
            seconds=1.5,
            port=scene.port,
            requests=(render_get("/running"),),
            expected=scene.jobs[-1].name,
        ),
    )


def neighbours(scene: Scene, control_socket: str) -> Sequence[Technique]:
    """One squeue a question; the job's own line is asked for, as the predecessor does."""
    job = scene.jobs[0]
    base = Load(
        technique="",
        callers=1,
        seconds=1.0,
        login=scene.login,
        control_socket=control_socket,
        command=(
            f"squeue --noheader -o '%t|%M|%N' -j {quote(job.jobid)} -t all"
            f" -u {quote(scene.login.user)}"
        ),
        expected="R|",
    )
    return (
        Technique(
            title="paramiko, as the predecessor",
            load=evolve(base, technique="predecessor"),
            limit=lambda callers: max(24, callers),
        ),
        Technique(
            title="paramiko, no key look-up",
            load=evolve(base, technique="paramiko"),
            limit=lambda callers: max(24, callers),
        ),
        Technique(
            title="OpenSSH ControlMaster",
            load=evolve(base, technique="controlmaster"),
            limit=lambda callers: max(150, callers),
        ),
    )


def measure_rates(scene: Scene, master: ControlMaster, tell: Callable[[str], None]) -> Section:
    """Answers a second, interleaved: every technique once, then all of them again."""
    techniques = (runstatus(scene), running(scene), *neighbours(scene, str(master.socket)))
    samples: dict[tuple[str, int], list[Sample]] = {}
    for number in range(_ROUNDS):
        for callers in _CALLERS:
            tell(f"status answers, round {number + 1} of {_ROUNDS}, {callers} callers")
            for technique in techniques:
                sample = load.run(technique.with_callers(callers))
                samples.setdefault((technique.title, callers), []).append(sample)
    series = {key: Series(value) for key, value in samples.items()}
    head = ("", "callers", "answers/s", "p50 ms", "p99 ms", "failed", "runstatus is")
    rows = [head]
    for callers in _CALLERS:
        ours = series[techniques[0].title, callers]
        for technique in techniques:
            theirs = series[technique.title, callers]
            rows.append(
                (
                    technique.title,
                    str(callers),
                    f"{theirs.rate:.0f}" if theirs.rate >= 100 else f"{theirs.rate:.1f}",
                    milliseconds(theirs, 50),
                    milliseconds(theirs, 99),
                    str(theirs.failures.total()),
                    "" if technique.is_ours else f"{ratio(ours.rate, theirs.rate)} as many",
                )
            )
    slowest = min((series[t.title, 8] for t in techniques[:2]), key=lambda one: one.rate)
    slowest_p50 = max(series[t.title, 8].latency(50) for t in techniques[:2])
    return Section(
        title=f"Status answers of {len(scene.jobs)} running jobs (medians of {_ROUNDS} runs)",
        table=rows,
        remarks=[
            f"{title} with {callers} callers failed: {render_failures(one.failures)}"
            for (title, callers), one in series.items()
            if one.failures
        ],
        goals=[
            Goal(
                text=f"status answers a second, 8 callers: at least {_LEAST_RATE:.0f}",
                measured=f"{slowest.rate:.0f}",
                reached=slowest.rate >= _LEAST_RATE,
            ),
            Goal(
                text=f"their p50: under {_MOST_P50_MS:.0f} ms",
                measured=f"{slowest_p50:.1f} ms",
                reached=slowest_p50 < _MOST_P50_MS,
            ),
        ],
        broken=[
            f"{technique.title} with {callers} callers: {render_failures(one.failures)}"
            for technique in techniques[:2]
            for callers in _CALLERS
            if (one := series[technique.title, callers]).failures
        ],
    )


def _wait_until_quiet(scene: Scene) -> None:
    # What the technique before has asked may still be on its way: up to a question a caller.
    deadline = time.monotonic() + _MOST_SECONDS_UNTIL_QUIET
    count = count_questions(scene.sdiag())
    while time.monotonic() < deadline:
        time.sleep(_QUIET_SECONDS)
        before, count = count, count_questions(scene.sdiag())
        if count == before:
            return
    raise NoFiguresError("slurmctld is asked questions about jobs by somebody else")


def measure_questions(scene: Scene, master: ControlMaster, tell: Callable[[str], None]) -> Section:
    """What the techniques ask of slurmctld while they answer, counted by slurmctld itself."""
    theirs = neighbours(scene, str(master.socket))
    plan = [
        (runstatus(scene), 64, 8.0),
        (theirs[0], 8, 2.0),
        (theirs[2], 8, 2.0),
    ]
    asked = {technique.title: [0, 0.0, 0.0] for technique, _, _ in plan}
    broken: list[str] = []
    for number in range(2):
        for technique, callers, seconds in plan:
            tell(f"slurmctld's own count, round {number + 1} of 2: {technique.title}")
            _wait_until_quiet(scene)
            # The load is on before the first count and after the last.
            one = evolve(technique, limit=lambda callers: 10**9)
            running_load = load.RunningLoad(one.with_callers(callers, seconds + 1.0))
            time.sleep(0.5)
            began, before = time.monotonic(), count_questions(scene.sdiag())
            time.sleep(seconds)
            after, ended = count_questions(scene.sdiag()), time.monotonic()
            sample = running_load.sample()
            total = asked[technique.title]
            total[0] += after - before
            total[1] += ended - began
            total[2] += sample.rate * (ended - began)
            if technique.is_ours and sample.failures:
                broken.append(f"{technique.title}: {render_failures(sample.failures)}")
    rows = [("", "callers", "seconds", "questions", "questions/s", "answers a question")]
    for technique, callers, _ in plan:
        questions, seconds, answers = asked[technique.title]
        rows.append(
            (
                technique.title,
                str(callers),
                f"{seconds:.1f}",
                f"{questions:.0f}",
                f"{questions / seconds:.2f}",
                f"{answers / max(1, questions):.1f}",
            )
        )
    questions, seconds, _ = asked[plan[0][0].title]
    return Section(
        title="Questions about jobs that slurmctld was asked meanwhile (sdiag)",
        table=rows,
        goals=[
            Goal(
                text=f"slurmctld questions a second, 64 callers: at most {_MOST_QUESTIONS:.0f}",
                measured=f"{questions / seconds:.2f}",
                reached=questions / seconds <= _MOST_QUESTIONS,
            )
        ],
        broken=broken,
    )
