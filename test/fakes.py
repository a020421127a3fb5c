"""Fakes that tests stand on: a login node that says what it is told, and a cluster in memory.

`FakeScheduler` passes the same contract as the real one (contract_scheduler.py); it prepares jobs
with the real preparer, so that what is refused before Slurm is asked is refused here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, frozen
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from jarvice_slurmd.errors import (
    InvalidArgumentsError,
    JobStillRunningError,
    NoOutputError,
    NotListableError,
    SlurmRefusedError,
    UnknownJobError,
)
from jarvice_slurmd.interfaces import CommandResult, IRemoteShell, IScheduler
from jarvice_slurmd.jobs.model import (
    ExitReport,
    JobRef,
    JobSummary,
    RunStatus,
    Submission,
    Submitted,
)
from jarvice_slurmd.jobs.prepare import JobPreparer
from jarvice_slurmd.settings import Settings
from jarvice_slurmd.slurm.states import JobState, Phase, parse_state

SETTINGS = Settings(
    ssh_host="login.example.org", ssh_port=22, ssh_user="jarvice", ssh_pkey="a private key"
)

#: What a command comes to: a result, stdout of a success, an error, or what is still to come.
Outcome = CommandResult | bytes | Exception | Deferred[CommandResult]


@frozen
class Command:
    """What a shell was asked to run."""

    script: str
    stdin: bytes
    timeout: float | None
    max_output: int | None


@implementer(IRemoteShell)
class ScriptedShell:
    """Answers scripts by a word that is in them; the rule added last is tried first."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._rules: list[tuple[str, Outcome | Callable[[], Outcome]]] = []

    def answer(self, word: str, outcome: Outcome | Callable[[], Outcome]) -> None:
        """Have scripts that hold this word come to that; a callable is asked each time."""
        self._rules.insert(0, (word, outcome))

    def refuse(self, word: str, status: int, stderr: bytes = b"") -> None:
        """Have scripts that hold this word end with a status."""
        self.answer(word, CommandResult(status=status, stdout=b"", stderr=stderr))

    def asked(self, word: str) -> list[Command]:
        """The commands so far that held this word."""
        return [command for command in self.commands if word in command.script]

    def run(
        self,
        script: str,
        stdin: bytes = b"",
        *,
        timeout: float | None = None,
        max_output: int | None = None,
    ) -> Deferred[CommandResult]:
        """See `IRemoteShell.run`."""
        self.commands.append(Command(script, stdin, timeout, max_output))
        for word, rule in self._rules:
            if word in script:
                outcome = rule() if callable(rule) else rule
                if isinstance(outcome, Deferred):
                    return outcome
                if isinstance(outcome, Exception):
                    return fail(outcome)
                if isinstance(outcome, bytes):
                    outcome = CommandResult(status=0, stdout=outcome, stderr=b"")
                return succeed(outcome)
        return fail(AssertionError(f"nobody said what this comes to:\n{script}"))


@define
class _FakeJob:
    """A job of the cluster in memory."""

    name: str
    number: int
    script: str
    state: JobState
    nodes: tuple[str, ...] = ()
    elapsed: int = 0
    output: bytes | None = None


@implementer(IScheduler)
class FakeScheduler:
    """A cluster in memory; time passes only when a test says so.

    `folders` maps absolute paths to what is in them, folders with a slash behind. `error`, while
    it is set, is what every question comes to; `hold`, while it is set, is what they wait for.
    """

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.jobs: dict[str, _FakeJob] = {}
        self.folders: dict[str, list[str]] = {"/": ["tmp/"], "/tmp": ["a/", "b"]}
        self.error: Exception | None = None
        self.hold: Deferred[None] | None = None
        self.calls: list[tuple[object, ...]] = []
        self._preparer = JobPreparer(settings)
        self._by_name: dict[str, str] = {}

    def start(self, jobid: str, *nodes: str, elapsed: int = 0) -> None:
        """Let a waiting job run."""
        job = self.jobs[jobid]
        job.state, job.nodes, job.elapsed = parse_state("RUNNING"), nodes, elapsed

    def end(self, jobid: str, state: str, *, elapsed: int = 1, output: bytes | None = None) -> None:
        """Let a job end in one of Slurm's states."""
        job = self.jobs[jobid]
        job.state, job.elapsed, job.output = parse_state(state), elapsed, output

    async def submit(self, submission: Submission) -> Submitted:
        """See `IScheduler.submit`."""
        await self._asked("submit", submission)
        prepared = self._preparer.prepare(submission)
        known = self._by_name.get(submission.name)
        if known is not None:
            if self.jobs[known].number != submission.number:
                raise InvalidArgumentsError("a job of this name was submitted before")
            return Submitted(jobid=known, script=prepared.shown_script)
        jobid = str(len(self.jobs) + 1)
        self._by_name[submission.name] = jobid
        self.jobs[jobid] = _FakeJob(
            name=submission.name,
            number=submission.number,
            script=prepared.shown_script,
            state=parse_state("PENDING"),
        )
        return Submitted(jobid=jobid, script=prepared.shown_script)

    async def running(self) -> Sequence[JobSummary]:
        """See `IScheduler.running`."""
        await self._asked("running")
        return self._summaries(Phase.RUNNING)

    async def queued(self) -> Sequence[JobSummary]:
        """See `IScheduler.queued`."""
        await self._asked("queued")
        return self._summaries(Phase.QUEUED)

    async def run_status(self, ref: JobRef) -> RunStatus | None:
        """See `IScheduler.run_status`."""
        await self._asked("run_status", ref)
        job = self._find(ref)
        return None if job is None else RunStatus(nodes=job.nodes, elapsed=job.elapsed)

    async def exit_status(self, ref: JobRef) -> ExitReport | None:
        """See `IScheduler.exit_status`."""
        await self._asked("exit_status", ref)
        job = self._find(ref)
        if job is None:
            return None
        if job.state.phase is not Phase.ENDED:
            raise JobStillRunningError(f"job {ref.jobid} has not ended: it is {job.state.name}")
        return ExitReport(state=job.state, elapsed=job.elapsed, output=job.output or b"")

    async def terminate(self, ref: JobRef, *, force: bool) -> None:
        """See `IScheduler.terminate`."""
        await self._asked("terminate", ref, force)
        job = self._find(ref)
        if job is not None and job.state.phase is not Phase.ENDED:
            job.state = parse_state("CANCELLED")

    async def release(self, ref: JobRef) -> None:
        """See `IScheduler.release`."""
        await self._asked("release", ref)
        if self._find_surely(ref).state.phase is not Phase.QUEUED:
            raise SlurmRefusedError("Slurm refused: Job is no longer pending execution")

    async def events(self, ref: JobRef) -> str:
        """See `IScheduler.events`."""
        await self._asked("events", ref)
        state = self._find_surely(ref).state.name
        return f"JobId={ref.jobid} JobName=jarvice_{ref.name}\n   JobState={state}\n"

    async def tail(self, ref: JobRef, lines: int) -> bytes:
        """See `IScheduler.tail`."""
        await self._asked("tail", ref, lines)
        job = self._find(ref)
        if job is None or not job.output:
            raise NoOutputError(f"job {ref.name} has not written any output")
        return b"".join(job.output.splitlines(keepends=True)[-lines:])

    async def list_folder(self, path: str, *, details: bool) -> bytes:
        """See `IScheduler.list_folder`."""
        await self._asked("list_folder", path, details)
        names = self.folders.get(path.rstrip("/") or "/")
        if names is None:
            raise NotListableError(f"can't cd to {path}")
        before = "1700000000 5 " if details else ""
        lines = [f"{before}/data{path.rstrip('/')}/{name}\n" for name in names]
        return "".join(sorted(lines, key=lambda line: not line.endswith("/\n"))).encode()

    async def check(self) -> None:
        """See `IScheduler.check`."""
        await self._asked("check")

    async def collect_garbage(self) -> bool:
        """See `IScheduler.collect_garbage`."""
        await self._asked("collect_garbage")
        return False

    async def _asked(self, *call: object) -> None:
        self.calls.append(call)
        if self.hold is not None:
            await self.hold
        if self.error is not None:
            raise self.error

    def _summaries(self, phase: Phase) -> list[JobSummary]:
        return [
            JobSummary(name=job.name, jobid=jobid)
            for jobid, job in self.jobs.items()
            if job.state.phase is phase
        ]

    def _find(self, ref: JobRef) -> _FakeJob | None:
        job = self.jobs.get(ref.jobid)
        return job if job is not None and job.name == ref.name else None

    def _find_surely(self, ref: JobRef) -> _FakeJob:
        job = self._find(ref)
        if job is None:
            raise UnknownJobError(f"Slurm knows no job {ref.jobid} named {ref.name}")
        return job
