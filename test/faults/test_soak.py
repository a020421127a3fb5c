"""`make soak` itself, shortened: many callers on two daemons while the link is cut."""

from __future__ import annotations

from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from test.cluster.daemon import Job
from test.faults.outage_case import OutageTestCase
from test.faults.replica import Jobs
from test.soak.figures import Figures, Process, render_figures
from test.soak.scene import assert_flat, big_text, read_two_gigabytes, soak
from test.soak.submitting import submit_and_end


class SoakTests(OutageTestCase):
    """`python -m test.soak` in small."""

    timeout = 300
    settings: ClassVar = {}

    async def make_jobs(self) -> Jobs:
        """The soak's callers make theirs."""
        nobody = Job(name="nobody", number=1, jobid="99999999")
        return Jobs(running=nobody, ended=nobody, held=nobody)

    async def test_nothing_wrong(self) -> None:
        """No wrong answer, no job lost or doubled, memory and descriptors flat."""
        replicas = [self.replica, await self.start_replica()]
        figures = await soak(self.cluster, replicas, 14, callers=32, cut_every=5)
        name = "20261123050000-TWOGB-app-user_s1"
        job = await submit_and_end(self.replica.client, name, 99, big_text(name))
        await read_two_gigabytes(self.cluster, replicas, figures, job)
        self.assertEqual(figures.wrong, [])
        self.assertGreater(figures.injected["every SSH connection is cut"], 1)
        self.assertGreater(figures.jobs["ended, right and once"], 10)
        self.assertEqual(figures.jobs["ended, right and once"], figures.jobs["submitted"])


class FiguresTests(SynchronousTestCase):
    """What a soak concludes from its figures."""

    def test_growth(self) -> None:
        """Memory and descriptors that grow are wrong."""
        mib = 2**20
        flat = Process("flat", rss=[40 * mib, 60 * mib, 60 * mib, 60 * mib] * 4, fds=[30] * 16)
        grows = Process("grows", rss=[n * 4 * mib for n in range(16)], fds=list(range(0, 320, 20)))
        figures = Figures(processes=[flat, grows])
        assert_flat(figures)
        self.assertEqual(len(figures.wrong), 2, figures.wrong)
        self.assertTrue(all(sentence.startswith("grows ") for sentence in figures.wrong))

    def test_table(self) -> None:
        """It says what was asked, and ends with what was wrong."""
        figures = Figures(processes=[Process("one", rss=[2**20], fds=[5])], seconds=12)
        for code in (200, 200, 409, 503):
            figures.answered("exitstatus", code, 0.01)
        figures.is_wrong("it lied")
        figures.is_wrong("it lied")
        lines = list(render_figures(figures))
        (row,) = [line.split() for line in lines if line.startswith("exitstatus")]
        self.assertEqual(row[:5], ["exitstatus", "4", "3", "1", "0"])
        self.assertEqual(lines[-2:], ["wrong: 2", "  2 x it lied"])
