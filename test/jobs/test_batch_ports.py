"""jobs/batch.sh: an interactive job's ports; and what shellcheck says of the whole."""

from __future__ import annotations

import re
import subprocess
from importlib.resources import files

from twisted.trial.unittest import SynchronousTestCase

from test.jobs.batch_run import BatchRun


class InteractiveTests(SynchronousTestCase):
    """An interactive job's ports."""

    def job(self, text: str) -> BatchRun:
        job = BatchRun(text)
        self.addCleanup(job.remove)
        return job

    def test_ports(self) -> None:
        """Two different ones, told to the text and left for the daemon with node and address."""
        job = self.job('echo "$JARVICE_SERVICE_PORT $JARVICE_SSH_PORT"')
        job.node.write("submit/x/interactive", "{}\n")
        status, output = job.run()
        service, ssh = output.decode().split()
        self.assertEqual(status, 0)
        self.assertNotEqual(service, ssh)
        self.assertEqual(job.record("service"), f"{service} n1 127.0.0.9")

    def test_batch_job(self) -> None:
        """A batch job has none."""
        job = self.job('echo "${JARVICE_SERVICE_PORT-none}"')
        self.assertEqual(job.run(), (0, b"none\n"))
        self.assertIsNone(job.record("service"))


class ShellcheckTests(SynchronousTestCase):
    """batch.sh, and the text in it that runs on every node, read by shellcheck."""

    def check(self, script: str, *options: str) -> None:
        done = subprocess.run(
            ["shellcheck", "--shell=bash", *options, "-"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_clean(self) -> None:
        """Nothing to say about either."""
        script = files("jarvice_slurmd.jobs").joinpath("batch.sh").read_text("utf-8")
        self.check(script)
        found = re.search(r"^on_node='\n(.*?)^'$", script, re.MULTILINE | re.DOTALL)
        assert found is not None
        # A function that a trap calls; a list of process ids that is meant to be split.
        self.check(found[1], "--exclude=SC2317,SC2046")
