"""What polling costs Slurm's controller, counted by the controller itself."""

from __future__ import annotations

import re

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from test.cluster.daemon import ClusterTestCase, job_text


class PollingTests(ClusterTestCase):
    """Many callers, one question."""

    async def test_one_question_a_second(self) -> None:
        """However many ask, slurmctld is asked at most once a second, and not when nobody asks."""
        jobs = [await self.submit(job_text("sleep 300")) for _ in range(3)]
        before, began = self.questions(), reactor.seconds()
        for _ in range(40):
            asking = [self.client.post("/runstatus", job.ref) for job in jobs]
            asking += [self.client.get("/running"), self.client.get("/queued")]
            answers = await gatherResults([Deferred.fromCoroutine(one) for one in asking])
            self.assertEqual({answer.code for answer in answers}, {200})
        seconds = reactor.seconds() - began
        self.assertLessEqual(self.questions() - before, seconds + 1)
        for job in jobs:
            await self.client.post("/terminate", job.ref)

    def questions(self) -> int:
        """How often the controller was asked for the queue."""
        said = self.cluster.slurm("sdiag")
        counts = re.findall(r"REQUEST_JOB_(?:INFO|USER_INFO)\w*\s*\(\s*\d+\) count:(\d+)", said)
        return sum(int(count) for count in counts)
