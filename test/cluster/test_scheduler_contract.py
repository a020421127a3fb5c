"""The real scheduler, over SSH, on a real Slurm, keeps the contract."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jarvice_slurmd.daemon import make_links
from jarvice_slurmd.errors import JobStillRunningError, NoOutputError
from jarvice_slurmd.interfaces import IScheduler
from jarvice_slurmd.jobs.model import JobRef
from jarvice_slurmd.scheduler import SlurmScheduler
from jarvice_slurmd.settings import Settings
from jarvice_slurmd.snapshot import QueueSnapshot
from test.cluster.harness import shared_cluster
from test.contract_scheduler import Job, SchedulerContract


class SlurmSchedulerTests(SchedulerContract, TestCase):
    """`SlurmScheduler` over `SSHLink`."""

    timeout = 120

    async def make_scheduler(self) -> IScheduler:
        """A scheduler with a link of its own."""
        settings = Settings.from_environ(shared_cluster().env())
        link, _ = make_links(settings, reactor)
        link.startService()
        self.addCleanup(link.stopService)
        self.assertIsNone(await link.first_attempt())
        return SlurmScheduler(link, QueueSnapshot(link, reactor), settings)

    async def run_job(self, scheduler: IScheduler, ref: JobRef, job: Job) -> None:
        """Wait for its output."""
        while True:
            try:
                if await scheduler.tail(ref, 0) == job.output:
                    running = await scheduler.running()
                    if ref.jobid in [one.jobid for one in running]:
                        return
            except NoOutputError:
                pass
            await deferLater(reactor, 0.1)

    async def end_job(self, scheduler: IScheduler, ref: JobRef, job: Job) -> None:
        """Wait for its end."""
        while True:
            try:
                self.assertIsNotNone(await scheduler.exit_status(ref))
                return
            except JobStillRunningError:
                await deferLater(reactor, 0.2)
