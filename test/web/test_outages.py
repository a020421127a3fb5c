"""An outage in the log: once as it begins, once as it is over."""

from __future__ import annotations

import logging

from twisted.internet.defer import Deferred

from jarvice_slurmd import errors
from jarvice_slurmd.web.outages import QUIET_SECONDS
from test.web.caller import ApiTestCase
from test.web.questions import REF


class OutageTests(ApiTestCase):
    """What the endpoints' failures leave in the log."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        log = logging.getLogger("jarvice_slurmd.web.outages")
        log.addHandler(handler)
        self.addCleanup(log.removeHandler, handler)

    def ask(self) -> None:
        """Four endpoints, as upstream asks them."""
        self.get("/running")
        self.get("/queued")
        self.post("/runstatus", REF)
        self.post("/terminate", REF)

    def test_told_twice(self) -> None:
        """Once with the reason, once with how long it took, however often it was met."""
        for kind, what in (
            (errors.SlurmUnavailableError, "Slurm"),
            (errors.StorageError, "The cluster's storage"),
            (errors.CommandTimedOutError, "The cluster"),
            (errors.LoginShellError, "The login shell"),
        ):
            self.lines.clear()
            self.scheduler.error = kind("why")
            for _ in range(5):
                self.ask()
                self.clock.advance(5)
            (told,) = self.lines
            self.assertRegex(told, r"GET /running: 50[34] why \(told once")
            self.scheduler.error = None
            self.ask()
            self.assertEqual(self.lines, [told])
            self.clock.advance(QUIET_SECONDS)
            self.ask()
            over = f"{what} works again after 25 s, says GET /running"
            self.assertEqual(self.lines, [told, over])

    def test_one_jobs_trouble(self) -> None:
        """While one job's question fails and others' are answered, nothing works again."""
        for _ in range(10):
            self.scheduler.error = errors.SlurmUnavailableError("of this job")
            self.post("/runstatus", REF)
            self.scheduler.error = None
            self.post("/runstatus", {**REF, "jobid": "99"})
            self.clock.advance(5)
        self.assertEqual(len(self.lines), 1)
        for _ in range(3):
            self.post("/runstatus", {**REF, "jobid": "99"})
            self.clock.advance(5)
        over = "Slurm works again after 45 s, says POST /runstatus"
        self.assertEqual(self.lines[1:], [over])

    def test_too_late(self) -> None:
        """A cluster that lets callers wait too long is an outage too."""
        connection = self.connect()
        hold: Deferred[None] = Deferred()
        self.scheduler.hold = hold
        connection.request("GET", "/running")
        self.clock.pump([6] * 4)
        self.assertTrue(hold.called)
        self.assertEqual(len(self.lines), 1)
        self.assertIn("did not answer within 24 s", self.lines[0])

    def test_over_is_over_where_it_was(self) -> None:
        """An endpoint that never failed, and one that refuses arguments, say nothing about it."""
        self.scheduler.error = errors.StorageError("full")
        self.post("/exitstatus", REF)
        self.scheduler.error = None
        self.get("/running")
        self.post("/exitstatus", {})
        self.assertEqual(len(self.lines), 1)
        self.scheduler.error = errors.JobStillRunningError("runs")
        self.post("/exitstatus", REF)
        self.clock.advance(QUIET_SECONDS)
        self.get("/running")
        over = "The cluster's storage works again after 0 s, says POST /exitstatus"
        self.assertEqual(self.lines[1], over)

    def test_two_at_once(self) -> None:
        """Two outages are told apart."""
        self.scheduler.error = errors.StorageError("full")
        self.post("/exitstatus", REF)
        self.scheduler.error = errors.SlurmUnavailableError("away")
        self.get("/running")
        self.scheduler.error = None
        self.get("/running")
        self.post("/exitstatus", REF)
        self.clock.advance(QUIET_SECONDS)
        self.get("/queued")
        begun = [line.split(":")[0] for line in self.lines[:2]]
        self.assertEqual(begun, ["POST /exitstatus", "GET /running"])
        self.assertEqual(len(self.lines), 4)

    def test_refusals(self) -> None:
        """What Slurm refuses is told each time; what upstream asked wrongly, or a lost link, never.

        The link tells its loss itself.
        """
        self.scheduler.error = errors.SlurmRefusedError("no such partition")
        self.get("/running")
        self.get("/running")
        self.assertEqual(self.lines, ["GET /running: 502 no such partition"] * 2)
        for kind in (errors.NotConnectedError, errors.LinkLostError, errors.UnknownJobError):
            self.scheduler.error = kind("x")
            self.get("/running")
        self.post("/runstatus", {})
        self.assertEqual(len(self.lines), 2)

    def test_one_name_for_all_jobs(self) -> None:
        """A request below /request is named by its method, not by its job."""
        self.scheduler.error = errors.StorageError("full")
        self.post("/request/a/1/2/tail", {})
        self.scheduler.error = None
        self.post("/request/b/3/4/shutdown", {})
        self.assertEqual(len(self.lines), 1)
        self.scheduler.error = errors.NoOutputError("none")
        self.post("/request/b/3/4/tail", {})
        self.clock.advance(QUIET_SECONDS)
        self.get("/running")
        over = "The cluster's storage works again after 0 s, says POST /request/…/tail"
        self.assertEqual(self.lines[1], over)

    def test_asked_before(self) -> None:
        """What was asked before an outage was over, and fails after, begins no other."""
        connection = self.connect()
        hold: Deferred[None] = Deferred()
        self.scheduler.error = errors.SlurmUnavailableError("away")
        self.get("/running")
        self.scheduler.hold = hold
        connection.request("GET", "/queued")
        self.clock.advance(1)
        self.scheduler.hold = self.scheduler.error = None
        self.get("/running")
        self.clock.advance(QUIET_SECONDS)
        self.get("/running")
        self.assertEqual(len(self.lines), 2)
        self.scheduler.error = errors.SlurmUnavailableError("away")
        hold.callback(None)
        self.assertEqual(len(self.lines), 2)
        self.get("/running")
        self.assertEqual(len(self.lines), 3)

    def test_probes(self) -> None:
        """GET /ready and GET /gc answer by themselves when the cluster does not; it is told too."""
        self.scheduler.error = errors.SlurmUnavailableError("away")
        for path in ("/ready", "/gc", "/ready"):
            self.get(path)
        self.assertEqual(self.lines, ["GET /ready: 503 away (told once until it is over)"])
        self.scheduler.error = None
        self.clock.advance(3)
        self.get("/ready")
        self.clock.advance(QUIET_SECONDS)
        self.get("/ready")
        self.assertEqual(self.lines[1:], ["Slurm works again after 3 s, says GET /ready"])
