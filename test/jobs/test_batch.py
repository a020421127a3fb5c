"""jobs/batch.sh, run by a real bash: what it prints, leaves behind and concludes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.jobs.executor import parse_job, render_node_script
from test.jobs.batch_run import BatchRun


class BatchTestCase(SynchronousTestCase):
    """Runs texts."""

    def job(
        self, text: str, *, name: str = "x", nodes: int = 1, lag: str | None = None
    ) -> BatchRun:
        job = BatchRun(text, name=name, nodes=nodes, lag=lag)
        self.addCleanup(job.remove)
        return job

    def assert_end(self, text: str, state: str, code: int) -> BatchRun:
        job = self.job(text)
        status, output = job.run()
        self.assertEqual((job.verdict(), status), ((state, code), code), output)
        return job


class VerdictTests(BatchTestCase):
    """Success and failure: PROTOCOL §2."""

    def test_exit_status_decides(self) -> None:
        """Without markers the exit status of the text on the first node is the job's."""
        self.assert_end("echo hello", "COMPLETED", 0)
        self.assert_end("exit 3", "FAILED", 3)
        self.assert_end("kill -9 $BASHPID", "FAILED", 137)

    def test_success(self) -> None:
        """A line of its own, white space behind it allowed."""
        for text in ("echo JARVICE_CMD_SUCCESS", "printf 'JARVICE_CMD_SUCCESS \\r\\n'"):
            job = self.assert_end(text, "COMPLETED", 0)
            self.assertEqual(job.record("verdict"), "JARVICE_CMD_SUCCESS")

    def test_failure(self) -> None:
        """It fails a text that exits with 0; its line may lack an end."""
        for text in ("echo JARVICE_CMD_FAILURE", "printf JARVICE_CMD_FAILURE; exit 0"):
            self.assert_end(text, "FAILED", 1)

    def test_success_and_a_failing_text(self) -> None:
        """It completed when it printed success and did not fail otherwise."""
        self.assert_end("echo JARVICE_CMD_SUCCESS; exit 4", "FAILED", 4)

    def test_both(self) -> None:
        """One failure is enough."""
        self.assert_end("echo JARVICE_CMD_SUCCESS; echo JARVICE_CMD_FAILURE", "FAILED", 1)

    def test_on_standard_error(self) -> None:
        """The two streams are one output, and so is the verdict's."""
        self.assert_end("echo JARVICE_CMD_FAILURE >&2", "FAILED", 1)

    def test_quoted_markers(self) -> None:
        """Lines that quote a marker are no verdict."""
        quoting = (
            "set -x; /bin/echo no JARVICE_CMD_FAILURE",
            "echo '2024/01/01 GoTTY is starting with command: sh -c JARVICE_CMD_FAILURE'",
            "echo ' JARVICE_CMD_FAILURE'",
            "echo JARVICE_CMD_FAILURES",
            "echo \"'JARVICE_CMD_FAILURE'\"",
        )
        job = self.assert_end("\n".join(quoting), "COMPLETED", 0)
        self.assertEqual(job.record("verdict"), "")

    def test_marker_in_a_long_line(self) -> None:
        """A megabyte without a line's end neither hides nor makes a verdict."""
        self.assert_end(
            "head -c 1000000 /dev/zero | tr '\\0' x; echo JARVICE_CMD_FAILURE", "COMPLETED", 0
        )
        self.assert_end(
            "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo JARVICE_CMD_FAILURE", "FAILED", 1
        )

    def test_job(self) -> None:
        """A `job` has no markers: its command's exit status is its own, whatever it prints."""
        for marker, status in (("JARVICE_CMD_FAILURE", 0), ("JARVICE_CMD_SUCCESS", 3)):
            description = parse_job({"image": "app", "command": "true"})
            text = render_node_script(description, f"echo {marker}; exit {status}")
            job = self.job(text)
            code, output = job.run()
            self.assertEqual((code, output), (status, f"{marker}\n".encode()))
            self.assertEqual(job.verdict(), ("FAILED" if status else "COMPLETED", status))
            self.assertFalse(job.record("verdict"))

    def test_text_that_never_starts(self) -> None:
        """A step that ends well without having run the text is a failure."""
        job = self.job("echo never")
        job.node.stub("srun", "exit 0")
        self.assertEqual(job.run()[0], 1)
        self.assertEqual(job.verdict(), ("FAILED", 1))

    def test_step_refused(self) -> None:
        """srun's own failure is the job's."""
        job = self.job("echo never")
        job.node.stub("srun", "echo 'srun: error: nope' >&2; exit 9")
        status, output = job.run()
        self.assertEqual((status, job.verdict()), (9, ("FAILED", 9)))
        self.assertIn(b"srun: error: nope", output)


class OutputTests(BatchTestCase):
    """What the text prints."""

    def test_every_byte(self) -> None:
        """All bytes come through in order, NULs and long lines included, and nothing else."""
        text = "head -c 300000 /dev/zero; printf '\\377\\n'; seq 20000; printf end"
        wanted = b"\0" * 300000 + b"\xff\n"
        wanted += b"".join(b"%d\n" % number for number in range(1, 20001)) + b"end"
        status, output = self.job(text).run()
        self.assertEqual((status, output == wanted), (0, True))

    def test_both_streams(self) -> None:
        """Standard error stands in the output where it was written."""
        _, output = self.job("echo 1; echo 2 >&2; echo 3").run()
        self.assertEqual(output, b"1\n2\n3\n")

    def test_background_process(self) -> None:
        """What the text leaves in the background does not hold the job, nor its verdict."""
        job = self.job("(/bin/sleep 300 &)\necho JARVICE_CMD_FAILURE")
        self.assertEqual(job.run(), (1, b"JARVICE_CMD_FAILURE\n"))
        self.assertEqual(job.verdict(), ("FAILED", 1))

    def test_only_the_owner_reads(self) -> None:
        """Nothing in the job's folder is for others."""
        job = self.job("touch made; echo x")
        job.run()
        for path in (*job.job.iterdir(), job.job, job.node.home / "made"):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)


class TextTests(BatchTestCase):
    """What the text finds, and what becomes of it."""

    def test_environment(self) -> None:
        """PROTOCOL §2's variables, on each node."""
        names = [
            "PROCESS_PROCID",
            "PROCESS_NODENAME",
            "JOB_JOBID",
            "JOB_JOB_NODELIST",
            "JOB_JOB_FORMATED_NODELIST",
            "JOB_NNODES",
            "JOB_NTASKS",
            "JOB_SUBMIT_DIR",
            "JOB_GPUS_PER_NODE",
        ]
        text = "\n".join(f'echo "{name}=${{{name}-unset}}"' for name in names)
        job = self.job(f"exec >out.$PROCESS_PROCID\n{text}", nodes=2)
        self.assertEqual(job.run()[0], 0)
        for task in (0, 1):
            said = (job.node.home / f"out.{task}").read_text().splitlines()
            self.assertEqual(
                [line.split("=", 1)[1] for line in said],
                [
                    str(task),
                    f"n{task + 1}",
                    "41",
                    "n[1-2]",
                    "n1 n2",
                    "2",
                    "2",
                    str(job.node.home),
                    "",
                ],
            )

    def test_srun(self) -> None:
        """Once on every node, and the step ends when one of them fails."""
        job = self.job("true", nodes=2)
        job.run()
        (call,) = job.node.calls("srun")
        self.assertEqual(
            call[:-2],
            ["-K1", "--export=ALL", "-N", "2", "-n", "2", "--ntasks-per-node=1", "/bin/bash"],
        )

    def test_secret_is_gone(self) -> None:
        """The text leaves the disk while it runs, once every node has read it."""
        job = self.job(
            'while [ -e "$JARVICE_JOB_DIR/node.sh" ]; do /bin/sleep 0.02; done; echo secret',
            nodes=2,
        )
        self.assertEqual(job.run(), (0, b"secret\nsecret\n"))
        self.assertEqual([f for f in job.node.files() if f.endswith("node.sh")], [])

    def test_secret_is_gone_after_a_failure(self) -> None:
        """Also where the step never starts."""
        job = self.job("echo never")
        job.node.stub("srun", "exit 1")
        job.run()
        self.assertEqual([f for f in job.node.files() if f.endswith("node.sh")], [])

    def test_any_text(self) -> None:
        """Quotes, heredocs, functions, megabytes: what runs is what was sent."""
        filler = "# " + "x" * 100 + "\n"
        text = filler * 20000 + "f() { cat <<'E'\n'\"$x\\ `{{}}` é\nE\n}\nf; [ $# = 0 ] && exit 6\n"
        self.assertEqual(self.job(text).run(), (6, "'\"$x\\ `{{}}` é\n".encode()))

    def test_text_that_replaces_itself(self) -> None:
        """`exec`, `set -e` and options of the text don't reach the script around it."""
        self.assert_end("set -euo pipefail; exec false", "FAILED", 1)
        self.assert_end("exec 3>&- 4>&- >/dev/null; exit 0", "COMPLETED", 0)

    def test_other_nodes_failure(self) -> None:
        """The first node decides; what another says is output."""
        job = self.job(
            '[ "$PROCESS_PROCID" = 0 ] || { echo JARVICE_CMD_FAILURE; exit 5; }', nodes=2
        )
        job.run()
        self.assertEqual((job.verdict(), job.record("verdict")), (("COMPLETED", 0), ""))

    def test_name(self) -> None:
        """A name of any kind finds its folder."""
        name = 'it\'s $HOME `id` "x" é'
        job = self.job("echo ok", name=name)
        self.assertEqual(job.run(), (0, b"ok\n"))
        self.assertEqual(job.record("name"), name)

    def test_no_text(self) -> None:
        """Where the home is not shared with the node, the job says so and fails."""
        job = self.job("echo never")
        (job.submission / "node.sh").unlink()
        status, output = job.run()
        self.assertEqual((status, job.verdict()), (1, ("FAILED", 1)))
        self.assertIn(b"not shared with the login node", output)

    def test_id_is_noted(self) -> None:
        """A job that starts before its submission was answered leaves its id there."""
        job = self.job("true")
        (job.submission / "jobid").unlink()
        job.run()
        self.assertEqual((job.submission / "jobid").read_text(), "41\n")

    def test_leftovers_of_another_job(self) -> None:
        """Where Slurm gives out an id again, the old job's records don't answer for the new."""
        job = self.job("exit 3")
        for name in ("answer", "cancelled", "code", "verdict", "read.0", "watched"):
            job.node.write(f"jobs/41/{name}", "JARVICE_CMD_SUCCESS 0\n")
        job.node.write("jobs/41/name", "other\n")
        job.run()
        self.assertEqual(job.verdict(), ("FAILED", 3))
        self.assertEqual((job.record("answer"), job.record("cancelled")), (None, None))

    def test_cancelled_before_it_began(self) -> None:
        """A note made for this job stays."""
        job = self.job("true")
        job.node.write("jobs/41/name", "x\n")
        job.node.write("jobs/41/cancelled", "5\n")
        job.run()
        self.assertEqual(job.record("cancelled"), "5")


class ClaimTests(BatchTestCase):
    """Two jobs of one submission: Slurm made both, where an answer was lost and it was retried."""

    def test_first(self) -> None:
        """Where no attempt has noted an id yet, the first job to begin is the job."""
        job = self.job("echo ran")
        (job.submission / "jobid").unlink()
        self.assertEqual(job.run(), (0, b"ran\n"))
        self.assertEqual((job.submission / "jobid").read_text(), "41\n")
        self.assertEqual({path.name for path in job.submission.iterdir()}, {"jobid"})

    def test_second(self) -> None:
        """The other one does nothing, says nothing and leaves nothing."""
        job = self.job("echo ran")
        (job.submission / "jobid").write_text("40\n")
        before = job.node.files()
        self.assertEqual(job.run(), (0, b""))
        self.assertEqual(job.node.files(), before)
        self.assertEqual(job.node.calls("srun"), [])

    def test_text_put_there_again(self) -> None:
        """What a second attempt put there for the job that ran already is removed at its end."""
        job = self.job("echo again >$HOME/.jarvice/submit/x/node.sh")
        job.run()
        self.assertFalse((job.submission / "node.sh").exists())
