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
