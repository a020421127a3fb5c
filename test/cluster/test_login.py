"""Login nodes as they are: banners, other login shells, few sessions, sshd going away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from test.cluster.daemon import ClusterTestCase, job_text
from test.cluster.harness import DevCluster


class LoginNodeTestCase(ClusterTestCase):
    """A test with a cluster of its own."""

    options: ClassVar[Mapping[str, object]] = {}

    def make_cluster(self) -> DevCluster:
        """A cluster with these options."""
        cluster = DevCluster()
        self.addCleanup(cluster.down)
        cluster.up(**self.options)  # type: ignore[arg-type]
        return cluster

    async def whole_way(self) -> None:
        """A job's whole way, every kind of command included."""
        job = await self.submit(job_text("echo here"), held=True)
        self.assertTrue(await self.listed("/queued", job))
        self.assertIn("JobId=", (await self.client.post("/events", job.ref)).json)
        await self.client.post("/release", job.ref)
        end = await self.end_of(job)
        self.assertEqual((end[0], end[2][0]), (0, "here\n"))
        listing = await self.client.post("/request/pvcls", {"qs": {"path": ["/"]}})
        self.assertIn("/data/etc/\n", listing.body.decode())
        self.assertEqual((await self.client.get("/gc")).json, {"status": "OK"})


class BannerTests(LoginNodeTestCase):
    """A login shell that prints on stdout and stderr, without a line end."""

    options: ClassVar = {"banner": "Welcome! 42|R|0:00|n1|None|jarvice_fake"}

    async def test_banner(self) -> None:
        """It changes nothing."""
        await self.whole_way()
        self.assertEqual((await self.client.get("/running")).json, [])


class TcshTests(LoginNodeTestCase):
    """An account whose login shell is tcsh."""

    options: ClassVar = {"login_shell": "/usr/bin/tcsh"}

    async def test_tcsh(self) -> None:
        """It changes nothing, also for a text full of what csh reads differently."""
        await self.whole_way()
        text = "cat <<'END'\n!! !x \\! $status `x` {a,b}\nEND\n"
        end = await self.end_of(await self.submit(job_text(text)))
        self.assertEqual(end[2][0], "!! !x \\! $status `x` {a,b}\n")


class FewSessionsTests(LoginNodeTestCase):
    """An sshd that allows fewer sessions than we were told."""

    options: ClassVar = {"max_sessions": 2}

    async def test_queue(self) -> None:
        """Commands wait for a session instead of failing."""
        answers = await gatherResults(
            [
                Deferred.fromCoroutine(self.client.post("/request/pvcls", {"qs": {"path": ["/"]}}))
                for _ in range(30)
            ]
        )
        self.assertEqual({answer.code for answer in answers}, {200})


class SharedLinkTests(ClusterTestCase):
    """Many commands on one link."""

    async def test_eleven_at_once(self) -> None:
        """One more than MaxSessions allows: all are answered."""
        answers = await gatherResults(
            [
                Deferred.fromCoroutine(self.client.post("/request/pvcls", {"qs": {"path": ["/"]}}))
                for _ in range(11)
            ]
        )
        self.assertEqual([answer.code for answer in answers], [200] * 11)

    async def test_a_hundred_submits_at_once(self) -> None:
        """None fails, and none is submitted twice."""
        jobs = await gatherResults(
            [Deferred.fromCoroutine(self.submit(job_text("true"), held=True)) for _ in range(100)]
        )
        self.assertEqual(len({job.jobid for job in jobs}), 100)
        queued = (await self.client.get("/queued")).json
        for job in jobs:
            self.assertEqual(queued.count([job.name, job.jobid]), 1)
        self.cluster.slurm("scancel", *(job.jobid for job in jobs))


class LostLinkTests(LoginNodeTestCase):
    """sshd goes away under us."""

    async def test_killed_in_the_middle_of_a_command(self) -> None:
        """A submit whose connection is killed is not guessed about: asked again it is one job."""
        begun = self.make_sbatch_slow()
        text = job_text("echo once")
        name, number = "20261123000000-LOST0-app-user_s1", 77
        asking = Deferred.fromCoroutine(self.try_submit(text, name=name, number=number))

        async def has_begun() -> bool:
            return begun.exists()

        await self.until(has_begun)
        await deferToThread(self.cluster.stop, "sshd", kill=True)
        _, lost = await asking
        self.assertEqual(lost.code, 503, lost.body)
        await deferToThread(self.cluster.start, "sshd")
        await self.until(self.is_ready)
        job = await self.submit(text, name=name, number=number)
        self.assertEqual((await self.end_of(job))[2][0], "once\n")
        jobs = self.cluster.slurm("squeue", "-h", "-t", "all", "-o", "%i", "-n", f"jarvice_{name}")
        self.assertEqual(jobs.split(), [job.jobid])

    def make_sbatch_slow(self) -> Path:
        """Have sbatch, once it has submitted, end late; the file returned tells that it began."""
        begun = self.cluster.scratch / "begun"
        wrapper = self.cluster.state / "bin" / "sbatch"
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(
            f'#!/bin/sh\n/usr/bin/sbatch "$@" && touch {begun} && sleep 3\n', encoding="utf-8"
        )
        wrapper.chmod(0o755)
        return begun

    async def test_sshd_restarted(self) -> None:
        """While it is away /ready says so and questions are 503; then everything works again."""
        await deferToThread(self.cluster.stop, "sshd", kill=True)

        async def is_down() -> bool:
            return (await self.client.get("/ready")).code == 503

        await self.until(is_down)
        # What was seen before is still true for a second.
        await deferLater(reactor, 1.2)
        self.assertEqual((await self.client.get("/live")).code, 200)
        for endpoint in ("/running", "/queued"):
            answer = await self.client.get(endpoint)
            self.assertEqual(answer.code, 503, answer.body)
        self.assertEqual((await self.client.get("/gc")).code, 500)
        await deferToThread(self.cluster.start, "sshd")
        await self.until(self.is_ready)
        await self.whole_way()
