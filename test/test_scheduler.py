"""The use cases, of status and end, against a scripted login node and a clock."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from jarvice_slurmd.errors import (
    CommandTimedOutError,
    JobStillRunningError,
    LinkLostError,
    NotConnectedError,
    SlurmOutputError,
    SlurmUnavailableError,
    StorageError,
)
from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.jobs.model import ExitReport, JobRef, RunStatus
from jarvice_slurmd.scheduler import EXIT_LINES
from jarvice_slurmd.slurm.states import parse_state
from test.fakes import ScriptedShell
from test.scheduler_case import SchedulerTestCase

_REF = JobRef(name="x", number=7, jobid="41")
_NO_RECORDS = b"name=\nstart=\nexit=\ncancelled=\nanswer=\nsacct=0 \noutput\n"


class StatusTests(SchedulerTestCase):
    """`running`, `queued` and `run_status`."""

    def test_lists(self) -> None:
        """Each job stands where its state belongs; others' and ended ones nowhere."""
        self.set_queue(
            "1|R|0:01|n1|None|jarvice_a",
            "2|PD|0:00||Priority|jarvice_b",
            "3|CD|0:01|n1|None|jarvice_c",
            "4|R|0:01|n1|None|other",
            "5|NEW|0:01|n1|None|jarvice_d",
        )
        self.assertEqual([job.jobid for job in self.result(self.scheduler.running())], ["1"])
        self.assertEqual([job.jobid for job in self.result(self.scheduler.queued())], ["2"])

    def test_run_status(self) -> None:
        """Nodes and seconds."""
        self.set_queue("41|R|1:01|n[1-2]|None|jarvice_x")
        self.assertEqual(
            self.result(self.scheduler.run_status(_REF)), RunStatus(nodes=("n1", "n2"), elapsed=61)
        )

    def test_waiting(self) -> None:
        """A job that waits has no nodes yet, but is known."""
        self.set_queue("41|PD|0:00||Priority|jarvice_x")
        self.assertEqual(
            self.result(self.scheduler.run_status(_REF)), RunStatus(nodes=(), elapsed=0)
        )

    def test_gone_after_two_answers(self) -> None:
        """One squeue that lacks a job is not believed; a second one, later, is."""
        asked = Deferred.fromCoroutine(self.scheduler.run_status(_REF))
        self.assertNoResult(asked)
        self.assertEqual(len(self.shell.asked("squeue")), 1)
        self.clock.advance(1)
        self.assertIsNone(self.successResultOf(asked))
        self.assertEqual(len(self.shell.asked("squeue")), 2)

    def test_doubted(self) -> None:
        """Where nothing says that it has ended Slurm is asked for the job itself."""
        for said, kind in (
            (b"slurm=1 slurm_load_jobs error: Invalid job id specified\n", None),
            (b"slurm=0\n", SlurmUnavailableError),
            (b"slurm=1 Unable to contact slurm controller\n", SlurmUnavailableError),
        ):
            self.shell.answer("scontrol -o show job", said)
            if kind is None:
                self.assertIsNone(self.result(self.scheduler.run_status(_REF)))
            else:
                self.error(self.scheduler.run_status(_REF), kind)

    def test_missed_by_one(self) -> None:
        """A job that one squeue missed is still there."""
        asked = Deferred.fromCoroutine(self.scheduler.run_status(_REF))
        self.shell.answer("exec squeue", b"41|R|0:01|n1|None|jarvice_x\n")
        self.clock.advance(1)
        self.assertIsNotNone(self.successResultOf(asked))

    def test_second_question_fails(self) -> None:
        """Then nothing is concluded."""
        asked = Deferred.fromCoroutine(self.scheduler.run_status(_REF))
        self.shell.answer("exec squeue", LinkLostError("lost"))
        self.clock.advance(1)
        self.failureResultOf(asked, LinkLostError)

    def test_gone_for_long(self) -> None:
        """Asked about again, a job that is gone costs no wait."""
        self.result(self.scheduler.run_status(_REF))
        self.clock.advance(5)
        asked = Deferred.fromCoroutine(self.scheduler.run_status(_REF))
        self.clock.advance(0)
        self.assertIsNone(self.successResultOf(asked))

    def test_other_name(self) -> None:
        """A job id that belongs to another job is no job of that name."""
        self.set_queue("41|R|0:01|n1|None|jarvice_y")
        self.assertIsNone(self.result(self.scheduler.run_status(_REF)))

    def test_nonsense_nodes(self) -> None:
        """Host lists that can't be read are an error, not no nodes."""
        self.set_queue("41|R|0:01|n[1|None|jarvice_x")
        self.error(self.scheduler.run_status(_REF), SlurmOutputError)


class ExitTests(SchedulerTestCase):
    """`exit_status`."""

    def setUp(self) -> None:
        super().setUp()
        self.shell.answer("for record", _NO_RECORDS + b"the output\n")
        self.shell.answer(">.answer", b"")

    def test_too_early(self) -> None:
        """While it waits, runs, is ending, or is in a state that nobody knows."""
        for state in ("PD", "R", "CG", "NEW"):
            self.set_queue(f"41|{state}|0:01|n1|None|jarvice_x")
            self.error(self.scheduler.exit_status(_REF), JobStillRunningError)
        self.assertEqual(self.shell.asked("for record"), [])

    def test_ended(self) -> None:
        """The queue's verdict, the output's end, and a note that it was answered."""
        self.set_queue("41|TO|1:00|n1|TimeLimit|jarvice_x")
        report = self.result(self.scheduler.exit_status(_REF))
        self.assertEqual(
            report, ExitReport(state=parse_state("TIMEOUT"), elapsed=60, output=b"the output\n")
        )
        (note,) = self.shell.asked(">.answer")
        self.assertIn("TIMEOUT 60", note.script.replace("'%s %s\\n' ", ""))
        (look,) = self.shell.asked("for record")
        self.assertNotIn("sacct -", look.script)
        self.assertIn(f"tail -n {EXIT_LINES}", look.script)
        self.assertIn(f"tail -c {self.settings.output_bytes}", look.script)
        self.assertGreater(look.max_output or 0, self.settings.output_bytes)

    def test_forgotten(self) -> None:
        """A job that Slurm has forgotten is judged by what it left; accounting is asked."""
        self.shell.answer(
            "for record",
            b"name=x\nstart=5\nexit=FAILED 3 10 70\ncancelled=\nanswer=\nsacct=0 \noutput\nout",
        )
        report = self.result(self.scheduler.exit_status(_REF))
        self.assertEqual(report, ExitReport(state=parse_state("FAILED"), elapsed=60, output=b"out"))
        self.assertIn("sacct -", self.shell.asked("for record")[0].script)

    def test_unknown(self) -> None:
        """A job nobody knows is None, and nothing is noted of it."""
        self.assertIsNone(self.result(self.scheduler.exit_status(_REF)))
        self.assertEqual(self.shell.asked(">.answer"), [])

    def test_note_fails(self) -> None:
        """The answer is true all the same."""
        self.shell.answer(">.answer", LinkLostError("lost"))
        self.set_queue("41|CD|1:00|n1|None|jarvice_x")
        with self.assertLogs("jarvice_slurmd.scheduler", "WARNING"):
            self.assertIsNotNone(self.result(self.scheduler.exit_status(_REF)))

    def test_outages(self) -> None:
        """No outage is an answer, least of all "unknown"."""
        for word, outcome, kind in (
            ("exec squeue", NotConnectedError("away"), NotConnectedError),
            ("for record", LinkLostError("lost"), LinkLostError),
            ("for record", CommandTimedOutError("late"), CommandTimedOutError),
            ("for record", CommandResult(status=74, stdout=b"", stderr=b""), StorageError),
            ("for record", b"name=\nstart=", SlurmOutputError),
            ("for record", _NO_RECORDS.replace(b"sacct=0 ", b"sacct=1 x"), SlurmUnavailableError),
        ):
            scheduler, self.shell = self.scheduler, ScriptedShell()
            self.shell.answer("exec squeue", b"")
            self.shell.answer("for record", _NO_RECORDS)
            self.shell.answer(word, outcome)
            self.error(self.make_scheduler().exit_status(_REF), kind)
            self.scheduler = scheduler
            self.assertEqual(self.shell.asked(">.answer"), [])
