"""What is still answered when Slurm has forgotten a job, with accounting and without."""

from __future__ import annotations

import atexit

from twisted.internet import reactor
from twisted.internet.task import deferLater

from test.cluster.daemon import ClusterTestCase, Job, job_text
from test.cluster.harness import DevCluster

TERM_TRAP = "trap 'echo bye; exit 0' TERM; echo up; sleep 300 & wait"


class ForgottenTests(ClusterTestCase):
    """Without accounting: what the job left in its folder answers."""

    async def test_true_status(self) -> None:
        """MinJobAge after its end a job's state, time and output are what they were."""
        ends = {
            await self.submit(job_text("echo fine; sleep 2")): (0, "COMPLETED", "fine\n"),
            await self.submit(job_text("echo bad; exit 7")): (1, "FAILED", "bad\n"),
            await self.submit(job_text("echo m; echo JARVICE_CMD_FAILURE")): (1, "FAILED", "m\n"),
            await self.submit(job_text(TERM_TRAP)): (-15, "CANCELLED", "up\n"),
            await self.submit(job_text(TERM_TRAP)): (-9, "TIMEOUT", "up\n"),
        }
        *_, cancelled, late = ends
        await self.until_running(late)
        await self.until_running(cancelled)
        await deferLater(reactor, 1)
        await self.client.post("/terminate", cancelled.ref)
        self.cluster.slurm("scontrol", "update", f"JobId={late.jobid}", "EndTime=now+1seconds")
        for job, (return_code, state, output) in ends.items():
            await self.forgotten(job)
            end = await self.end_of(job)
            self.assertEqual(end[0], return_code, (state, end))
            self.assertIn(f"termination state: {state} ", end[2][1])
            self.assertTrue(end[2][0].startswith(output), end)
            self.assertNotEqual(end[1], "00:00:00" if state != "FAILED" else "")
            self.assertEqual(await self.end_of(job), end)

    async def test_another_process_answers(self) -> None:
        """A daemon that never saw the job answers as the first one did."""
        job = await self.submit(job_text("echo remembered; exit 2"))
        end = await self.end_of(job)
        _, self.client = await self.start_daemon()
        await self.until(self.is_ready)
        self.assertEqual(await self.end_of(job), end)

    async def test_answered_then_removed(self) -> None:
        """/gc removes an answered job's files after their time, and no other job's."""
        answered = await self.submit(job_text("echo answered"))
        unasked = await self.submit(job_text("echo unasked"))
        await self.end_of(answered)
        await self.until(lambda: self.has_ended(unasked))
        root = self.cluster.scratch / ".jarvice"
        self.cluster.ssh(f"touch -d '2 hours ago' {root}/jobs/*/answer")
        self.assertEqual((await self.client.get("/gc")).code, 200)
        self.assertFalse((root / "jobs" / answered.jobid).exists())
        self.assertFalse((root / f"{answered.name}.out").exists())
        self.assertFalse((root / "submit" / answered.name).exists())
        self.assertTrue((root / f"{unasked.name}.out").exists())
        self.assertEqual((await self.end_of(unasked))[2][0], "unasked\n")

    async def has_ended(self, job: Job) -> bool:
        """Whether the job's own record says that it has ended."""
        return (self.cluster.scratch / ".jarvice" / "jobs" / job.jobid / "exit").exists()


_accounting: DevCluster | None = None


def accounting_cluster() -> DevCluster:
    """A cluster with slurmdbd, brought up by the first test that asks."""
    global _accounting
    if _accounting is None:
        _accounting = DevCluster()
        atexit.register(_accounting.down)
        _accounting.up(accounting=True)
    return _accounting


class AccountedTests(ClusterTestCase):
    """With accounting: sacct answers, also where the job's folder is gone."""

    def make_cluster(self) -> DevCluster:
        """The one with slurmdbd."""
        return accounting_cluster()

    async def test_true_status(self) -> None:
        """Failed, cancelled and completed jobs are told apart by sacct."""
        ends = {
            await self.submit(job_text("sleep 2")): (0, "COMPLETED"),
            await self.submit(job_text("exit 7")): (1, "FAILED"),
            await self.submit(job_text("sleep 300")): (-15, "CANCELLED"),
        }
        *_, cancelled = ends
        await self.until_running(cancelled)
        self.cluster.slurm("scancel", cancelled.jobid)
        for job, (return_code, state) in ends.items():
            await self.forgotten(job)
            self.cluster.ssh(f"rm -rf {self.cluster.scratch}/.jarvice/jobs/{job.jobid}")
            end = await self.end_of(job)
            self.assertEqual(end[0], return_code, (state, end))
            self.assertIn(f"termination state: {state} ", end[2][1])
            if state == "COMPLETED":
                self.assertNotEqual(end[1], "00:00:00")
