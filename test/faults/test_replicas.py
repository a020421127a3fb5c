"""Two daemons before one cluster: either answers anything, and one that is killed loses nothing."""

from __future__ import annotations

from itertools import count
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, gatherResults

from test.cluster.daemon import DaemonClient, Job, Response, job_text
from test.faults.outage_case import OutageTestCase
from test.faults.replica import Jobs, Replica
from test.faults.stage import NOTED, pause

_numbers = count(6000)


class ReplicaTests(OutageTestCase):
    """Neither knows of the other."""

    settings: ClassVar = {}

    async def setUp(self) -> None:  # type: ignore[override]
        """Start two."""
        await super().setUp()
        self.other = await self.start_replica()

    async def make_jobs(self) -> Jobs:
        """Each test has jobs of its own."""
        nobody = Job(name="", number=0, jobid="")
        return Jobs(running=nobody, ended=nobody, held=nobody)

    def by(self, replica: Replica) -> DaemonClient:
        """Ask this one from now on."""
        self.client = replica.client
        return replica.client

    def asking(
        self, client: DaemonClient, path: str, args: dict[str, object]
    ) -> Deferred[Response]:
        """Begin to ask; whoever is killed meanwhile does not answer."""
        return Deferred.fromCoroutine(client.post(path, args))

    async def test_either_answers(self) -> None:
        """A job's whole life, each step asked of the other one."""
        one, other = self.replica, self.other
        self.by(one)
        job = await self.submit(job_text("echo of either; sleep 1"), held=True)
        self.by(other)
        # Its list may be a second old.
        await self.until(lambda: self.listed("/queued", job))
        status = (await self.client.post("/runstatus", job.ref)).json
        self.assertEqual(status, [[], "00:00:00", job.path, None])
        self.assertEqual((await self.client.post("/release", job.ref)).json, True)
        self.by(one)
        await self.until_running(job)
        self.by(other)
        self.assertIn("JobState=RUNNING", (await self.client.post("/events", job.ref)).json)
        end = await self.end_of(job)
        self.assertEqual((end[0], end[2][0]), (0, "of either\n"))
        self.by(one)
        self.assertEqual(await self.end_of(job), end)
        tail = await self.client.post(f"/request/{job.path}/tail", {"qs": {}})
        self.assertEqual(tail.body, b"of either\n")

    async def test_killed_in_the_middle(self) -> None:
        """Of a submit, an exitstatus and a terminate: the other one takes over."""
        one, other = self.replica, self.other
        self.by(one)
        ended = await self.submit(job_text("echo all of it; exit 4"))
        running = await self.submit(job_text("echo begun; sleep 600"))
        await self.until_running(running)
        await self.forgotten(ended)

        submitting = self.wrap("sbatch", f'{NOTED}"$real" "$@"; hold')
        reading = self.wrap("tail", 'case "$*" in *-c*) hold ;; esac\n"$real" "$@"')
        cancelling = self.wrap("scancel", 'hold; exec "$real" "$@"')
        number = next(_numbers)
        name = f"20261123050000-{number}-killed-user_s1"
        asking: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self.try_submit(self.once_text(name), name=name, number=number)),
            self.asking(one.client, "/exitstatus", ended.ref),
            self.asking(one.client, "/terminate", running.ref),
        ]
        for begun in (submitting, reading, cancelling):
            await self.until_exists(begun)
        await one.kill()
        for lost in asking:
            await self.assertFailure(lost, Exception)
        self.open_gates(submitting, reading, cancelling)
        self.unwrap("tail")
        self.unwrap("scancel")

        self.by(other)
        again = [
            Deferred.fromCoroutine(self.submit(self.once_text(name), name=name, number=number)),
            Deferred.fromCoroutine(self.end_of(ended)),
        ]
        job, end = await gatherResults(again)
        self.assertEqual((end[0], end[2][0].split("\n")[0]), (1, "all of it"))
        self.assertEqual((await self.client.post("/terminate", running.ref)).json, True)
        end = await self.end_of(running)
        self.assertEqual((end[0], end[2][0].split("\n")[0]), (-15, "begun"))
        await self.assert_ran_once(job)
        self.assertEqual(self.attempts(name), 1)

        # It comes back, and knows what the other one did.
        one.start()
        await self.until(one.is_ready)
        self.by(one)
        self.assertEqual(await self.end_of(running), end)
        self.assertEqual(self.queued_ids(name) or [job.jobid], [job.jobid])

    async def test_killed_and_nothing_left(self) -> None:
        """What a killed daemon had running on the login node ends there too."""
        brief = await self.start_replica(JARVICE_SLURM_COMMAND_TIMEOUT="2")
        # What it saw before would answer for a second.
        await pause(1.2)
        begun = self.wrap("squeue", 'touch "$begun"; exec sleep 7654321')
        asking = Deferred.fromCoroutine(brief.client.get("/running"))
        await self.until_exists(begun)
        await brief.kill()
        await self.assertFailure(asking, Exception)
        self.unwrap("squeue")

        async def is_gone() -> bool:
            left = self.cluster.ssh("ps -u $(id -u) -o args=").stdout.decode()
            return "sleep 7654321" not in left

        await self.until(is_gone)
