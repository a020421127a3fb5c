"""The use cases that send a command, against a scripted login node and a clock."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from jarvice_slurmd.errors import (
    CommandTimedOutError,
    InvalidArgumentsError,
    JarviceSlurmdError,
    LinkLostError,
    NoOutputError,
    NotConnectedError,
    NotListableError,
    SlurmOutputError,
    SlurmRefusedError,
    SlurmUnavailableError,
    StorageError,
    UnknownJobError,
)
from jarvice_slurmd.interfaces import CommandResult, IScheduler
from jarvice_slurmd.jobs.model import JobRef, JobSummary, Submission
from jarvice_slurmd.slurm.commands import Status
from test.fakes import SETTINGS
from test.scheduler_case import SchedulerTestCase

_REF = JobRef(name="x", number=7, jobid="41")
_JOB = Submission(name="x", number=7, nodes=1, content="JOBOBJ_INTERACTIVE=False\necho é \udcff\n")


class SubmitTests(SchedulerTestCase):
    """`submit`."""

    def test_interface(self) -> None:
        """It provides what `web` asks for."""
        self.assertTrue(verifyObject(IScheduler, self.scheduler))

    def test_one_round_trip(self) -> None:
        """One command; its stdin is the nodes' script, byte for byte, and what ends it."""
        self.shell.answer("sbatch", b"41\n")
        self.assertEqual(self.result(self.scheduler.submit(_JOB)).jobid, "41")
        (command,) = self.shell.commands
        node = "JOBOBJ_INTERACTIVE=False\necho é \udcff\n".encode("utf-8", "surrogateescape")
        self.assertTrue(command.stdin.startswith(node))
        self.assertRegex(command.stdin[len(node) :], rb"\A[0-9a-f]{16}\n\Z")
        self.assertIn("#!/bin/bash\n", command.script)

    def test_secrets_stay_out_of_the_script(self) -> None:
        """What may hold passwords is on stdin alone, never in what a shell or a program is told."""
        self.shell.answer("sbatch", b"41\n")
        secret = "JARVICE_SOMETHING=pass4word"
        job = evolve(_JOB, content=f"JOBOBJ_INTERACTIVE=False\n{secret}\n")
        self.result(self.scheduler.submit(job))
        (command,) = self.shell.commands
        self.assertIn(secret.encode(), command.stdin)
        self.assertNotIn("pass4word", command.script)

    def test_visible_at_once(self) -> None:
        """/queued knows it before squeue does."""
        self.shell.answer("sbatch", b"41\n")
        self.set_queue("40|R|0:01|n1|None|jarvice_w")
        asked = Deferred.fromCoroutine(self.scheduler.running())
        self.clock.advance(0)
        self.successResultOf(asked)
        self.successResultOf(Deferred.fromCoroutine(self.scheduler.submit(_JOB)))
        queued = self.successResultOf(Deferred.fromCoroutine(self.scheduler.queued()))
        self.assertEqual(list(queued), [JobSummary(name="x", jobid="41")])

    def test_refused_before_anything_runs(self) -> None:
        """What is wrong with the text is told without asking the login node."""
        for text in ("echo\n", "JOBOBJ_INTERACTIVE=False\nJOBOBJ_DEVICES=x\n"):
            self.error(self.scheduler.submit(evolve(_JOB, content=text)), InvalidArgumentsError)
        self.assertEqual(self.shell.commands, [])

    def test_refused(self) -> None:
        """Slurm's no is told in its words, and what waited for the job is removed."""
        self.shell.answer("rm -f intent", b"")
        self.shell.refuse("&& sbatch", 1, b"sbatch: error: invalid partition specified: nope")
        words = self.error(self.scheduler.submit(_JOB), SlurmRefusedError)
        self.assertIn("invalid partition specified: nope", words)
        self.assertEqual(len(self.shell.asked("rm -f intent")), 1)

    def test_refused_and_lost(self) -> None:
        """Where even that can't be removed, Slurm's words are still the answer."""
        self.shell.answer("rm -f intent", NotConnectedError("gone"))
        self.shell.refuse("&& sbatch", 1, b"sbatch: error: no")
        with self.assertLogs("jarvice_slurmd.scheduler", "WARNING"):
            self.error(self.scheduler.submit(_JOB), SlurmRefusedError)

    def test_outcome_unknown(self) -> None:
        """Where sbatch may have submitted, what leads to the job is kept."""
        for outcome, kind in (
            (
                CommandResult(status=1, stdout=b"", stderr=b"Socket timed out"),
                SlurmUnavailableError,
            ),
            (CommandResult(status=Status.NO_ANSWER, stdout=b"", stderr=b""), SlurmUnavailableError),
            (CommandResult(status=Status.NO_FOLDER, stdout=b"", stderr=b""), StorageError),
            (CommandResult(status=Status.LOCKED, stdout=b"", stderr=b""), SlurmUnavailableError),
            (CommandResult(status=143, stdout=b"", stderr=b""), JarviceSlurmdError),
            (CommandResult(status=124, stdout=b"", stderr=b""), JarviceSlurmdError),
            (LinkLostError("lost"), LinkLostError),
            (CommandTimedOutError("late"), CommandTimedOutError),
            (NotConnectedError("away"), NotConnectedError),
        ):
            self.shell.answer("&& sbatch", outcome)
            self.error(self.scheduler.submit(_JOB), kind)
        self.assertEqual(self.shell.asked("rm -f intent"), [])
        self.assertEqual(len(self.shell.commands), 9)

    def test_other_job_of_that_name(self) -> None:
        """Told as a fault of the question."""
        self.shell.refuse("sbatch", Status.OTHER_JOB, b"a job of this name was submitted before")
        words = self.error(self.scheduler.submit(_JOB), InvalidArgumentsError)
        self.assertEqual(words, "a job of this name was submitted before")

    def test_no_job_id(self) -> None:
        """What is no job id is not answered as one."""
        self.shell.answer("sbatch", b"Submitted batch job\n")
        self.error(self.scheduler.submit(_JOB), SlurmOutputError)


class ChangeTests(SchedulerTestCase):
    """`terminate`, `release`, `events`."""

    def test_terminate(self) -> None:
        """One scancel; with force the step is killed too."""
        self.shell.answer("scancel", b"")
        self.set_queue("41|R|0:01|n1|None|jarvice_x")
        self.result(self.scheduler.terminate(_REF, force=False))
        self.result(self.scheduler.terminate(_REF, force=True))
        gently, at_once = self.shell.asked("exec scancel")
        self.assertNotIn("KILL", gently.script)
        self.assertIn("KILL", at_once.script)

    def test_terminate_ended(self) -> None:
        """A job that has ended is not cancelled."""
        self.set_queue("41|CD|0:01|n1|None|jarvice_x")
        self.result(self.scheduler.terminate(_REF, force=True))
        self.assertEqual(self.shell.asked("scancel"), [])

    def test_terminate_unknown(self) -> None:
        """A job that Slurm does not know has ended; that is no error, other refusals are."""
        self.shell.refuse("scancel", 1, b"scancel: error: Invalid job id specified")
        self.result(self.scheduler.terminate(_REF, force=False))
        self.shell.refuse("scancel", 1, b"scancel: error: Access/permission denied")
        self.error(self.scheduler.terminate(_REF, force=False), SlurmRefusedError)
        self.shell.refuse("scancel", 1, b"Unable to contact slurm controller")
        self.error(self.scheduler.terminate(_REF, force=False), SlurmUnavailableError)

    def test_only_ours(self) -> None:
        """A job that is not ours, or has another name, is neither released nor shown."""
        for line in ("41|PD|0:00||None|someone", "41|PD|0:00||None|jarvice_y"):
            self.set_queue(line)
            self.error(self.scheduler.release(_REF), UnknownJobError)
            self.error(self.scheduler.events(_REF), UnknownJobError)
        self.assertEqual(self.shell.asked("exec scontrol"), [])

    def test_missing_from_the_queue(self) -> None:
        """A job that the queue does not list, and that Slurm knows, is released and shown."""
        self.shell.answer("scontrol -o show job", b"slurm=0\n")
        self.shell.answer("exec scontrol", b"JobId=41\n")
        self.result(self.scheduler.release(_REF))
        self.assertEqual(self.result(self.scheduler.events(_REF)), "JobId=41\n")
        self.shell.answer("scontrol -o show job", b"slurm=1 Unable to contact slurm controller\n")
        self.error(self.scheduler.release(_REF), SlurmUnavailableError)
        self.error(self.scheduler.events(_REF), SlurmUnavailableError)

    def test_ours(self) -> None:
        """scontrol's words come back, undecodable bytes replaced; its no is told."""
        self.set_queue("41|PD|0:00||None|jarvice_x")
        self.shell.answer("scontrol", b"JobId=41 \xff\n")
        self.assertEqual(self.result(self.scheduler.events(_REF)), "JobId=41 \ufffd\n")
        self.result(self.scheduler.release(_REF))
        self.shell.refuse("scontrol", 1, b"Job is no longer pending execution")
        self.error(self.scheduler.release(_REF), SlurmRefusedError)


class FolderTests(SchedulerTestCase):
    """`tail`, `list_folder`, `collect_garbage`."""

    def test_tail(self) -> None:
        """Bytes as they are; none yet is an error of its own."""
        self.shell.answer(".out", b"\xff\n")
        self.assertEqual(self.result(self.scheduler.tail(_REF, 5)), b"\xff\n")
        self.shell.refuse(".out", Status.NO_OUTPUT)
        self.error(self.scheduler.tail(_REF, 5), NoOutputError)
        self.shell.refuse(".out", Status.NO_FOLDER)
        self.error(self.scheduler.tail(_REF, 5), StorageError)

    def test_list_folder(self) -> None:
        """The reason why it can't be listed is the shell's."""
        self.shell.answer("find", b"/data/a/b\n")
        listed = self.result(self.scheduler.list_folder("/a", details=False))
        self.assertEqual(listed, b"/data/a/b\n")
        self.shell.refuse("find", Status.NOT_LISTABLE, b"can't cd to /a")
        words = self.error(self.scheduler.list_folder("/a", details=False), NotListableError)
        self.assertEqual(words, "can't cd to /a")

    def test_folders_that_may_be_listed(self) -> None:
        """Where some are configured, only those and what is in them."""
        self.settings = evolve(SETTINGS, pvcls_folders=("/data", "/home/x/"))
        scheduler = self.make_scheduler()
        self.shell.answer("find", b"")
        for path in ("/data", "/data/", "/data/a/b", "/home/x", "/home/x/y"):
            self.result(scheduler.list_folder(path, details=False))
        for path in ("/", "/database", "/home", "/home/xy", "/etc"):
            self.error(scheduler.list_folder(path, details=False), NotListableError)
        self.assertEqual(len(self.shell.commands), 5)

    def test_collect_garbage(self) -> None:
        """It is one command, and says when it did not run."""
        self.shell.answer("drop_job()", b"")
        self.result(self.scheduler.collect_garbage())
        self.shell.answer("drop_job()", NotConnectedError("away"))
        self.error(self.scheduler.collect_garbage(), NotConnectedError)

    def test_collect_garbage_once(self) -> None:
        """However many ask: one command at a time, and its outcome is everybody's."""
        pending: Deferred[CommandResult] = Deferred()
        self.shell.answer("drop_job()", pending)
        asked = [Deferred.fromCoroutine(self.scheduler.collect_garbage()) for _ in range(5)]
        asked[0].addErrback(lambda failure: failure.trap(CancelledError))
        asked[0].cancel()
        self.assertEqual(len(self.shell.commands), 1)
        pending.callback(CommandResult(status=0, stdout=b"more\n", stderr=b""))
        self.assertEqual([self.successResultOf(one) for one in asked[1:]], [True] * 4)
        self.shell.answer("drop_job()", b"")
        self.assertFalse(self.result(self.scheduler.collect_garbage()))

    def test_cancelled(self) -> None:
        """A caller that goes away ends the command."""
        ended: list[object] = []
        pending: Deferred[CommandResult] = Deferred(ended.append)
        self.shell.answer(".out", pending)
        asked = Deferred.fromCoroutine(self.scheduler.tail(_REF, 5))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(ended, [pending])
