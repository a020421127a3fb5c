"""Slurm's controller goes away and comes back during all questions."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from test.cluster.daemon import ClusterTestCase, job_text


class ControllerOutageTests(ClusterTestCase):
    """slurmctld stopped and started again."""

    timeout = 240

    async def test_told_not_guessed(self) -> None:
        """While it is away every question says so; nothing is lost by having asked."""
        running = await self.submit(job_text("echo started; sleep 60; echo ended"))
        done = await self.submit(job_text("echo done"))
        await self.until_running(running)
        await self.end_of(done)
        await deferToThread(self.cluster.stop, "slurmctld")
        self.addCleanup(deferToThread, self.cluster.start, "slurmctld")

        # What was known before is still true for a second.
        await deferLater(reactor, 1.5)
        paths = ("/runstatus", "/exitstatus", "/events", "/terminate", "/release")
        questions = [self.client.post(path, running.ref) for path in paths]
        questions += [self.client.get(path) for path in ("/running", "/queued")]
        submitting = Deferred.fromCoroutine(self.try_submit(job_text("echo late")))
        answers = await gatherResults([Deferred.fromCoroutine(one) for one in questions])
        for answer in answers:
            self.assertEqual(answer.code, 503, answer.body)
            self.assertIn("controller", answer.json["error"])
        job, refused = await submitting
        self.assertEqual(refused.code, 503, refused.body)
        tail = await self.client.post(f"/request/{running.path}/tail", {"qs": {}})
        self.assertEqual((tail.code, tail.body), (200, b"started\n"))
        self.assertEqual((await self.client.get("/live")).code, 200)

        async def is_not_ready() -> bool:
            """The first probe may be told what was true before."""
            return (await self.client.get("/ready")).code == 503

        await self.until(is_not_ready)
        await deferToThread(self.cluster.start, "slurmctld")

        async def is_over() -> bool:
            return (await self.client.get("/running")).code == 200

        await self.until(is_over)
        again = await self.submit(job_text("echo late"), name=job.name, number=job.number)
        self.assertEqual((await self.end_of(again))[2][0], "late\n")
        end = await self.end_of(running)
        self.assertEqual((end[0], end[2][0]), (0, "started\nended\n"))
        self.assertEqual((await self.end_of(done))[2][0], "done\n")
