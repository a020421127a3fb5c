"""The clean-up that the daemon does by itself: a cluster in memory, and the time is the test's."""

from __future__ import annotations

import logging

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.clean_up import CleanUpService
from jarvice_slurmd.errors import NotConnectedError, SlurmUnavailableError
from test.fakes import FakeScheduler


class _Scheduler(FakeScheduler):
    """Says how often there is more."""

    more = 0

    async def collect_garbage(self) -> bool:
        await super().collect_garbage()
        self.more -= 1
        return self.more >= 0


class CleanUpTests(SynchronousTestCase):
    """`CleanUpService`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.scheduler = _Scheduler()
        self.service = CleanUpService(self.scheduler, self.clock, 3600.0)
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self.service.running:
            self.service.stopService()

    def count(self) -> int:
        """How often it has collected."""
        return len(self.scheduler.calls)

    def test_every_hour(self) -> None:
        """At the start, and every hour."""
        self.service.startService()
        self.assertEqual(self.count(), 1)
        self.clock.advance(3599)
        self.assertEqual(self.count(), 1)
        self.clock.advance(1)
        self.assertEqual(self.count(), 2)

    def test_until_nothing_is_left(self) -> None:
        """One call removes only so much: it is made again as long as there is more."""
        self.scheduler.more = 3
        self.service.startService()
        self.assertEqual(self.count(), 4)

    def test_stop(self) -> None:
        """A stop cuts short what is under way, and waits for nothing."""
        cancelled: list[object] = []
        self.scheduler.hold = Deferred(cancelled.append)
        self.service.startService()
        self.service.stopService()
        self.assertEqual(len(cancelled), 1)
        self.clock.advance(7200)
        self.assertEqual(self.count(), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_outage(self) -> None:
        """What kept it from running is told, but for a link that is down; it goes on."""
        self.scheduler.error = SlurmUnavailableError("away")
        with self.assertLogs("jarvice_slurmd.clean_up", logging.WARNING) as logs:
            self.service.startService()
        self.assertIn("away", logs.output[0])
        self.scheduler.error = NotConnectedError("down")
        with self.assertNoLogs("jarvice_slurmd.clean_up", logging.WARNING):
            self.clock.advance(3600)
        self.scheduler.error = ZeroDivisionError("ours")
        with self.assertLogs("jarvice_slurmd.clean_up", logging.ERROR):
            self.clock.advance(3600)
        self.scheduler.error = None
        self.clock.advance(3600)
        self.assertEqual(self.count(), 4)
