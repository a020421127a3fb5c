"""jobs/executor.sh, run by a real bash: told to end, and killed."""

from __future__ import annotations

import os
import shutil
from shlex import quote

from test.jobs.executor_run import ExecutorTestCase


class EndingTests(ExecutorTestCase):
    def test_farewell(self) -> None:
        saved = self.folder / "saved"
        node = self.start(
            {
                "command": f"trap 'echo work >{saved}; echo farewell; exit 5' TERM; echo ready;"
                " while :; do sleep 0.1; done"
            }
        )
        node.read_until("\nready\n")
        node.terminate()
        status, output = node.finish()
        self.assertEqual(status, 5, output)
        self.assertEqual(output.count("farewell"), 1)
        self.assertEqual(saved.read_text(), "work\n")
        self.assert_clean()

    def test_what_a_shell_started_may_save_its_work(self) -> None:
        """The shell dies of SIGTERM, its child does not; the container stays for the child."""
        gate = self.folder / "gate"
        os.mkfifo(gate)
        child = f"trap : TERM; echo ready; while ! read line; do :; done <{gate}; echo saved"
        node = self.start({"command": f"cd /; sh -c {quote(child)}; echo not reached"})
        with gate.open("w") as opened:
            node.read_until("\nready\n")
            node.terminate()
            node.read_until("told to end")
            opened.write("now\n")
        status, output = node.finish()
        self.assertEqual(status, 143, output)
        self.assertIn("\nsaved\n", output)
        self.assertNotIn("not reached", output)

    def test_default_is_to_die(self) -> None:
        node = self.start({"command": "echo ready; exec sleep 1000"})
        node.read_until("\nready\n")
        node.terminate()
        self.assertEqual(node.finish()[0], 143)

    def test_before_the_command(self) -> None:
        """What comes before the command ends at once, and the command does not begin."""
        for jobid, kind in enumerate(("OVERLAY", "RUN"), start=1):
            gate = self.folder / f"gate-{kind}"
            os.mkfifo(gate)
            node = self.start(
                {"command": "echo started", "init": True},
                jobid=jobid,
                parameters={"JARVICE_INIT_IMAGE": "docker://sys/initv2:1"},
                environ={f"FAKE_{kind}_GATE": str(gate)},
            )
            with gate.open("w"):  # opened once it is at it, and kept open
                node.tell()
                status, output = node.finish()
            self.assertEqual(status, 143, output)
            self.assertIn("told to end", output)
            self.assertNotIn("\nstarted\n", output)
            self.assertNotIn("error:", output)
            self.assertEqual(self.asked("exec --overlay"), [])
            self.assert_clean(jobid)

    def test_other_nodes_stay_until_the_command_has_ended(self) -> None:
        gate = self.folder / "gate"
        os.mkfifo(gate)
        command = f"trap : TERM; echo ready; while ! read line; do :; done <{gate}; exit 4"
        first = self.start({"command": command}, rank=0, nodes=2)
        second = self.start({"command": command}, rank=1, nodes=2)
        with gate.open("w") as opened:
            first.read_until("\nready\n")
            for node in (first, second):
                node.read_until("container up")
                node.terminate()
                node.read_until("told to end")
            self.assertTrue((self.job_folder(1) / "node.1").exists())
            opened.write("now\n")
        self.assertEqual(first.finish()[0], 4)
        status, output = second.finish()
        self.assertEqual(status, 0, output)
        self.assertIn("ended with the job", output)


class KilledTests(ExecutorTestCase):
    """SIGKILL: what bash has to say of it shows our own commands, which are not the user's."""

    def assert_silent(self, output: str, killed: str) -> None:
        # What stands for the container tool, and what stands for batch.sh, are bash too.
        ours = [line for line in output.splitlines() if "environment: line" in line]
        self.assertEqual(ours, [], killed)
        self.assertNotIn("executor_", output, killed)

    def test_while_the_command_runs(self) -> None:
        """Whichever process dies first, nothing of our shell text stands in the output."""
        killed: list[str] = []
        while True:
            jobid = len(killed) + 1
            gate = self.folder / f"gate{jobid}"
            os.mkfifo(gate)
            node = self.start({"command": f"echo ready; read line <{gate}; echo fine"}, jobid=jobid)
            node.read_until("\nready\n")
            command = node.kill(len(killed))
            # Read and write: it opens though the command may be gone.
            gone = os.open(gate, os.O_RDWR)
            self.addCleanup(os.close, gone)
            os.write(gone, b"go on\n")
            _, output = node.finish()
            if command is None:
                break
            killed.append(command)
            self.assert_silent(output, command)
        self.assertIn("\nfine\n", output)
        self.assertTrue(any("apptainer" in command for command in killed), killed)

    def test_while_it_pulls(self) -> None:
        """So it is with what an image takes long to be made by."""
        killed: list[str] = []
        while True:
            jobid = len(killed) + 1
            shutil.rmtree(self.scratch / ".jarvice/images", ignore_errors=True)
            gate = self.folder / f"gate{jobid}"
            os.mkfifo(gate)
            node = self.start(jobid=jobid, environ={"FAKE_GATE": str(gate)})
            with gate.open("w"):  # opened once it converts
                command = node.kill(len(killed))
            _, output = node.finish()
            if command is None:
                break
            killed.append(command)
            self.assert_silent(output, command)
        self.assertTrue(any("flock" in x or "apptainer" in x for x in killed), killed)
