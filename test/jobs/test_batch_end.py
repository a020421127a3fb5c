"""jobs/batch.sh, told to end: by a time limit, by a cancellation."""

from __future__ import annotations

import os

from test.jobs.batch_run import BatchRun
from test.jobs.test_batch import BatchTestCase


class EndTests(BatchTestCase):
    """SIGTERM for the whole job, and time to save work."""

    def end(self, reason: str, *, by_cgroup: bool = False) -> BatchRun:
        fifo = "$HOME/fifo"
        text = (
            f"trap 'echo farewell; exit 0' TERM; echo up >{fifo}\nwhile :; do /bin/sleep 0.05; done"
        )
        job = self.job(text)
        (job.node.home / "show_job").write_text(f"JobId=41 JobState=RUNNING Reason={reason}\n")
        os.mkfifo(job.node.home / "fifo")
        job.start()
        self.assertEqual((job.node.home / "fifo").read_text(), "up\n")
        job.terminate(by_cgroup=by_cgroup)
        _, output = job.finish()
        self.assertIn(b"farewell\n", output)
        return job

    def test_cancelled(self) -> None:
        """The text says its farewell, and the record says what Slurm will say."""
        self.assertEqual(self.end("None").verdict()[0], "CANCELLED")

    def test_time_limit(self) -> None:
        """So it does for a time limit."""
        self.assertEqual(self.end("TimeLimit").verdict()[0], "TIMEOUT")

    def test_cancelled_by_cgroup(self) -> None:
        """Where Slurm tells only the first process of a task, the text is told all the same."""
        self.assertEqual(self.end("None", by_cgroup=True).verdict()[0], "CANCELLED")

    def test_executor_tells_its_own_processes(self) -> None:
        """By cgroup the executor alone is told once its container is up, not what runs in it."""
        command = "trap 'echo child told' TERM; echo up >$HOME/fifo; read line <$HOME/fifo"
        text = (
            'mkdir "$JARVICE_JOB_DIR/node.0"; : >"$JARVICE_JOB_DIR/node.0/tells"\n'
            f"trap 'echo executor told; echo >$HOME/fifo' TERM\n({command}; echo child done) &\n"
            "while kill -0 $!; do wait $!; done; exit 0"
        )
        job = self.job(text)
        os.mkfifo(job.node.home / "fifo")
        job.start()
        self.assertEqual((job.node.home / "fifo").read_text(), "up\n")
        job.terminate(by_cgroup=True)
        _, output = job.finish()
        self.assertIn(b"executor told\nchild done\n", output)
        self.assertNotIn(b"child told", output)

    def test_cancelled_as_it_begins(self) -> None:
        """A signal that comes while the text is being started is not lost.

        The text sends it (`$$` is the node's first process) when that hardly knows it yet.
        """
        text = "trap 'echo farewell; exit 0' TERM; kill $$; while :; do /bin/sleep 0.05; done"
        _, output = self.job(text, lag="jarvice_shell=$!").run()
        self.assertIn(b"farewell\n", output)


class KilledTests(BatchTestCase):
    """SIGKILL: what bash has to say of it shows our own commands, which are not the user's."""

    def test_files_of_the_nodes(self) -> None:
        """An abort kills the texts before they can remove their files: they go all the same."""
        text = (
            'mkdir -p "$JARVICE_JOB_DIR/node.$PROCESS_PROCID/JARVICE" "$HOME/w/jarvice-41.a b=XY"\n'
            'echo "$HOME/w/jarvice-41.a b=XY" >"$JARVICE_JOB_DIR/node.$PROCESS_PROCID/work"\n'
            'echo disk >"$JARVICE_JOB_DIR/node.$PROCESS_PROCID/overlay.img.ext3"\n'
            'echo secret >"$JARVICE_JOB_DIR/node.$PROCESS_PROCID/JARVICE/.command"\n'
            "kill -9 $BASHPID"
        )
        job = self.job(text, nodes=2)
        job.run()
        self.assertEqual(job.verdict(), ("FAILED", 137))
        self.assertEqual([path.name for path in job.job.glob("node.*")], [])
        self.assertEqual(list((job.node.home / "w").iterdir()), [])

    def test_told_to_end_while_it_is_noted(self) -> None:
        """Slurm's SIGTERM ends what writes the record, too: it is written again, without a word."""
        job = self.job('/bin/kill -TERM "$(cat "$HOME/batch")"; sleep 0.1; echo said')
        job.node.stub(
            "mv",
            'case $* in *exit) [ -e ~/mv ] || { echo >~/mv; kill $$; } ;; esac; exec /bin/mv "$@"',
        )
        job.start()
        (job.node.home / "batch").write_text(f"{job.pid}\n")
        _, output = job.finish()
        self.assertEqual(job.verdict()[0], "CANCELLED")
        self.assertTrue((job.node.home / "mv").exists())
        self.assertEqual(output, b"said\n")

    def test_other_folders(self) -> None:
        """What a job's file calls its work folder and is none of this job's stays."""
        for folder in (
            "",
            "/",
            "$HOME/kept",
            "$HOME/kept/jarvice-41.abcdef/..",
            "jarvice-42.abcdef",
        ):
            job = self.job(
                'mkdir -p "$JARVICE_JOB_DIR/node.0" "$HOME/kept/jarvice-41.abcdef"\n'
                'cd "$HOME/kept" && mkdir jarvice-42.abcdef\n'
                f'echo "{folder}" >"$JARVICE_JOB_DIR/node.0/work"; kill -9 $BASHPID'
            )
            job.node.stub("rm", 'exec /bin/rm "$@"')
            job.run()
            kept = {path.name for path in (job.node.home / "kept").iterdir()}
            self.assertEqual(kept, {"jarvice-41.abcdef", "jarvice-42.abcdef"}, folder)
            removed = [word for call in job.node.calls("rm") for word in call]
            self.assertEqual([word for word in removed if "kept" in word or word == "/"], [])

    def test_told_to_end_while_files_are_removed(self) -> None:
        """An abort's SIGTERM comes when the step is over: what is left goes all the same."""
        job = self.job('mkdir "$JARVICE_JOB_DIR/node.0"; kill -9 $BASHPID')
        # A remover that is told before it has removed anything, as all processes of a job are.
        job.node.stub("rm", 'case $* in *node.0*) kill $$ $PPID ;; esac\nexec /bin/rm "$@"')
        job.run()
        self.assertEqual(job.verdict(), ("CANCELLED", 137))
        self.assertEqual([path.name for path in job.job.glob("node.*")], [])

    def output_after_kill(self, which: int) -> tuple[str | None, str]:
        """One process of a job of two nodes is killed, and the rest ends by itself."""
        text = (
            "n=$PROCESS_PROCID; trap '' TERM; echo up >$HOME/up.$n; read line <$HOME/down.$n\n"
            'echo "node $n done"'
        )
        job = self.job(text, nodes=2)
        for name in ("up.0", "up.1", "down.0", "down.1"):
            os.mkfifo(job.node.home / name)
        job.start()
        for name in ("up.0", "up.1"):
            self.assertEqual((job.node.home / name).read_text(), "up\n")
        killed = job.kill(which)
        for name in ("down.0", "down.1"):
            # Read and write: it opens though the text may be gone.
            down = os.open(job.node.home / name, os.O_RDWR)
            self.addCleanup(os.close, down)
            os.write(down, b"go on\n")
        return killed, job.finish()[1].decode()

    def test_any_process(self) -> None:
        """Whichever dies first, nothing of our shell text stands in the output."""
        killed: list[str] = []
        while True:
            command, output = self.output_after_kill(len(killed))
            if command is None:
                break
            killed.append(command)
            self.assertNotRegex(output, r"line \d+:|jarvice_|SLURM_", command)
        self.assertIn("node 0 done", output)
        self.assertIn("node 1 done", output)
        # Those that bash waits for were among them: the step, the texts, the watch.
        for word in ("srun", "/bin/bash -c", "tee"):
            self.assertTrue(any(word in command for command in killed), killed)
