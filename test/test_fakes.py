"""The cluster in memory keeps the contract, so that a test may believe it."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from jarvice_slurmd.interfaces import IScheduler
from jarvice_slurmd.jobs.model import JobRef
from test.contract_scheduler import Job, SchedulerContract
from test.fakes import FakeScheduler


class FakeSchedulerTests(SchedulerContract, TestCase):
    """`FakeScheduler`."""

    async def make_scheduler(self) -> IScheduler:
        """A cluster without jobs."""
        return FakeScheduler()

    async def run_job(self, scheduler: IScheduler, ref: JobRef, job: Job) -> None:
        """Say so."""
        assert isinstance(scheduler, FakeScheduler)
        scheduler.start(ref.jobid, "n1")
        scheduler.jobs[ref.jobid].output = job.output

    async def end_job(self, scheduler: IScheduler, ref: JobRef, job: Job) -> None:
        """Say so."""
        assert isinstance(scheduler, FakeScheduler)
        scheduler.end(ref.jobid, job.state, output=job.output)
