"""What is quoted comes back from a real shell unchanged."""

from __future__ import annotations

import shutil

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.jobs.devices import Devices
from jarvice_slurmd.jobs.model import JobRequest, Submission
from jarvice_slurmd.jobs.script import render_sbatch_options
from jarvice_slurmd.slurm.commands import render_cancel, render_root
from jarvice_slurmd.slurm.submission import SubmitCall, render_submit
from test.properties import names, property_test, words
from test.slurm.sandbox import Sandbox

_ROOT = render_root(None)


def _submit(name: str, *options: str) -> SubmitCall:
    return render_submit(
        root=_ROOT,
        name=name,
        number=7,
        attempt="a1",
        options=options,
        node_script=b"",
        batch_script="",
    )


class SubmitTests(SynchronousTestCase):
    """`render_submit`, with names and folders of any kind."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)
        self.node.stub("sbatch", "cat >/dev/null; echo 41")
        self.node.stub("squeue", "echo 41")

    def run_call(self, call: SubmitCall) -> CommandResult:
        return self.node.run(call.script, call.stdin)

    def begin(self) -> None:
        """Each example has the login node for itself."""
        self.node.forget_calls()
        shutil.rmtree(self.node.root, ignore_errors=True)

    @given(names)
    @property_test(50)
    def test_name(self, name: str) -> None:
        """A job's name as a folder's name and as squeue's argument."""
        self.begin()
        self.node.write(f"submit/{name}/intent", "")
        result = self.run_call(_submit(name))
        self.assertEqual((result.status, result.stdout), (0, b"41\n"), result.stderr)
        self.assertIn(f"--name=jarvice_{name}", self.node.calls("squeue")[0])

    @given(names)
    @property_test(40)
    def test_name_of_a_number(self, name: str) -> None:
        """The note that leads from number to name holds the name."""
        self.begin()
        self.run_call(_submit(name))
        self.assertEqual((self.node.root / "numbers" / "7").read_text("utf-8"), f"{name}\n")

    @given(words.filter(lambda text: "/" not in text))
    @property_test(30)
    def test_scratch_folder(self, folder: str) -> None:
        """A scratch folder of any name."""
        scratch = self.node.folder / "scratch" / f"_{folder}"
        scratch.mkdir(parents=True, exist_ok=True)
        call = render_submit(
            root=render_root(f"{scratch}/"),
            name="x",
            number=1,
            attempt="a1",
            options=(),
            node_script=b"",
            batch_script="",
        )
        self.assertEqual(self.run_call(call).stdout, b"41\n")
        self.assertEqual((scratch / ".jarvice" / "numbers" / "1").read_text(), "x\n")

    @given(names, words, words, words, words)
    @property_test(80)
    def test_sbatch_options(
        self, name: str, partition: str, walltime: str, licenses: str, value: str
    ) -> None:
        """Every option is one argument of sbatch, as long as it is and whatever is in it."""
        self.begin()
        submission = Submission(name=name, number=7, nodes=3, content="", held=True)
        request = JobRequest(cores=2, ram=5, gpus=1, walltime=walltime, licenses=licenses)
        devices = Devices(partition=partition, options=(("qos", value), ("comment", "")))
        options = render_sbatch_options(submission, request, devices, _ROOT)
        self.run_call(_submit(name, *options))
        output = f"{self.node.root}/{name}.out".replace("%", "%%")
        self.assertEqual(
            self.node.calls("sbatch"),
            [
                [
                    "--parsable",
                    *("-J", f"jarvice_{name}", "-o", output, "-N", "3", "-n", "6"),
                    *("-p", partition, "--mem=5G", "--gpus-per-node=1", "--exclusive"),
                    *(f"--time={walltime}", "-H", "-L", licenses, f"--qos={value}", "--comment="),
                ]
            ],
        )


class CancelTests(SynchronousTestCase):
    """`render_cancel`, with names of any kind."""

    @given(names, st.booleans())
    @property_test(40)
    def test_name(self, name: str, force: bool) -> None:
        """scancel is told the whole name, in one argument."""
        node = Sandbox()
        self.addCleanup(node.remove)
        node.stub("scancel")
        self.assertEqual(
            node.run(render_cancel(root=_ROOT, name=name, jobid="41", force=force)).status, 0
        )
        for call in node.calls("scancel"):
            self.assertIn(f"--name=jarvice_{name}", call)
