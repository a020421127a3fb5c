"""The use cases: submit, status, exit, terminate. Orders commands; owns no I/O and no state.

Whatever it answers comes from Slurm's queue, from accounting, or from what the job left in its
folder; between two requests it remembers nothing that another replica would need.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from secrets import token_hex

from twisted.internet.defer import CancelledError
from zope.interface import implementer

from jarvice_slurmd.doubt import is_known_all_the_same
from jarvice_slurmd.errors import (
    InvalidArgumentsError,
    JarviceSlurmdError,
    JobStillRunningError,
    NoOutputError,
    NotListableError,
    SlurmRefusedError,
    SlurmUnavailableError,
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
from jarvice_slurmd.shared import Shared
from jarvice_slurmd.slurm import commands
from jarvice_slurmd.slurm.commands import Status
from jarvice_slurmd.slurm.failures import failure
from jarvice_slurmd.slurm.garbage import MORE, render_collect_garbage
from jarvice_slurmd.slurm.hostlist import parse_hostlist
from jarvice_slurmd.slurm.interactive import render_interactive
from jarvice_slurmd.slurm.listing import render_list_folder
from jarvice_slurmd.slurm.output import (
    CUT_OFF,
    QueueEntry,
    first_words,
    parse_post_mortem,
    parse_submitted,
)
from jarvice_slurmd.slurm.states import Phase
from jarvice_slurmd.slurm.submission import render_forget_submission, render_submit
from jarvice_slurmd.slurm.verdict import judge
from jarvice_slurmd.snapshot import QueueSnapshot

_log = logging.getLogger(__name__)

#: exitstatus answers with the last so many lines of a job's output (issue "A batch job travels").
EXIT_LINES = 10_000

#: Room for the records and for what a login shell prints, beside a job's output.
_HEADROOM = 65_536

#: Seconds that removing what a refused submission left may take; its caller waits for it.
_FORGET_SECONDS = 5.0


@implementer(IScheduler)
class SlurmScheduler:
    """An `IScheduler` for a Slurm cluster behind a login node."""

    def __init__(self, shell: IRemoteShell, snapshot: QueueSnapshot, settings: Settings) -> None:
        self._shell = shell
        self._snapshot = snapshot
        self._settings = settings
        self._preparer = JobPreparer(settings)
        self._root = commands.render_root(settings.scratch_dir)
        self._collecting = Shared(self._collect_garbage)

    async def submit(self, submission: Submission) -> Submitted:
        """See `IScheduler.submit`."""
        job = self._preparer.prepare(submission)
        attempt = token_hex(8)
        call = render_submit(
            root=self._root,
            name=job.name,
            number=job.number,
            attempt=attempt,
            options=job.options,
            node_script=job.node_script.encode("utf-8", "surrogateescape"),
            batch_script=job.batch_script,
            interactive=b"" if job.interactive is None else render_interactive(job.interactive),
        )
        result = await self._shell.run(call.script, call.stdin)
        if result.status == Status.OTHER_JOB:
            raise InvalidArgumentsError(first_words(result.stderr))
        if result.status in CUT_OFF:
            # sbatch may have submitted the job all the same: asked again, it is looked for first.
            raise SlurmUnavailableError(
                "sbatch was ended before it said whether the job was submitted; submit it again: "
                "the job is looked for before another one is made"
            )
        if result.status != 0:
            error = failure(result.status, result.stderr)
            if isinstance(error, SlurmRefusedError):
                await self._forget_submission(job.name, attempt)
            raise error
        jobid = parse_submitted(result.stdout)
        self._snapshot.add_submitted(job.name, jobid)
        _log.info("Submitted job %s (number %d) as job id %s", job.name, job.number, jobid)
        return Submitted(jobid=jobid, script=job.shown_script)

    async def running(self) -> Sequence[JobSummary]:
        """See `IScheduler.running`."""
        return (await self._snapshot.current()).running

    async def queued(self) -> Sequence[JobSummary]:
        """See `IScheduler.queued`."""
        return (await self._snapshot.current()).queued

    async def run_status(self, ref: JobRef) -> RunStatus | None:
        """See `IScheduler.run_status`."""
        entry = await self._find_surely(ref)
        if entry is None:
            if await self._is_known_all_the_same(ref):
                raise SlurmUnavailableError(
                    f"Slurm knows job {ref.jobid}, but its queue does not list it"
                )
            return None
        return RunStatus(nodes=parse_hostlist(entry.hostlist), elapsed=entry.elapsed)

    async def exit_status(self, ref: JobRef) -> ExitReport | None:
        """See `IScheduler.exit_status`."""
        entry = await self._find_surely(ref)
        if entry is not None and entry.state.phase is not Phase.ENDED:
            raise JobStillRunningError(f"job {ref.jobid} has not ended: it is {entry.state.name}")
        result = await self._run(
            commands.render_post_mortem(
                root=self._root,
                name=ref.name,
                jobid=ref.jobid,
                lines=EXIT_LINES,
                limit=self._settings.output_bytes,
                accounting=entry is None,
            ),
            max_output=self._settings.output_bytes + _HEADROOM,
        )
        found = parse_post_mortem(result.stdout)
        end = judge(ref.name, entry, found)
        if end is None:
            return None
        await self._mark_answered(ref, end.state.name, end.elapsed)
        return ExitReport(state=end.state, elapsed=end.elapsed, output=found.output)

    async def terminate(self, ref: JobRef, *, force: bool) -> None:
        """See `IScheduler.terminate`."""
        entry = await self._find(ref)
        if entry is not None and entry.state.phase is Phase.ENDED:
            return
        result = await self._shell.run(
            commands.render_cancel(root=self._root, name=ref.name, jobid=ref.jobid, force=force)
        )
        if result.status != 0 and b"Invalid job id" not in result.stderr:
            raise failure(result.status, result.stderr)
        how = "to kill" if force else "to cancel"
        _log.info("Told Slurm %s job %s, job id %s", how, ref.name, ref.jobid)

    async def release(self, ref: JobRef) -> None:
        """See `IScheduler.release`."""
        await self._check_ours(ref)
        await self._run(commands.render_release(jobid=ref.jobid))

    async def events(self, ref: JobRef) -> str:
        """See `IScheduler.events`."""
        await self._check_ours(ref)
        result = await self._run(commands.render_events(jobid=ref.jobid))
        return result.stdout.decode("utf-8", "replace")

    async def tail(self, ref: JobRef, lines: int) -> bytes:
        """See `IScheduler.tail`."""
        limit = self._settings.output_bytes
        result = await self._shell.run(
            commands.render_tail(root=self._root, name=ref.name, lines=lines, limit=limit),
            max_output=limit + _HEADROOM,
        )
        if result.status == Status.NO_OUTPUT:
            raise NoOutputError(f"job {ref.name} has not written any output")
        if result.status != 0:
            raise failure(result.status, result.stderr)
        return result.stdout

    async def list_folder(self, path: str, *, details: bool) -> bytes:
        """See `IScheduler.list_folder`."""
        allowed = self._settings.pvcls_folders
        if allowed and not any(
            f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/") for folder in allowed
        ):
            raise NotListableError(f"{path} is in none of the folders that may be listed")
        result = await self._shell.run(
            render_list_folder(path=path, details=details, allowed=allowed),
            max_output=self._settings.output_bytes + _HEADROOM,
        )
        if result.status == Status.NOT_LISTABLE:
            raise NotListableError(first_words(result.stderr))
        if result.status != 0:
            raise failure(result.status, result.stderr)
        return result.stdout

    async def check(self) -> None:
        """See `IScheduler.check`."""
        await self._snapshot.current()
        await self._run(commands.render_write_check(root=self._root))

    async def collect_garbage(self) -> bool:
        """See `IScheduler.collect_garbage`; one for all who ask while it goes on."""
        return await self._collecting.done()

    async def _collect_garbage(self) -> bool:
        result = await self._run(
            render_collect_garbage(
                root=self._root,
                answered_minutes=self._settings.answered_minutes,
                unasked_days=self._settings.unasked_days,
                slurm_seconds=max(1, int(self._settings.command_timeout / 2)),
            )
        )
        return MORE.encode("ascii") in result.stdout.split()

    async def _find(self, ref: JobRef) -> QueueEntry | None:
        entry = (await self._snapshot.current()).entries.get(ref.jobid)
        return entry if entry is not None and entry.name == ref.name else None

    async def _find_surely(self, ref: JobRef) -> QueueEntry | None:
        """The job's entry; None when Slurm, asked twice, did not know it."""
        view = await self._snapshot.current()
        entry = view.entries.get(ref.jobid)
        if entry is None and not self._snapshot.missed_before(ref.jobid, view):
            entry = (await self._snapshot.after(view)).entries.get(ref.jobid)
        return entry if entry is not None and entry.name == ref.name else None

    async def _is_known_all_the_same(self, ref: JobRef) -> bool:
        return await is_known_all_the_same(
            self._shell, root=self._root, name=ref.name, jobid=ref.jobid
        )

    async def _check_ours(self, ref: JobRef) -> None:
        """Raise `UnknownJobError` where Slurm has no job of ours of that id and name."""
        if await self._find_surely(ref) is None and not await self._is_known_all_the_same(ref):
            raise UnknownJobError(f"Slurm knows no job {ref.jobid} named {ref.name}")

    async def _run(self, script: str, *, max_output: int | None = None) -> CommandResult:
        result = await self._shell.run(script, max_output=max_output)
        if result.status != 0:
            raise failure(result.status, result.stderr)
        return result

    async def _forget_submission(self, name: str, attempt: str) -> None:
        script = render_forget_submission(root=self._root, name=name, attempt=attempt)
        try:
            await self._shell.run(script, timeout=_FORGET_SECONDS)
        except (JarviceSlurmdError, CancelledError) as error:
            _log.warning("Could not remove what job %s left when it was refused: %s", name, error)

    async def _mark_answered(self, ref: JobRef, state: str, elapsed: int) -> None:
        script = commands.render_mark_answered(
            root=self._root, name=ref.name, jobid=ref.jobid, state=state, elapsed=elapsed
        )
        try:
            await self._run(script)
        except JarviceSlurmdError as error:
            # The answer is true all the same, and will be once more from what it came from.
            _log.warning("Could not note the answer for job %s: %s", ref.name, error)
