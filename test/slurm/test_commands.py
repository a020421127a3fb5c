"""The scripts that ask about jobs and change them, in a real shell with stubs for Slurm."""

from __future__ import annotations

import os
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import (
    InvalidArgumentsError,
    SlurmRefusedError,
    SlurmUnavailableError,
)
from jarvice_slurmd.slurm.commands import (
    RECORDS,
    Status,
    render_cancel,
    render_doubt,
    render_events,
    render_mark_answered,
    render_post_mortem,
    render_queue,
    render_release,
    render_root,
    render_tail,
)
from jarvice_slurmd.slurm.garbage import render_collect_garbage
from jarvice_slurmd.slurm.listing import render_list_folder
from jarvice_slurmd.slurm.output import PostMortem, parse_doubt, parse_post_mortem
from jarvice_slurmd.slurm.states import parse_state
from jarvice_slurmd.slurm.submission import render_forget_submission, render_submit
from test.slurm.sandbox import Sandbox

_ROOT = render_root(None)

#: What must never be part of a command line, though someone may send it as a job id.
_NO_JOB_IDS = (
    "",
    "1; id",
    "$(id)",
    "../..",
    "-1",
    "--signal=KILL",
    "1 2",
    "1\n2",
    "*",
    "1'2",
    "1/2",
)


class LoginNodeTestCase(SynchronousTestCase):
    """A login node whose Slurm commands say nothing."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)
        for name in ("squeue", "scancel", "scontrol", "sacct"):
            self.node.stub(name)


class QuestionTests(LoginNodeTestCase):
    """`render_queue`, `render_release` and `render_events`."""

    def test_queue(self) -> None:
        """All states, of this user alone, one record a line, whatever the user has set."""
        self.node.stub("squeue", 'echo "${SQUEUE_STATES-unset} ${SQUEUE_SORT-unset}"; exit 3')
        result = self.node.run(f"export SQUEUE_STATES=R SQUEUE_SORT=i\n{render_queue()}")
        self.assertEqual((result.status, result.stdout), (3, b"unset unset\n"))
        user = subprocess.run(["id", "-un"], capture_output=True, check=True, text=True)
        self.assertEqual(
            self.node.calls("squeue"),
            [
                [
                    "--noheader",
                    "--states=all",
                    f"--user={user.stdout.strip()}",
                    "--format=%i|%t|%M|%N|%r|%j",
                ]
            ],
        )

    def test_release_and_events(self) -> None:
        """The job id is scontrol's last argument; its status and words come through."""
        self.node.stub("scontrol", "echo out; echo err >&2; exit 5")
        for script in (render_release(jobid="12_3"), render_events(jobid="12_3")):
            result = self.node.run(script)
            self.assertEqual((result.status, result.stdout, result.stderr), (5, b"out\n", b"err\n"))
        self.assertEqual(
            self.node.calls("scontrol"), [["release", "12_3"], ["show", "job", "12_3"]]
        )

    def test_no_job_ids(self) -> None:
        """What is not Slurm's form never becomes text for a shell."""
        for jobid in _NO_JOB_IDS:
            for render in (
                lambda jobid: render_release(jobid=jobid),
                lambda jobid: render_events(jobid=jobid),
                lambda jobid: render_cancel(root=_ROOT, name="x", jobid=jobid, force=True),
                lambda jobid: render_cancel(root=_ROOT, name="x", jobid=jobid, force=False),
                lambda jobid: render_mark_answered(
                    root=_ROOT, name="x", jobid=jobid, state="FAILED", elapsed=0
                ),
                lambda jobid: render_post_mortem(
                    root=_ROOT, name="x", jobid=jobid, lines=1, limit=1, accounting=False
                ),
            ):
                with self.assertRaises(InvalidArgumentsError, msg=jobid):
                    render(jobid)


class CancelTests(LoginNodeTestCase):
    """`render_cancel`."""

    def cancel(self, name: str = "x", *, force: bool = False) -> int:
        return self.node.run(render_cancel(root=_ROOT, name=name, jobid="41", force=force)).status

    def test_gently(self) -> None:
        """One scancel, by id, name and user: the name's prefix keeps others' jobs safe."""
        self.assertEqual(self.cancel(), 0)
        ((user, name, jobid),) = self.node.calls("scancel")
        self.assertTrue(user.startswith("--user="))
        self.assertEqual((name, jobid), ("--name=jarvice_x", "41"))

    def test_at_once(self) -> None:
        """The step is killed first, so that nothing waits for KillWait."""
        self.assertEqual(self.cancel(force=True), 0)
        first, second = self.node.calls("scancel")
        self.assertIn("--signal=KILL", first)
        self.assertEqual((first[-1], second[-1]), ("41.0", "41"))

    def test_step_not_there(self) -> None:
        """A job that has no step yet is cancelled all the same."""
        self.node.stub("scancel", 'case "$*" in *41.0) exit 1;; esac')
        self.assertEqual(self.cancel(force=True), 0)

    def test_refused(self) -> None:
        """scancel's status and words come through."""
        self.node.stub("scancel", "echo 'Access denied' >&2; exit 1")
        self.assertEqual(self.cancel(), 1)

    def test_noted(self) -> None:
        """A job of ours has a note of when, before Slurm is asked: a retry finds it."""
        self.node.write("submit/x/jobid", "41\n")
        note = self.node.root / "jobs" / "41" / "cancelled"
        self.node.stub("scancel", f"cat '{note}' >&2")
        result = self.node.run(render_cancel(root=_ROOT, name="x", jobid="41", force=False))
        self.assertRegex(result.stderr.decode(), r"^\d{10}\n$")
        self.assertEqual((note.parent / "name").read_text(), "x\n")

    def test_no_file_to_note_in(self) -> None:
        """A job that put FIFOs where its notes belong can be cancelled, and has its note."""
        folder = self.node.write("submit/x/jobid", "41\n").parent.parent.parent / "jobs" / "41"
        folder.mkdir(parents=True)
        for record in ("name", "cancelled"):
            os.mkfifo(folder / record)
        self.assertEqual(self.cancel(), 0)
        self.assertEqual(len(self.node.calls("scancel")), 1)
        self.assertRegex((folder / "cancelled").read_text(), r"^\d{10}\n$")

    def test_note_of_a_running_job(self) -> None:
        """So has one whose folder says its name."""
        self.node.write("jobs/41/name", "x\n")
        self.cancel()
        self.assertIn("jobs/41/cancelled", self.node.files())

    def test_other_jobs_folder(self) -> None:
        """A question with the wrong name changes nothing in another job's folder."""
        self.node.write("jobs/41/name", "y\n")
        self.node.write("submit/y/jobid", "41\n")
        before = self.node.files()
        self.assertEqual(self.cancel("x"), 0)
        self.assertEqual(self.node.files(), before)
        self.assertEqual((self.node.root / "jobs/41/name").read_text(), "y\n")

    def test_id_given_again(self) -> None:
        """What an earlier job of that id left goes, before this one's note is made."""
        for record in ("answer", "exit", "start"):
            self.node.write(f"jobs/41/{record}", "1\n")
        self.node.write("jobs/41/name", "y\n")
        self.node.write("submit/x/jobid", "41\n")
        self.assertEqual(self.cancel(), 0)
        self.assertEqual(self.node.files(), {"jobs/41/name", "jobs/41/cancelled", "submit/x/jobid"})
        self.assertEqual((self.node.root / "jobs/41/name").read_text(), "x\n")

    def test_unknown_job(self) -> None:
        """Of a job that was never submitted nothing is noted: it stays unknown."""
        self.cancel()
        self.assertEqual(self.node.files(), set())

    def test_storage_refuses(self) -> None:
        """A full home does not keep a job from being cancelled."""
        self.node.write("submit/x/jobid", "41\n")
        self.node.write("jobs", "")
        self.assertEqual(self.cancel(), 0)
        self.assertEqual(len(self.node.calls("scancel")), 1)


class PostMortemTests(LoginNodeTestCase):
    """`render_post_mortem` and `render_mark_answered`, as their reader sees them."""

    def look(self, *, accounting: bool = False, limit: int = 1000, lines: int = 10) -> PostMortem:
        script = render_post_mortem(
            root=_ROOT, name="x", jobid="41", lines=lines, limit=limit, accounting=accounting
        )
        result = self.node.run(script)
        self.assertEqual((result.status, result.stderr), (0, b""))
        return parse_post_mortem(result.stdout)

    def mark(self, state: str = "FAILED", elapsed: int = 9) -> int:
        script = render_mark_answered(
            root=_ROOT, name="x", jobid="41", state=state, elapsed=elapsed
        )
        return self.node.run(script).status

    def test_nothing(self) -> None:
        """No folder yet: nothing is known, and nothing is made."""
        found = self.look()
        self.assertEqual((found.name, found.exit, found.output), (None, None, b""))
        self.assertFalse(self.node.root.exists())

    def test_everything(self) -> None:
        """What batch.sh leaves is found."""
        for name, text in {
            "name": "x\n",
            "start": "100\n",
            "exit": "FAILED 3 100 160\n",
            "cancelled": "150\n",
        }.items():
            self.node.write(f"jobs/41/{name}", text)
        self.node.write("x.out", "one\ntwo\n")
        found = self.look(lines=1)
        self.assertEqual((found.name, found.start, found.cancelled), ("x", 100, 150))
        self.assertEqual(found.exit, (parse_state("FAILED"), 3, 100, 160))
        self.assertEqual((found.output, found.answer), (b"two\n", None))

    def test_marked(self) -> None:
        """The first answer stays the answer."""
        self.assertEqual((self.mark(), self.mark("COMPLETED", 5)), (0, 0))
        self.assertEqual(self.look().answer, (parse_state("FAILED"), 9))
        self.assertEqual(self.look().name, "x")

    def test_id_given_again(self) -> None:
        """What an earlier job of that id left does not answer for this one."""
        for record, text in {"name": "y\n", "answer": "COMPLETED 5\n", "exit": "x"}.items():
            self.node.write(f"jobs/41/{record}", text)
        self.assertEqual(self.mark(), 0)
        found = self.look()
        self.assertEqual((found.name, found.answer), ("x", (parse_state("FAILED"), 9)))
        self.assertIsNone(found.exit)

    def assert_unreadable(self) -> None:
        """An answer that says so, and not one that there is nothing."""
        for accounting in (False, True):
            script = render_post_mortem(
                root=_ROOT, name="x", jobid="41", lines=5, limit=50, accounting=accounting
            )
            self.assertEqual(self.node.run(script).status, Status.NO_FOLDER)

    def test_output_cannot_be_read(self) -> None:
        """An I/O error while the output is read is no empty output."""
        self.node.write("jobs/41/name", "x\n")
        self.node.write("x.out", "all that there is\n")
        self.node.stub(
            "tail", 'case $1 in -c) echo part; echo "Input/output error" >&2; exit 1 ;; esac; cat'
        )
        self.assert_unreadable()
        for lines in (0, 5):
            script = render_tail(root=_ROOT, name="x", lines=lines, limit=50)
            self.assertEqual(self.node.run(script).status, Status.NO_FOLDER)

    def test_record_cannot_be_read(self) -> None:
        """Nor is a record that can't be read one that is not there."""
        self.node.write("submit/x/jobid", "41\n")
        for record in RECORDS:
            self.node.write(f"jobs/41/{record}", "x\n")
        self.node.stub("head", 'echo "Stale file handle" >&2; exit 1')
        self.assert_unreadable()
        result = self.node.run(render_doubt(root=_ROOT, name="x", jobid="41"))
        self.assertEqual(result.status, Status.NO_FOLDER)

    def test_hostile_records(self) -> None:
        """Records of many lines, of megabytes, or of NULs break no record."""
        self.node.write("jobs/41/name", "x\noutput\nexit=COMPLETED 0 1 2\n")
        self.node.write("jobs/41/exit", "A" * 3_000_000)
        self.node.write("jobs/41/start", "\0" * 50 + "\n")
        self.node.write("x.out", "real\n")
        found = self.look()
        self.assertEqual((found.name, found.exit, found.start), ("x", None, None))
        self.assertEqual(found.output, b"real\n")

    def test_no_files(self) -> None:
        """A FIFO in place of a record, or of the output, is none."""
        (self.node.root / "jobs/41").mkdir(parents=True)
        (self.node.root / "submit/x").mkdir(parents=True)
        for path in ("x.out", "submit/x/jobid", *(f"jobs/41/{record}" for record in RECORDS)):
            os.mkfifo(self.node.root / path)
        found = self.look(accounting=True)
        self.assertEqual((found.name, found.answer, found.output), (None, None, b""))

    def test_bounded(self) -> None:
        """A big output is cut to its last bytes, not read whole."""
        self.node.write("jobs/41/name", "x\n")
        with self.node.write("x.out", "").open("r+b") as file:
            file.seek(3 << 30)
            file.write(b"\nend\n")
        self.assertEqual(self.look(limit=100, lines=1).output, b"end\n")

    def test_accounting(self) -> None:
        """sacct's last line and status, whichever stream it writes on."""
        self.node.stub("sacct", "echo 'COMPLETED|61|jarvice_x'")
        found = self.look(accounting=True)
        self.assertEqual(found.accounting, (parse_state("COMPLETED"), 61, "jarvice_x"))
        (call,) = self.node.calls("sacct")
        self.assertIn("--user=", call[1])
        self.assertEqual(call[2:], ["-j", "41", "--format=State,ElapsedRaw,JobName"])

    def test_accounting_down(self) -> None:
        """What it said when it failed is told."""
        self.node.stub("sacct", "echo 'sacct: error: Connection refused' >&2; exit 1")
        found = self.look(accounting=True)
        self.assertEqual(found.accounting_error, "sacct: error: Connection refused")

    def test_accounting_not_asked(self) -> None:
        """While the queue knows the job accounting is left alone."""
        self.look()
        self.assertEqual(self.node.calls("sacct"), [])

    def test_not_mounted(self) -> None:
        """A scratch folder that is not there says so: it is no job without records."""
        root = render_root(f"{self.node.folder}/scratch/")
        script = render_post_mortem(
            root=root, name="x", jobid="41", lines=1, limit=1, accounting=False
        )
        self.assertEqual(self.node.run(script).status, Status.NO_FOLDER)


class DoubtTests(LoginNodeTestCase):
    """`render_doubt`: a job that the queue lacked."""

    def doubt(self, name: str = "x") -> tuple[bytes, int]:
        """What is printed, and how often scontrol was asked."""
        self.node.forget_calls()
        result = self.node.run(render_doubt(root=_ROOT, name=name, jobid="41"))
        self.assertEqual((result.status, result.stderr), (0, b""))
        return result.stdout, len(self.node.calls("scontrol"))

    def test_nothing_to_doubt(self) -> None:
        """A job that the folders don't know, or whose end they know, is not asked for."""
        self.assertEqual(self.doubt(), (b"", 0))
        self.node.write("submit/x/jobid", "40\n")
        self.assertEqual(self.doubt(), (b"", 0))
        self.node.write("submit/x/jobid", "41\n")
        for record in ("exit", "answer"):
            path = self.node.write(f"jobs/41/{record}", "FAILED 1 2 3\n")
            self.assertEqual(self.doubt(), (b"", 0))
            path.unlink()

    def test_id_given_again(self) -> None:
        """That another job of that id has ended says nothing of this one."""
        self.node.stub("scontrol", 'echo "JobId=41 JobName=jarvice_x UserId=u(1)"')
        self.node.write("submit/x/jobid", "41\n")
        self.node.write("jobs/41/name", "y\n")
        self.node.write("jobs/41/exit", "FAILED 1 2 3\n")
        self.assertEqual(self.doubt(), (b"slurm=0\n", 1))

    def test_known(self) -> None:
        """Slurm has it after all; a fresh one, and one that has begun."""
        self.node.stub("scontrol", 'echo "JobId=41 JobName=jarvice_it\'s UserId=u(1)"')
        self.node.write("submit/it's/jobid", "41\n")
        self.assertEqual(self.doubt("it's"), (b"slurm=0\n", 1))
        self.node.write("submit/it's/jobid", "")
        self.node.write("jobs/41/name", "it's\n")
        self.assertEqual(self.doubt("it's"), (b"slurm=0\n", 1))
        self.assertTrue(parse_doubt(b"slurm=0\n"))

    def test_gone(self) -> None:
        """Slurm says so, or has given the id to another job."""
        self.node.write("submit/x/jobid", "41\n")
        for text in (
            "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1",
            "echo JobId=41 JobName=jarvice_xy UserId=u",
            "echo JobId=411 JobName=jarvice_x UserId=u",
        ):
            self.node.stub("scontrol", text)
            printed, calls = self.doubt()
            self.assertEqual((parse_doubt(printed), calls), (False, 1), text)

    def test_no_answer(self) -> None:
        """Then nothing is concluded."""
        self.node.write("submit/x/jobid", "41\n")
        self.node.stub("scontrol", "echo Unable to contact slurm controller >&2; exit 1")
        self.assertRaises(SlurmUnavailableError, parse_doubt, self.doubt()[0])
        self.node.stub("scontrol", "exit 1")
        self.assertRaises(SlurmRefusedError, parse_doubt, self.doubt()[0])


class ShellcheckTests(SynchronousTestCase):
    """Every text that we run on the login node, read by shellcheck."""

    def test_clean(self) -> None:
        """No warning in any of them."""
        root, name, jobid = _ROOT, "a'b c", "41"
        for script in (
            render_queue(),
            render_submit(
                root=root,
                name=name,
                number=7,
                attempt="a1",
                options=("-H",),
                node_script=b"it's",
                batch_script="#!/bin/sh\necho it's\n",
                interactive=b"{}\n",
            ).script,
            render_forget_submission(root=root, name=name, attempt="a1"),
            render_cancel(root=root, name=name, jobid=jobid, force=True),
            render_release(jobid="41"),
            render_events(jobid="41"),
            render_doubt(root=root, name=name, jobid=jobid),
            render_post_mortem(
                root=root, name=name, jobid=jobid, lines=5, limit=5, accounting=True
            ),
            render_mark_answered(root=root, name=name, jobid=jobid, state="FAILED", elapsed=5),
            render_tail(root=root, name=name, lines=5, limit=5),
            render_list_folder(path="/a b", details=True),
            render_collect_garbage(root=root, answered_minutes=5, unasked_days=5, slurm_seconds=5),
        ):
            done = subprocess.run(
                ["shellcheck", "--shell=sh", "--severity=warning", "-"],
                input=script,
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual((done.returncode, done.stdout), (0, ""))
