"""`render_submit` in a real shell: once is once, whatever happened before."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.slurm.commands import Status, render_root
from jarvice_slurmd.slurm.submission import (
    SubmitCall,
    render_forget_submission,
    render_submit,
)
from test.slurm.sandbox import Sandbox

_NODE = b"echo node\n'\"\\\xff\n"
_BATCH = '#!/bin/bash\necho "it\'s" `batch` \\\\ $HOME \\\n\nEND\n'
_ROOT = render_root(None)
#: What squeue and sacct say of the job that the first attempt made.
_QUEUED = "echo '41|jarvice_x'"


def _submit(
    name: str = "x",
    number: int = 7,
    *,
    node_script: bytes = _NODE,
    interactive: bytes = b"",
    attempt: str = "a1",
) -> SubmitCall:
    return render_submit(
        root=_ROOT,
        name=name,
        number=number,
        attempt=attempt,
        options=("--parsable",),
        node_script=node_script,
        batch_script=_BATCH,
        interactive=interactive,
    )


def _forget(attempt: str = "a1") -> str:
    return render_forget_submission(root=_ROOT, name="x", attempt=attempt)


class SubmitTestCase(SynchronousTestCase):
    """A login node whose sbatch accepts and whose squeue knows nothing."""

    #: What /bin/sh is there.
    shell = "sh"

    def setUp(self) -> None:
        self.node = Sandbox(self.shell)
        self.addCleanup(self.node.remove)
        self.node.stub("sbatch", f"cat >'{self.node.folder}/batch'; echo 41")
        self.node.stub("squeue")
        self.node.stub("sacct", "exit 1")
        self.submission = self.node.root / "submit" / "x"

    def run_call(self, call: SubmitCall) -> CommandResult:
        return self.node.run(call.script, call.stdin)

    def submit(self, number: int = 7, attempt: str = "a1") -> CommandResult:
        return self.run_call(_submit(number=number, attempt=attempt))


class FirstTimeTests(SubmitTestCase):
    """A submission that was never made before."""

    def test_answer(self) -> None:
        """Its job id is printed and kept; nothing but sbatch was asked."""
        result = self.submit()
        self.assertEqual((result.status, result.stdout, result.stderr), (0, b"41\n", b""))
        self.assertEqual((self.submission / "jobid").read_text(), "41\n")
        self.assertEqual((self.node.calls("squeue"), self.node.calls("sacct")), ([], []))

    def test_texts(self) -> None:
        """They arrive byte for byte, the nodes' on disk, the other at sbatch; no copy is left."""
        self.submit()
        self.assertEqual((self.submission / "node.sh").read_bytes(), _NODE)
        self.assertEqual((self.node.folder / "batch").read_text(), _BATCH)
        self.assertEqual(
            self.node.files(self.submission),
            {"lock", "node.sh", "number", "intent", "jobid"},
        )

    def test_large_texts(self) -> None:
        """Neither has to fit into a pipe or into a program's argument."""
        node = bytes(range(256)) * 8192
        batch = "#!/bin/bash\n" + "# it's\n" * 30_000
        call = render_submit(
            root=_ROOT,
            name="x",
            number=7,
            attempt="a1",
            options=(),
            node_script=node,
            batch_script=batch,
        )
        script = self.node.folder / "script"
        script.write_text(call.script)
        self.assertEqual(self.node.run(f". '{script}'", call.stdin).stdout, b"41\n")
        self.assertEqual((self.submission / "node.sh").read_bytes(), node)
        self.assertEqual((self.node.folder / "batch").read_text(), batch)

    def test_interactive(self) -> None:
        """What a job's address needs stands beside the nodes' text, and sbatch gets neither."""
        self.run_call(_submit(interactive=b'{"url": null}\n'))
        self.assertEqual((self.submission / "node.sh").read_bytes(), _NODE)
        self.assertEqual((self.submission / "interactive").read_bytes(), b'{"url": null}\n')
        self.assertEqual((self.node.folder / "batch").read_text(), _BATCH)

    def test_programs(self) -> None:
        """It is quick because it starts few programs: where there are only these it works."""
        programs = self.node.folder / "programs"
        programs.mkdir()
        for program in ("mkdir", "flock", "head"):
            (programs / program).symlink_to(f"/usr/bin/{program}")
        (programs / "sbatch").write_text("#!/bin/sh\necho 41\n")
        (programs / "sbatch").chmod(0o755)
        call = _submit()
        result = self.node.run(f"PATH='{programs}'\n{call.script}", call.stdin)
        self.assertEqual((result.status, result.stdout, result.stderr), (0, b"41\n", b""))

    def test_no_text(self) -> None:
        """An empty node script is one too."""
        self.assertEqual(self.run_call(_submit(node_script=b"")).stdout, b"41\n")
        self.assertEqual((self.submission / "node.sh").read_bytes(), b"")
        self.assertEqual((self.node.folder / "batch").read_text(), _BATCH)

    def test_only_for_the_owner(self) -> None:
        """Nobody else can read the text, which may hold passwords, nor enter the folders."""
        self.submit()
        for path in (self.submission / "node.sh", self.submission, self.submission.parent):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_number_finds_the_name(self) -> None:
        """A job's address holds its number: any replica finds the name by it."""
        self.submit()
        self.assertEqual((self.node.root / "numbers" / "7").read_text(), "x\n")

    def test_number_led_elsewhere(self) -> None:
        """To another job, or to nothing: then it leads here, and nothing else is left."""
        for before in ("a-longer-name\n", "", "x\n"):
            shutil.rmtree(self.node.root, ignore_errors=True)
            self.node.write("numbers/7", before)
            self.assertEqual(self.submit().status, 0)
            self.assertEqual((self.node.root / "numbers" / "7").read_text(), "x\n")
            self.assertEqual(self.node.files(self.node.root / "numbers"), {"7"})

    def test_cluster_behind_the_id(self) -> None:
        """On a federation sbatch says `id;cluster`, and a plugin may talk before."""
        self.node.stub("sbatch", "echo 'you have 3 jobs'; echo '42;main'")
        self.assertEqual(self.submit().stdout, b"42\n")

    def test_job_begins_first(self) -> None:
        """A job that starts before sbatch has ended writes its id itself; it is not spoilt."""
        self.node.stub("sbatch", f"echo 43 >'{self.submission}/jobid'; echo 43")
        self.assertEqual(self.submit().stdout, b"43\n")

    def test_job_begins_meanwhile(self) -> None:
        """One that is about to write its id when sbatch has ended has left an empty file."""
        self.node.stub("sbatch", f": >'{self.submission}/jobid'; echo 43")
        self.assertEqual(self.submit().stdout, b"43\n")
        self.assertEqual((self.submission / "jobid").read_text(), "43\n")

    def test_users_settings(self) -> None:
        """What the user has set for squeue does not change what we read."""
        self.node.stub("sbatch", 'echo "${SQUEUE_FORMAT-unset} $LC_ALL" >&2; echo 41')
        call = _submit()
        result = self.node.run(f"SQUEUE_FORMAT=%j; export SQUEUE_FORMAT\n{call.script}", call.stdin)
        self.assertEqual(result.stderr, b"unset C\n")

    def test_lock_is_not_inherited(self) -> None:
        """sbatch does not hold the lock, should it leave something behind."""
        self.node.stub("sbatch", "[ -e /dev/fd/9 ] && echo open >&2; echo 41")
        self.assertEqual(self.submit().stderr, b"")


class AgainTests(SubmitTestCase):
    """The same submission again."""

    def test_same_id(self) -> None:
        """It has the same job id, from one call of sbatch, and its text is not put back."""
        first = self.submit()
        (self.submission / "node.sh").unlink()
        self.assertEqual(self.submit(), first)
        self.assertEqual(len(self.node.calls("sbatch")), 1)
        self.assertFalse((self.submission / "node.sh").exists())

    def test_at_once(self) -> None:
        """Several at the same time wait for each other: one job."""
        self.node.stub("sbatch", "cat >/dev/null; sleep 0.2; echo 41")
        running = []
        for attempt in ("a1", "a2", "a3", "a4"):
            call = _submit(attempt=attempt)
            texts = self.node.folder / attempt
            texts.write_bytes(call.stdin)
            running.append(
                subprocess.Popen(
                    [*self.node.shell, f"{{ {call.script} }} <'{texts}'"],
                    stdout=subprocess.PIPE,
                    env=self.node.environ(),
                    cwd=self.node.home,
                )
            )
        self.assertEqual([process.communicate()[0] for process in running], [b"41\n"] * 4)
        self.assertEqual(len(self.node.calls("sbatch")), 1)

    def test_other_number(self) -> None:
        """Two different jobs of one name never become one."""
        self.submit()
        result = self.submit(number=8)
        self.assertEqual(result.status, Status.OTHER_JOB)
        self.assertIn(b"number 7", result.stderr)
        self.assertEqual(len(self.node.calls("sbatch")), 1)
        self.assertEqual((self.node.root / "numbers" / "7").read_text(), "x\n")

    def test_text_cut_off(self) -> None:
        """Where the link is cut while the text comes, nothing is submitted, and later all of it."""
        for interactive in (b"", b"{}\n"):
            call = _submit(interactive=interactive)
            for cut in (0, 5, *range(len(_NODE), len(call.stdin))):
                shutil.rmtree(self.node.root, ignore_errors=True)
                result = self.node.run(call.script, call.stdin[:cut])
                self.assertEqual(result.status, Status.NO_FOLDER, cut)
                self.assertEqual(self.node.calls("sbatch"), [], cut)
                self.assertEqual(self.node.files(), {"submit/x/lock"}, cut)
                self.assertEqual(self.run_call(call).stdout, b"41\n")
                self.assertEqual((self.submission / "node.sh").read_bytes(), _NODE)
                self.assertEqual((self.node.folder / "batch").read_text(), _BATCH)
                self.node.forget_calls()

    def test_other_text(self) -> None:
        """Nor where the text is another attempt's, or what ends it is not all that comes."""
        call = _submit()
        for stdin in (
            _submit(attempt="a2").stdin,
            _submit(attempt="a12").stdin,
            _submit(node_script=_NODE[:-1]).stdin,
            _submit(node_script=_NODE + b"\n").stdin,
        ):
            self.assertEqual(self.node.run(call.script, stdin).status, Status.NO_FOLDER, stdin)
            self.assertEqual(self.node.files(), {"submit/x/lock"}, stdin)
        self.assertEqual(self.node.calls("sbatch"), [])


class InterruptedTests(SubmitTestCase):
    """The link was cut while sbatch ran, so that nobody noted the job id."""

    def setUp(self) -> None:
        super().setUp()
        self.node.stub("sbatch", "echo 41; kill -9 $PPID")
        self.assertNotEqual(self.submit().status, 0)
        self.assertFalse((self.submission / "jobid").exists())
        self.node.stub("sbatch", "echo 99")
        self.node.forget_calls()

    def test_adopted_from_the_queue(self) -> None:
        """The job is found by its whole name, also when it has ended, and sbatch not called."""
        self.node.stub("squeue", _QUEUED)
        self.assertEqual(self.submit().stdout, b"41\n")
        self.assertEqual(self.node.calls("sbatch"), [])
        self.assertEqual((self.submission / "jobid").read_text(), "41\n")
        (call,) = self.node.calls("squeue")
        self.assertIn("--name=jarvice_x", call)
        self.assertIn("--states=all", call)

    def test_several(self) -> None:
        """Where Slurm made several of it, the first is the job."""
        queued = "\n".join(f"echo '{jobid}|jarvice_x'" for jobid in (100, 41, 99))
        self.node.stub("squeue", queued)
        self.assertEqual(self.submit().stdout, b"41\n")

    def test_similar_names(self) -> None:
        """squeue's --name knows no case, sacct's neither accents nor blanks: theirs are others."""
        others = "\n".join(
            f"echo '{jobid}|{name}'"
            for jobid, name in ((12, "jarvice_X"), (13, "jarvice_x "), (14, "jarvice_x|"))
        )
        self.node.stub("squeue", others)
        self.node.stub("sacct", others)
        self.assertEqual(self.submit(attempt="a2").stdout, b"99\n")
        (self.submission / "jobid").unlink()
        self.node.stub("sacct", f"{others}\n{_QUEUED}")
        self.assertEqual(self.submit(attempt="a3").stdout, b"41\n")

    def test_made_while_it_was_made_again(self) -> None:
        """Slurm makes a job of the first attempt late: begun first it is the one, the other goes.

        As batch.sh does, it notes its id when it begins.
        """
        self.node.stub("scancel")
        self.node.stub("sbatch", f"echo 98 >'{self.submission}/jobid'; echo 99")
        self.assertEqual(self.submit().stdout, b"98\n")
        self.assertEqual(self.node.calls("scancel"), [["--quiet", "99"]])
        self.assertEqual(self.submit().stdout, b"98\n")

    def test_adopted_from_accounting(self) -> None:
        """A job that the queue has forgotten is found there, looked for since the attempt."""
        self.node.stub("sacct", _QUEUED)
        self.assertEqual(self.submit().stdout, b"41\n")
        self.assertEqual(self.node.calls("sbatch"), [])
        (call,) = self.node.calls("sacct")
        (since,) = [word for word in call if word.startswith("--starttime=")]
        attempted = datetime.fromtimestamp(int((self.submission / "intent").stat().st_mtime))
        self.assertEqual(since, f"--starttime={(attempted - timedelta(days=1)).isoformat()}")

    def test_adopted_from_itself(self) -> None:
        """A job that started has left its id, though Slurm knows nothing any more."""
        (self.submission / "jobid").write_text("41\n")
        self.assertEqual(self.submit().stdout, b"41\n")
        self.assertEqual((self.node.calls("sbatch"), self.node.calls("squeue")), ([], []))

    def test_nothing_secret_stays(self) -> None:
        """A text that a third attempt was ended over goes when the job has been found."""
        staged = self.node.write("submit/x/new/node.sh", "secret")
        self.node.stub("squeue", _QUEUED)
        self.assertEqual(self.submit().stdout, b"41\n")
        self.assertFalse(staged.exists())

    def test_text_cut_off(self) -> None:
        """What leads to the job that may be stays when the next attempt's text is cut off."""
        before = self.node.files()
        call = _submit(attempt="a2")
        for cut in (5, len(_NODE), len(call.stdin) - 1):
            result = self.node.run(call.script, call.stdin[:cut])
            self.assertEqual(result.status, Status.NO_FOLDER)
            self.assertEqual(self.node.files(), before)
        self.assertEqual(self.node.calls("sbatch"), [])
        self.node.stub("squeue", _QUEUED)
        self.assertEqual(self.submit().stdout, b"41\n")

    def test_nobody_knows_it(self) -> None:
        """Where Slurm answers and knows none, it was not submitted: now it is."""
        self.assertEqual(self.submit(attempt="a2").stdout, b"99\n")
        self.assertEqual((self.submission / "node.sh").read_bytes(), _NODE)
        self.assertEqual((self.submission / "intent").read_text(), "a2\n")
        self.assertEqual((self.submission / "number").read_text(), "7\n")

    def test_queue_does_not_answer(self) -> None:
        """No answer is not "no": nothing is submitted."""
        self.node.stub("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
        result = self.submit()
        self.assertEqual(result.status, Status.NO_ANSWER)
        self.assertIn(b"Unable to contact", result.stderr)
        self.assertEqual(self.node.calls("sbatch"), [])

    def test_other_number(self) -> None:
        """The interrupted job is not given to another."""
        self.node.stub("squeue", _QUEUED)
        self.assertEqual(self.submit(number=8).status, Status.OTHER_JOB)


class AroundProgramsTests(SubmitTestCase):
    """What may happen before, while and after a program runs."""

    def test_killed(self) -> None:
        """The next attempt calls sbatch where this one had not, and finds the job where it had."""
        for program in ("mkdir", "flock", "head", "ln", "mv"):
            real = f'/usr/bin/{program} "$@"'
            for fault in ("kill -9 $PPID", f"{real}; kill -9 $PPID"):
                shutil.rmtree(self.node.root, ignore_errors=True)
                self.node.forget_calls()
                self.node.stub("squeue")
                if program in ("ln", "mv"):
                    self.node.write("submit/x/intent", "a0\n")
                self.node.stub(program, fault)
                self.assertNotEqual(self.submit().status, 0, fault)
                if self.node.calls("sbatch"):
                    self.node.stub("squeue", _QUEUED)
                self.node.stub(program, f"exec {real}")
                self.assertEqual(self.submit(attempt="a2").stdout, b"41\n", fault)
                self.assertEqual(len(self.node.calls("sbatch")), 1, fault)
                self.assertEqual((self.submission / "node.sh").read_bytes(), _NODE, fault)
                self.assertEqual((self.node.folder / "batch").read_text(), _BATCH, fault)
                self.assertEqual((self.submission / "jobid").read_text(), "41\n", fault)

    def test_text_is_replaced_at_once(self) -> None:
        """A job of an earlier attempt that begins while a later one's text comes has it whole."""
        text = self.node.write("submit/x/node.sh", "whole")
        self.node.write("submit/x/intent", "a0\n")
        seen = self.node.folder / "seen"
        self.node.stub("head", f"/usr/bin/head \"$@\"; cp '{text}' '{seen}'")
        call = _submit()
        self.assertEqual(self.node.run(call.script, call.stdin[:5]).status, Status.NO_FOLDER)
        self.assertEqual((seen.read_text(), text.read_text()), ("whole", "whole"))
        self.assertEqual(self.run_call(call).stdout, b"41\n")
        self.assertEqual((seen.read_text(), text.read_bytes()), ("whole", _NODE))


class RefusedTests(SubmitTestCase):
    """sbatch or the storage says no."""

    def setUp(self) -> None:
        super().setUp()
        self.node.stub("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")

    def test_words(self) -> None:
        """Slurm's status and words come through; the text waits until it is forgotten."""
        result = self.submit()
        self.assertEqual((result.status, result.stdout), (1, b""))
        self.assertEqual(result.stderr, b"sbatch: error: invalid partition\n")

    def test_forgotten(self) -> None:
        """Then nothing secret stays, and the name and number can be used again."""
        self.submit()
        self.assertEqual(self.node.run(_forget()).status, 0)
        self.assertFalse((self.submission / "node.sh").exists())
        self.node.forget_calls()
        self.node.stub("sbatch", "echo 41")
        self.assertEqual(self.submit(number=8).stdout, b"41\n")
        self.assertEqual(self.node.calls("squeue"), [])

    def test_not_forgotten_while_in_doubt(self) -> None:
        """Slurm has a job of that name, or does not answer, or it was tried again: all stays."""
        self.submit()
        before = self.node.files()
        self.node.stub("squeue", _QUEUED)
        self.node.run(_forget())
        self.node.stub("squeue", "exit 1")
        self.node.run(_forget())
        self.node.stub("squeue")
        self.node.run(_forget("a2"))
        self.assertEqual(self.node.files(), before)

    def test_submitted_one_is_not_forgotten(self) -> None:
        """A retry that succeeded meanwhile keeps what it has."""
        self.node.stub("sbatch", "echo 41")
        self.submit()
        before = self.node.files()
        self.node.run(_forget())
        self.assertEqual(self.node.files(), before)

    def test_forget_nothing(self) -> None:
        """Forgetting what was never there is no error and makes nothing."""
        result = self.node.run(_forget())
        self.assertEqual((result.status, self.node.files()), (0, set()))

    def test_folder_not_there(self) -> None:
        """An unmounted scratch folder is no empty one: nothing is made in its place."""
        gone = self.node.folder / "scratch"
        call = render_submit(
            root=render_root(f"{gone}/"),
            name="x",
            number=7,
            attempt="a1",
            options=(),
            node_script=b"",
            batch_script="",
        )
        result = self.run_call(call)
        self.assertEqual(result.status, Status.NO_FOLDER)
        self.assertIn(str(gone).encode(), result.stderr)
        self.assertFalse(gone.exists())

    def test_storage_refuses(self) -> None:
        """A file where a folder should be stands for a full or read-only home."""
        for path in ("submit", "numbers"):
            shutil.rmtree(self.node.root, ignore_errors=True)
            self.node.write(path, "")
            self.assertEqual(self.submit().status, Status.NO_FOLDER, path)
        self.assertEqual(self.node.calls("sbatch"), [])

    def test_lock_cannot_be_made(self) -> None:
        """That is a fault of the storage too, not Slurm's."""
        (self.submission / "lock").mkdir(parents=True)
        self.assertEqual(self.submit().status, Status.NO_FOLDER)
        self.assertEqual(self.node.calls("sbatch"), [])

    def test_disk_is_full(self) -> None:
        """Whatever can't be written: nothing is submitted, nothing stays; later all is well."""
        self.node.stub("sbatch", "echo 41")
        for path in ("submit/x/node.sh", "submit/x/number"):
            shutil.rmtree(self.node.root, ignore_errors=True)
            self.fill(path)
            result = self.submit()
            self.assertEqual((result.status, result.stdout), (Status.NO_FOLDER, b""), path)
            self.assertIn(b"can't be written", result.stderr)
            self.assertEqual(self.node.files(self.submission), {"lock"}, path)
            self.assertEqual(self.node.calls("sbatch"), [], path)
            self.assertEqual(self.submit().stdout, b"41\n")
            self.node.forget_calls()

    def test_disk_is_full_again(self) -> None:
        """Of an attempt in doubt all stays as it was: its job may be about to begin."""
        self.submit()
        before = self.node.files()
        self.node.forget_calls()
        for path in ("submit/x/new/node.sh", "submit/x/new/number", "submit/x/new/intent"):
            self.fill(path)
            self.assertEqual(self.submit(attempt="a2").status, Status.NO_FOLDER, path)
            self.assertEqual(self.node.files(), before, path)
            self.assertEqual((self.submission / "node.sh").read_bytes(), _NODE, path)
        self.assertEqual(self.node.calls("sbatch"), [])

    def test_number_cannot_be_led(self) -> None:
        """Without it nobody finds an interactive job: nothing is submitted."""
        self.fill("numbers/7")
        self.fill("numbers/7.a1")
        self.assertEqual(self.submit().status, Status.NO_FOLDER)
        self.assertEqual(self.node.files(self.submission), {"lock"})
        self.assertEqual(self.node.calls("sbatch"), [])

    def test_cannot_be_brought_to_its_place(self) -> None:
        """Where mv comes half-way nothing is submitted, and the job is still looked for."""
        self.node.write("submit/x/intent", "a1\n")
        self.node.write("submit/x/node.sh/in-the-way", "")
        self.assertEqual(self.submit(attempt="a2").status, Status.NO_FOLDER)
        self.assertEqual(self.node.calls("sbatch"), [])
        self.assertTrue((self.submission / "intent").exists())
        self.assertFalse((self.submission / "new").exists())

    def fill(self, path: str) -> None:
        """What is written to this path meets a full disk."""
        file = self.node.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to("/dev/full")

    def test_id_cannot_be_noted(self) -> None:
        """A home that fills up just then does not lose the job: its id is answered all the same."""
        self.node.stub(
            "sbatch",
            f"cd '{self.submission}' && ln -s /dev/full jobid && ln -s jobid jobid.a1; echo 41",
        )
        result = self.submit()
        self.assertEqual((result.status, result.stdout), (0, b"41\n"))
        self.node.stub("squeue", _QUEUED)
        self.assertEqual(self.submit(attempt="a2").stdout, b"41\n")
        self.assertEqual(len(self.node.calls("sbatch")), 1)
        self.assertEqual((self.submission / "jobid").read_text(), "41\n")


class FirstTimeInBashTests(FirstTimeTests):
    """A submission that was never made before, where /bin/sh is bash."""

    shell = "bash"


class AgainInBashTests(AgainTests):
    """The same submission again, where /bin/sh is bash."""

    shell = "bash"


class InterruptedInBashTests(InterruptedTests):
    """The link was cut while sbatch ran, where /bin/sh is bash."""

    shell = "bash"


class RefusedInBashTests(RefusedTests):
    """sbatch or the storage says no, where /bin/sh is bash."""

    shell = "bash"


class FirstTimeInBusyboxTests(FirstTimeTests):
    """A submission that was never made before, where /bin/sh is busybox."""

    shell = "busybox"


class AgainInBusyboxTests(AgainTests):
    """The same submission again, where /bin/sh is busybox."""

    shell = "busybox"


class InterruptedInBusyboxTests(InterruptedTests):
    """The link was cut while sbatch ran, where /bin/sh is busybox."""

    shell = "busybox"


class RefusedInBusyboxTests(RefusedTests):
    """sbatch or the storage says no, where /bin/sh is busybox."""

    shell = "busybox"
