"""The platform administrator's devices, and sbatch's options for a job."""

from __future__ import annotations

import shlex

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.devices import Devices, parse_devices
from jarvice_slurmd.jobs.model import JobRequest, Submission
from jarvice_slurmd.jobs.script import render_sbatch_options
from jarvice_slurmd.slurm.commands import render_root
from test.properties import property_test

# sbatch(1), 22.05 to 25.05: long options by which a device could run another text than the job's,
# run it as somebody else or more than once, answer instead of submitting, or hide the job from us.
_DANGEROUS = (
    "array",
    "chdir",
    "clusters",
    "error",
    "export-file",
    "get-user-env",
    "gid",
    "help",
    "hold",
    "input",
    "job-name",
    "nodes",
    "ntasks",
    "output",
    "parsable",
    "requeue",
    "test-only",
    "uid",
    "usage",
    "version",
    "wait",
    "wrap",
)


class DevicesTests(SynchronousTestCase):
    """`parse_devices`."""

    def assert_refused(self, device: str, *words: str) -> None:
        with self.assertRaises(InvalidArgumentsError, msg=device) as caught:
            parse_devices([device])
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_none(self) -> None:
        """Without devices the job has its nodes for itself, and the platform's overlay."""
        self.assertEqual(
            parse_devices([]), Devices(partition=None, exclusive=True, overlay=None, options=())
        )

    def test_known(self) -> None:
        """Each of them."""
        devices = parse_devices(
            ["partition=all", "exclusive=False", "overlay=1024", "sbatch_qos=BIG", "sbatch_x-y="]
        )
        self.assertEqual(
            devices,
            Devices(
                partition="all",
                exclusive=False,
                overlay=1024,
                options=(("qos", "BIG"), ("x-y", "")),
            ),
        )

    def test_value_with_equals_sign(self) -> None:
        """Only the first one divides."""
        self.assertEqual(parse_devices(["sbatch_gres=gpu:a=b=c"]).options, (("gres", "gpu:a=b=c"),))

    def test_order_and_repetition(self) -> None:
        """Options keep their order; of what there can be one, the last counts."""
        devices = parse_devices(
            ["sbatch_qos=1", "sbatch_gres=2", "sbatch_qos=3", "overlay=1", "overlay=2"]
        )
        self.assertEqual(devices.options, (("qos", "1"), ("gres", "2"), ("qos", "3")))
        self.assertEqual(devices.overlay, 2)

    def test_booleans(self) -> None:
        """Python's and everybody's spellings; anything else is named."""
        for value in ("True", "true", "yes", "1"):
            self.assertTrue(parse_devices([f"exclusive={value}"]).exclusive)
        for value in ("False", "FALSE", "no", "0"):
            self.assertFalse(parse_devices([f"exclusive={value}"]).exclusive)
        self.assert_refused("exclusive=maybe", "exclusive=maybe")
        self.assert_refused("exclusive=", "exclusive=")

    def test_overlay(self) -> None:
        """A whole number of MB, 0 included."""
        self.assertEqual(parse_devices(["overlay=0"]).overlay, 0)
        for value in ("", "-1", "1G", "1.5", "x", "٣", "9" * 10, "$(id)"):
            self.assert_refused(f"overlay={value}", f"overlay={value}")

    def test_overlay_of_one_job(self) -> None:
        """What one job asks for is no other's (TRAPS: it stayed for all later ones)."""
        parse_devices(["overlay=1024"])
        self.assertIsNone(parse_devices(["partition=a"]).overlay)

    def test_malformed(self) -> None:
        """A device without an equals sign, by its name."""
        for device in ("partition", "", "--wrap", "sbatch_qos"):
            self.assert_refused(device, repr(device), "malformed")

    def test_unknown(self) -> None:
        """Any other device, by its name."""
        for device in ("gpu=1", "=", "Partition=a", "sbatch-qos=a", " partition=a", "SBATCH_qos=a"):
            self.assert_refused(device, repr(device), "unknown")

    def test_no_partition(self) -> None:
        """An empty partition is not the default one."""
        self.assert_refused("partition=", "partition")

    def test_no_option(self) -> None:
        """What is no long option's name: it can't smuggle another option or a command."""
        for name in (
            "",
            "-wrap",
            "qos --wrap",
            "a b",
            "a;id",
            "a'b",
            "Qos",
            "q_s",
            "é",
            "a.b",
            "1",
        ):
            self.assert_refused(f"sbatch_{name}=x", "sbatch_")

    def test_refused_options(self) -> None:
        """Those that the scheduler keeps, and every beginning of them: getopt takes those too."""
        for option in _DANGEROUS:
            for length in range(1, len(option) + 1):
                if option[:length] != "export":
                    self.assert_refused(f"sbatch_{option[:length]}=x", option[:length])

    def test_useful_options(self) -> None:
        """What administrators do set stays possible."""
        for option in (
            "account",
            "comment",
            "constraint",
            "cpu-freq",
            "distribution",
            "exclude",
            "export",
            "gres",
            "mail-type",
            "mem-per-cpu",
            "nodelist",
            "qos",
            "reservation",
            "signal",
            "switches",
            "tmp",
            "wckey",
        ):
            self.assertEqual(parse_devices([f"sbatch_{option}=x"]).options, ((option, "x"),))

    def test_control_characters(self) -> None:
        """Line feeds and NULs have no place in an option."""
        for device in ("partition=a\nb", "sbatch_comment=\0", "sbatch_comment=\x1b[2J"):
            self.assert_refused(device, "control character")

    @given(st.lists(st.text(st.sampled_from("sbatch_partiovelyq=-, 01\n'\"$"), max_size=20)))
    @property_test(200)
    def test_raises_only_its_own_error(self, devices: list[str]) -> None:
        """Whatever is sent, what comes out begins like an option's name."""
        try:
            parsed = parse_devices(devices)
        except InvalidArgumentsError:
            return
        for name, _ in parsed.options:
            self.assertRegex(name, r"\A[a-z][a-z0-9-]*\Z")


class OptionsTests(SynchronousTestCase):
    """`render_sbatch_options`: PROTOCOL, sbatch."""

    def options(
        self,
        request: JobRequest | None = None,
        *,
        name: str = "20240101000000-ABCDE-app-joe_s1",
        nodes: int = 1,
        held: bool = False,
        scratch_dir: str | None = "/scratch/",
    ) -> list[str]:
        """The options as sbatch gets them."""
        request = request or JobRequest()
        submission = Submission(name=name, number=5, nodes=nodes, content="", held=held)
        root = render_root(scratch_dir)
        devices = parse_devices(request.devices)
        words = render_sbatch_options(submission, request, devices, root)
        self.assertEqual([len(shlex.split(word)) for word in words], [1] * len(words))
        return [shlex.split(word)[0] for word in words]

    def test_least(self) -> None:
        """What every job has, in this order."""
        self.assertEqual(
            self.options(nodes=2),
            [
                *("--parsable", "-J", "jarvice_20240101000000-ABCDE-app-joe_s1"),
                *("-o", "/scratch/.jarvice/20240101000000-ABCDE-app-joe_s1.out"),
                *("-N", "2", "-n", "2", "--exclusive"),
            ],
        )

    def test_everything(self) -> None:
        """What a job can have."""
        request = JobRequest(
            cores=4,
            ram=8,
            gpus=2,
            walltime="1-00:00:00",
            licenses="a:1,b",
            devices=("partition=all", "sbatch_qos=BIG", "sbatch_comment=a=b c"),
        )
        self.assertEqual(
            self.options(request, nodes=3, held=True)[5:],
            [
                *("-N", "3", "-n", "12", "-p", "all", "--mem=8G", "--gpus-per-node=2"),
                *("--exclusive", "--time=1-00:00:00", "-H", "-L", "a:1,b"),
                *("--qos=BIG", "--comment=a=b c"),
            ],
        )

    def test_exclusive(self) -> None:
        """A batch job may share; an interactive or GPU job never does."""
        shares = JobRequest(devices=("exclusive=False",))
        self.assertNotIn("--exclusive", self.options(shares))
        for request in (
            JobRequest(devices=("exclusive=False",), gpus=1),
            JobRequest(devices=("exclusive=False",), interactive=True),
        ):
            self.assertIn("--exclusive", self.options(request))

    def test_file_name_patterns(self) -> None:
        """sbatch replaces %j in a file name; a percent sign in a name is one all the same."""
        options = self.options(name="100%j", scratch_dir="/a%u/")
        self.assertEqual(options[options.index("-o") + 1], "/a%%u/.jarvice/100%%j.out")

    def test_home(self) -> None:
        """Without a scratch folder the output is in the user's home, as the login node knows it."""
        submission = Submission(name="x y", number=5, nodes=1, content="")
        options = render_sbatch_options(submission, JobRequest(), Devices(), render_root(None))
        self.assertEqual(options[4], "\"$HOME\"/.jarvice/'x y'.out")
