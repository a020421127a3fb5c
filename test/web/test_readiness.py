"""GET /ready: what it asks, how often, and how long it lets a probe wait."""

from __future__ import annotations

import logging

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import JarviceSlurmdError, SlurmUnavailableError
from jarvice_slurmd.web.outages import Outages
from jarvice_slurmd.web.readiness import Readiness


class ReadinessTests(SynchronousTestCase):
    """A check that a test answers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.reason: str | None = None
        self.checks: list[Deferred[None]] = []
        self.readiness = Readiness(
            lambda: self.reason,
            self.check,
            self.clock,
            Outages(self.clock),
            max_age=2.0,
            patience=0.8,
        )

    def check(self) -> Deferred[None]:
        """One more."""
        self.checks.append(Deferred())
        return self.checks[-1]

    def ask(self) -> Deferred[JarviceSlurmdError | None]:
        """One more probe."""
        return Deferred.fromCoroutine(self.readiness.error())

    def assert_error(self, asked: Deferred[JarviceSlurmdError | None], words: str) -> None:
        error = self.successResultOf(asked)
        assert error is not None
        self.assertEqual(str(error), words)

    def test_link_down(self) -> None:
        """Without a link nothing is asked of the cluster."""
        self.reason = "Connection refused"
        self.assert_error(self.ask(), "Connection refused")
        self.assertEqual(self.checks, [])

    def test_one_check(self) -> None:
        """However many ask: one check at a time, and its outcome stands for two seconds."""
        asked = [self.ask() for _ in range(3)]
        self.assertEqual(len(self.checks), 1)
        self.checks[0].callback(None)
        self.assertEqual([self.successResultOf(one) for one in asked], [None] * 3)
        self.clock.advance(1.9)
        self.assertIsNone(self.successResultOf(self.ask()))
        self.assertEqual(len(self.checks), 1)
        self.clock.advance(0.2)
        self.ask()
        self.assertEqual(len(self.checks), 2)
        self.checks[1].callback(None)

    def test_out_of_order(self) -> None:
        """What the check ended with is the reason, until a check has ended well."""
        asked = self.ask()
        self.checks[0].errback(SlurmUnavailableError("away"))
        self.assert_error(asked, "away")
        self.assert_error(self.ask(), "away")
        self.clock.advance(2)
        asked = self.ask()
        self.checks[1].callback(None)
        self.assertIsNone(self.successResultOf(asked))

    def test_slow(self) -> None:
        """Who can't wait is told what was true before, and the check goes on."""
        first = self.ask()
        self.assertNoResult(first)
        self.checks[0].callback(None)
        self.assertIsNone(self.successResultOf(first))
        self.clock.advance(2)
        slow = self.ask()
        self.clock.advance(0.8)
        self.assertIsNone(self.successResultOf(slow))
        self.clock.advance(12)
        late = self.ask()
        self.clock.advance(0.8)
        self.assert_error(late, "the cluster has not answered the check yet")
        second = self.ask()
        self.assertEqual(len(self.checks), 2)
        self.checks[1].errback(SlurmUnavailableError("away"))
        self.assert_error(second, "away")
        self.clock.advance(2)
        third = self.ask()
        self.clock.advance(0.8)
        self.assert_error(third, "away")

    def test_first_check(self) -> None:
        """Before the first check has ended, on each link, nothing is ready."""
        for check in range(2):
            first = self.ask()
            self.clock.advance(0.8)
            self.assert_error(first, "the cluster has not answered the first check yet")
            self.checks[check].callback(None)
            self.assertIsNone(self.successResultOf(self.ask()))
            self.reason = "lost"
            self.assert_error(self.ask(), "lost")
            self.reason = None

    def test_left(self) -> None:
        """A probe that goes away takes nothing from the others."""
        first, second = self.ask(), self.ask()
        first.addErrback(lambda _: None)
        first.cancel()
        self.checks[0].callback(None)
        self.assertIsNone(self.successResultOf(second))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_other_link(self) -> None:
        """What was found before the link was lost says nothing about the next link."""
        asked = self.ask()
        self.checks[0].errback(SlurmUnavailableError("away"))
        self.assert_error(asked, "away")
        self.reason = "lost"
        self.assert_error(self.ask(), "lost")
        self.reason = None
        asked = self.ask()
        self.checks[1].callback(None)
        self.assertIsNone(self.successResultOf(asked))

    def test_fault_of_ours(self) -> None:
        """A fault of our own is no reason to be taken out of service; the log has it."""
        with self.assertLogs("jarvice_slurmd.web.readiness", logging.ERROR) as logs:
            asked = self.ask()
            self.checks[0].errback(ZeroDivisionError("ours"))
            self.assertIsNone(self.successResultOf(asked))
        self.assertIn("ZeroDivisionError: ours", logs.output[0])
