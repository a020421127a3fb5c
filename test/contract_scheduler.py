"""What every `IScheduler` must do: run by the cluster in memory, and by the real one on a cluster.

A test says what a job's text is and what it will come to; who mixes this in makes it run: the fake
by saying so, the real one by waiting.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from jarvice_slurmd.errors import (
    InvalidArgumentsError,
    JobStillRunningError,
    NoOutputError,
    NotListableError,
    SlurmRefusedError,
    UnknownJobError,
)
from jarvice_slurmd.interfaces import IScheduler
from jarvice_slurmd.jobs.model import JobRef, JobSummary, Submission

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object

_HEAD = 'JOBOBJ_INTERACTIVE=False\nJARVICE_CPU_CORES=1\nJOBOBJ_DEVICES=["exclusive=False"]\n'


@frozen
class Job:
    """A job's text, the state it ends in, and its output: both while it runs and at its end."""

    text: str
    state: str
    output: bytes


SUCCEEDS = Job(
    f"{_HEAD}echo hello\necho JARVICE_CMD_SUCCESS\n",
    "COMPLETED",
    b"hello\nJARVICE_CMD_SUCCESS\n",
)
FAILS = Job(f"{_HEAD}printf '%s\\n' 'it''s' \"lost\"\nexit 3\n", "FAILED", b"its\nlost\n")
ENDLESS = Job(f"{_HEAD}echo up\nexec sleep 600\n", "CANCELLED", b"up\n")


class SchedulerContract(_Base):
    """Mix in before `TestCase`; say what to test in `make_scheduler`, and make jobs run."""

    #: An absolute folder that can be listed, with a folder and a file in it.
    folder = "/tmp"

    async def make_scheduler(self) -> IScheduler:
        """A scheduler, ready to use; clean up after it."""
        raise NotImplementedError

    async def run_job(self, scheduler: IScheduler, ref: JobRef, job: Job) -> None:
        """Come back when the job runs and has printed its output."""
        raise NotImplementedError

    async def end_job(self, scheduler: IScheduler, ref: JobRef, job: Job) -> None:
        """Come back when the job has ended, in its state."""
        raise NotImplementedError

    def make_submission(self, job: Job, *, held: bool = False, nodes: int = 1) -> Submission:
        """A submission that was never made before; its name holds what names may hold."""
        name = f"20240101000000-{secrets.token_hex(3)}-app_x-joe-d%j o's_s1"
        number = secrets.randbelow(10**9)
        return Submission(name=name, number=number, nodes=nodes, content=job.text, held=held)

    async def submit(
        self, scheduler: IScheduler, job: Job, *, held: bool = False, nodes: int = 1
    ) -> JobRef:
        """Submit a new job."""
        submission = self.make_submission(job, held=held, nodes=nodes)
        submitted = await scheduler.submit(submission)
        return JobRef(name=submission.name, number=submission.number, jobid=submitted.jobid)

    async def assert_fails(self, question: Awaitable[object], *kinds: type[Exception]) -> None:
        """The question comes to one of these errors."""

        async def ask() -> object:
            return await question

        await self.assertFailure(Deferred.fromCoroutine(ask()), *kinds)

    async def test_interface(self) -> None:
        """It provides what it says it does."""
        self.assertTrue(verifyObject(IScheduler, await self.make_scheduler()))

    async def test_check(self) -> None:
        """A cluster that is in order has nothing to say."""
        await (await self.make_scheduler()).check()

    async def test_success(self) -> None:
        """A job's way: accepted, in a list, ended, told, and told the same again."""
        scheduler = await self.make_scheduler()
        ref = await self.submit(scheduler, SUCCEEDS)
        known = [*await scheduler.running(), *await scheduler.queued()]
        self.assertIn(JobSummary(name=ref.name, jobid=ref.jobid), known)
        await self.end_job(scheduler, ref, SUCCEEDS)
        first = await scheduler.exit_status(ref)
        assert first is not None
        self.assertEqual((first.state.name, first.output), ("COMPLETED", SUCCEEDS.output))
        self.assertEqual(await scheduler.exit_status(ref), first)
        known = [*await scheduler.running(), *await scheduler.queued()]
        self.assertNotIn(JobSummary(name=ref.name, jobid=ref.jobid), known)

    async def test_failure(self) -> None:
        """The state and the output of a job that fails."""
        scheduler = await self.make_scheduler()
        ref = await self.submit(scheduler, FAILS)
        await self.end_job(scheduler, ref, FAILS)
        report = await scheduler.exit_status(ref)
        assert report is not None
        self.assertEqual(report.state.return_code, 1)
        # srun(1) has the last word on a task that failed.
        self.assertTrue(report.output.startswith(FAILS.output), report.output)

    async def test_submit_again(self) -> None:
        """The same submission, at once or later, is the same job."""
        scheduler = await self.make_scheduler()
        submission = self.make_submission(SUCCEEDS, held=True)
        both = [Deferred.fromCoroutine(_submit(scheduler, submission)) for _ in range(3)]
        jobids = {*await gatherResults(both), await _submit(scheduler, submission)}
        self.assertEqual(len(jobids), 1)
        self.assertEqual([job.name for job in await scheduler.queued()].count(submission.name), 1)
        (jobid,) = jobids
        ref = JobRef(name=submission.name, number=submission.number, jobid=jobid)
        await scheduler.terminate(ref, force=True)

    async def test_submit_other_number(self) -> None:
        """Two jobs of one name never become one."""
        scheduler = await self.make_scheduler()
        ref = await self.submit(scheduler, ENDLESS, held=True)
        other = Submission(name=ref.name, number=ref.number + 1, nodes=1, content=ENDLESS.text)
        await self.assert_fails(scheduler.submit(other), InvalidArgumentsError)
        await scheduler.terminate(ref, force=True)

    async def test_held(self) -> None:
        """A held job waits, without nodes, until it is released; then it can't be again."""
        scheduler = await self.make_scheduler()
        ref = await self.submit(scheduler, ENDLESS, held=True)
        self.assertIn(JobSummary(name=ref.name, jobid=ref.jobid), await scheduler.queued())
        status = await scheduler.run_status(ref)
        self.assertEqual(status and (status.nodes, status.elapsed), ((), 0))
        await self.assert_fails(scheduler.exit_status(ref), JobStillRunningError)
        await self.assert_fails(scheduler.tail(ref, 5), NoOutputError)
        await scheduler.release(ref)
        await self.run_job(scheduler, ref, ENDLESS)
        await scheduler.terminate(ref, force=True)

    async def test_running(self) -> None:
        """Where a job runs, what it has printed so far, and what Slurm says of it."""
        scheduler = await self.make_scheduler()
        ref = await self.submit(scheduler, ENDLESS, nodes=1)
        await self.run_job(scheduler, ref, ENDLESS)
        self.assertIn(JobSummary(name=ref.name, jobid=ref.jobid), await scheduler.running())
        status = await scheduler.run_status(ref)
        self.assertEqual(len(status.nodes if status else ()), 1)
        self.assertEqual(await scheduler.tail(ref, 1), ENDLESS.output)
        self.assertEqual(await scheduler.tail(ref, 0), ENDLESS.output)
        self.assertIn(f"JobId={ref.jobid}", await scheduler.events(ref))
        await self.assert_fails(scheduler.exit_status(ref), JobStillRunningError)
        await scheduler.terminate(ref, force=True)

    async def test_terminate(self) -> None:
        """A job that is cancelled ends cancelled; again, that changes nothing."""
        scheduler = await self.make_scheduler()
        for force in (False, True):
            ref = await self.submit(scheduler, ENDLESS)
            await self.run_job(scheduler, ref, ENDLESS)
            await scheduler.terminate(ref, force=force)
            await self.end_job(scheduler, ref, ENDLESS)
            report = await scheduler.exit_status(ref)
            self.assertEqual(report and report.state.return_code, -15)
            await scheduler.terminate(ref, force=force)
            self.assertEqual(await scheduler.exit_status(ref), report)

    async def test_unknown_job(self) -> None:
        """Nobody knows it: no status, no end; to terminate it is no error, to change it is."""
        scheduler = await self.make_scheduler()
        ref = JobRef(name="never", number=1, jobid="999999")
        self.assertIsNone(await scheduler.run_status(ref))
        self.assertIsNone(await scheduler.exit_status(ref))
        await scheduler.terminate(ref, force=False)
        await scheduler.terminate(ref, force=True)
        self.assertIsNone(await scheduler.exit_status(ref))
        await self.assert_fails(scheduler.release(ref), UnknownJobError)
        await self.assert_fails(scheduler.events(ref), UnknownJobError)
        await self.assert_fails(scheduler.tail(ref, 5), NoOutputError)

    async def test_other_name(self) -> None:
        """A job's id with another's name reaches neither."""
        scheduler = await self.make_scheduler()
        ref = await self.submit(scheduler, ENDLESS)
        await self.run_job(scheduler, ref, ENDLESS)
        wrong = JobRef(name="other", number=ref.number, jobid=ref.jobid)
        self.assertIsNone(await scheduler.run_status(wrong))
        await scheduler.terminate(wrong, force=True)
        await self.assert_fails(scheduler.release(wrong), UnknownJobError)
        await self.assert_fails(scheduler.events(wrong), UnknownJobError)
        self.assertIsNotNone(await scheduler.run_status(ref))
        await self.assert_fails(scheduler.exit_status(ref), JobStillRunningError)
        await scheduler.terminate(ref, force=True)

    async def test_refused(self) -> None:
        """What can't be: told as the question's fault, or in Slurm's words."""
        scheduler = await self.make_scheduler()
        for text in (f"{_HEAD}\0", "JOBOBJ_APPDEFVERSION=1\n", "echo interactive\n"):
            submission = self.make_submission(Job(text, "", b""))
            await self.assert_fails(
                scheduler.submit(submission), InvalidArgumentsError, SlurmRefusedError
            )

    async def test_list_folder(self) -> None:
        """Folders before files; what is no folder says why."""
        scheduler = await self.make_scheduler()
        plain = (await scheduler.list_folder(self.folder, details=False)).decode().splitlines()
        self.assertEqual(plain, sorted(plain, key=lambda line: not line.endswith("/")))
        self.assertTrue(all(line.startswith(f"/data{self.folder}/") for line in plain))
        details = (await scheduler.list_folder(self.folder, details=True)).decode().splitlines()
        self.assertEqual([line.split(" ", 2)[2] for line in details], plain)
        await self.assert_fails(
            scheduler.list_folder("/nonexistent/-delete", details=False), NotListableError
        )

    async def test_collect_garbage(self) -> None:
        """It runs, and takes nothing of a job that has not ended."""
        scheduler = await self.make_scheduler()
        ref = await self.submit(scheduler, ENDLESS)
        await self.run_job(scheduler, ref, ENDLESS)
        await scheduler.collect_garbage()
        self.assertEqual(await scheduler.tail(ref, 0), ENDLESS.output)
        await scheduler.terminate(ref, force=True)


async def _submit(scheduler: IScheduler, submission: Submission) -> str:
    return (await scheduler.submit(submission)).jobid
