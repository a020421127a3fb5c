"""What is noted of interactive jobs, found again by a real shell, and read."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.model import Interactive
from jarvice_slurmd.slurm.commands import Status, render_root
from jarvice_slurmd.slurm.interactive import (
    MAX_ANSWER_BYTES,
    MAX_NUMBERS,
    InteractiveRecord,
    ServiceAddress,
    parse_interactive_records,
    parse_node_address,
    parse_prefix,
    render_find_interactive,
    render_interactive,
    render_node,
    render_settle_prefix,
)
from test.properties import names, property_test
from test.slurm.sandbox import Sandbox

ROOT = render_root(None)
JUPYTER = Interactive(
    url="https://%PUBLICADDR%:5902/%BASEURL%/lab?a=b",
    help="<p>Ünïcode, \"quotes\", 'these' too,\nand lines</p>",
    about="Jupyter",
    wants_prefix=True,
)


class SandboxTestCase(SynchronousTestCase):
    """A login node with the folders of jobs."""

    def setUp(self) -> None:
        self.sandbox = Sandbox()
        self.addCleanup(self.sandbox.remove)
        self.sandbox.root.mkdir()

    def note(
        self, number: int, name: str, jobid: str = "", about: Interactive | None = None
    ) -> None:
        """What a submission leaves of a job; `about` is None for a batch job."""
        self.sandbox.write(f"numbers/{number}", f"{name}\n")
        self.sandbox.write(f"submit/{name}/number", f"{number}\n")
        if jobid:
            self.sandbox.write(f"submit/{name}/jobid", f"{jobid}\n")
        if about is not None:
            self.sandbox.write(f"submit/{name}/interactive", render_interactive(about).decode())

    def find(self, *numbers: int) -> dict[int, InteractiveRecord]:
        """What a replica learns about these numbers."""
        result = self.sandbox.run(render_find_interactive(root=ROOT, numbers=numbers))
        self.assertEqual((result.status, result.stderr), (0, b""))
        return dict(parse_interactive_records(result.stdout))


class FindTests(SandboxTestCase):
    """`render_find_interactive`, `parse_interactive_records`."""

    def test_all_of_it(self) -> None:
        """What was noted and what the job left comes back as it was."""
        self.note(7, "a job's $name", "70", JUPYTER)
        for file, text in {
            "service": "20007 n1 127.100.1.11\n",
            "prefix": "keep\n",
            "url.txt": "https://the.image's/own\n",
            "password": "secret\n",
            "random128": "r" * 128 + "\n",
        }.items():
            self.sandbox.write(f"jobs/70/{file}", text)
        self.assertEqual(
            self.find(7),
            {
                7: InteractiveRecord(
                    name="a job's $name",
                    number=7,
                    jobid="70",
                    about=JUPYTER,
                    service=ServiceAddress(port=20007, node="n1"),
                    strip_prefix=False,
                    url="https://%PUBLICADDR%:5902/%BASEURL%/lab?a=b",
                    help="<p>Ünïcode, \"quotes\", 'these' too,\nand lines</p>",
                    password="secret",
                    random="r" * 128,
                )
            },
        )

    def test_words_of_the_image(self) -> None:
        """The image's URL and help count where the application has none of its own."""
        self.note(7, "job", "70", Interactive())
        self.sandbox.write("jobs/70/url.txt", "https://%PUBLICADDR%/x\n")
        self.sandbox.write("jobs/70/help.html", "<p>\nhelp</p>\n")
        found = self.find(7)[7]
        self.assertEqual((found.url, found.help), ("https://%PUBLICADDR%/x", "<p>\nhelp</p>\n"))

    def test_before_the_job_began(self) -> None:
        """A job that waits is known, its service is not."""
        self.note(7, "job", "70", Interactive())
        found = self.find(7)[7]
        self.assertEqual((found.jobid, found.service, found.strip_prefix), ("70", None, None))

    def test_several_at_once(self) -> None:
        """Each job is told apart from those around it, whatever is missing of them."""
        self.note(1, "one", "10", Interactive(about="1"))
        self.note(2, "batch", "20")
        self.note(3, "unsubmitted", "", Interactive())
        self.note(4, "four", "40", Interactive(about="4"))
        self.sandbox.write("jobs/10/password", "of one")
        self.sandbox.write("jobs/20/password", "of two")
        found = self.find(1, 2, 3, 4, 5)
        self.assertEqual(sorted(found), [1, 4])
        self.assertEqual((found[1].about.about, found[1].password), ("1", "of one"))
        self.assertEqual((found[4].about.about, found[4].password), ("4", ""))

    def test_nothing(self) -> None:
        """No job, no folder of numbers, no folder of ours at all: nobody is known."""
        self.assertEqual(self.find(7), {})
        self.note(1, "one", "10", Interactive())
        self.assertEqual(self.find(7), {})
        self.sandbox.write("numbers/8", "\n")
        self.sandbox.write("numbers/9", "../../outside\n")
        self.assertEqual(self.find(8, 9), {})

    def test_home_is_away(self) -> None:
        """A home that is not mounted is no answer."""
        result = self.sandbox.run(
            render_find_interactive(root=render_root("/nowhere/"), numbers=[7])
        )
        self.assertEqual(result.status, Status.NO_FOLDER)
        self.assertIn(b"/nowhere", result.stderr)
        self.note(7, "job", "70", Interactive())
        (self.sandbox.root / "numbers" / "7").unlink()
        (self.sandbox.root / "numbers" / "7").mkdir()
        result = self.sandbox.run(render_find_interactive(root=ROOT, numbers=[7]))
        self.assertEqual(result.status, Status.NO_FOLDER)

    def test_another_number(self) -> None:
        """A note that leads to a submission of another number answers for that one only."""
        self.note(7, "job", "70", Interactive())
        self.sandbox.write("numbers/8", "job\n")
        self.assertEqual(sorted(self.find(8)), [7])

    def test_bounded(self) -> None:
        """However large the files are: what is read of as many jobs as may be asked for fits."""
        huge = "\x01" * 2_000_000
        names = [f"{at:0200d}" for at in range(1, MAX_NUMBERS + 1)]
        for at, name in enumerate(names, 1):
            self.note(at, name, f"{at}", Interactive(url=huge, help=huge, about=huge))
            for file in ("service", "prefix", "url.txt", "help.html", "password", "random128"):
                (self.sandbox.root / f"jobs/{at}").mkdir(parents=True, exist_ok=True)
                (self.sandbox.root / f"jobs/{at}/{file}").symlink_to("/dev/zero")
        result = self.sandbox.run(
            render_find_interactive(root=ROOT, numbers=range(1, MAX_NUMBERS + 1))
        )
        self.assertEqual(result.status, 0)
        self.assertLessEqual(len(result.stdout), MAX_ANSWER_BYTES)
        found = parse_interactive_records(result.stdout)
        self.assertEqual(len(found), MAX_NUMBERS)
        self.assertEqual(set(found[1].about.url or ""), {"\x01"})

    @given(names)
    @property_test(30)
    def test_any_name(self, name: str) -> None:
        """A job of any name that may be submitted is found."""
        self.note(7, name, "70", Interactive())
        self.assertEqual(self.find(7)[7].name, name)


class SettleTests(SandboxTestCase):
    """`render_settle_prefix`."""

    def settle(self, strip: bool) -> bool | None:
        """What is noted after a replica found this."""
        result = self.sandbox.run(render_settle_prefix(root=ROOT, jobid="70", strip=strip))
        self.assertEqual(result.status, 0, result.stderr)
        return parse_prefix(result.stdout.decode())

    def test_first_one_counts(self) -> None:
        """Whoever comes second is told what the first one noted."""
        for first in (True, False):
            self.sandbox.write("jobs/70/name", "job\n")
            self.assertEqual(self.settle(first), first)
            self.assertEqual(self.settle(not first), first)
            self.assertEqual(self.sandbox.files(), {"jobs/70/name", "jobs/70/prefix"})
            (self.sandbox.root / "jobs/70/prefix").unlink()

    def test_no_job(self) -> None:
        """Nothing is noted where there is no job's folder, or no job id."""
        result = self.sandbox.run(render_settle_prefix(root=ROOT, jobid="70", strip=True))
        self.assertEqual(result.status, Status.NO_FOLDER)
        for jobid in ("", "..", "7/0", "$(x)"):
            with self.assertRaises(InvalidArgumentsError):
                render_settle_prefix(root=ROOT, jobid=jobid, strip=True)


class NodeTests(SandboxTestCase):
    """`render_node`, `parse_node_address`."""

    def test_asked(self) -> None:
        """Slurm is asked for that node alone, in one line."""
        self.sandbox.stub("scontrol", "echo NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=n1 Port=1")
        result = self.sandbox.run(render_node("n1 $(x)"))
        self.assertEqual(self.sandbox.calls("scontrol"), [["-o", "show", "node", "n1 $(x)"]])
        self.assertEqual(parse_node_address(result.stdout), "10.0.0.1")

    def test_read(self) -> None:
        """What is no address is none."""
        self.assertEqual(parse_node_address(b"NodeName=x NodeAddr=fe80::1\n"), "fe80::1")
        for said in (
            b"",
            b"Node x not found\n",
            b"NodeAddr=\n",
            b"XNodeAddr=1\n",
            b"NodeAddr=a/b\n",
        ):
            self.assertIsNone(parse_node_address(said), said)


class ParseTests(SynchronousTestCase):
    """What can't be read is as if it were not there."""

    def test_service(self) -> None:
        """Only what a job's script can have written is an address."""
        encoded = render_interactive(Interactive())
        for text, good in {
            "5902 n1 10.0.0.1": True,
            "5902 node-1.x fe80::1": True,
            "5902 n1": True,
            "1023 n1 n1": False,
            "0 n1 n1": False,
            "65536 n1 n1": False,
            "5902 -n n1": False,
            "5902 a;b n1": False,
            "5902 a/b n1": False,
            "5902 10.0.0.1:22 n1": False,
            "5902": False,
            "": False,
        }.items():
            lines = {"name": "x", "number": "1", "jobid": "2", "service": text}
            said = "".join(f"{key}={_base64(value)}\n" for key, value in lines.items())
            said += f"interactive={_base64(encoded.decode())}\n"
            found = parse_interactive_records(said.encode())[1]
            self.assertEqual(found.service is not None, good, text)

    def test_interactive(self) -> None:
        """A note of the wrong kind is none; wrong kinds within it are as if unset."""
        for text, about in {
            "": None,
            "[]": None,
            "{": None,
            "[" * 90000: None,
            "{}": Interactive(),
            '{"url": 5, "help": null, "about": "x", "wants_prefix": "yes"}': Interactive(about="x"),
        }.items():
            lines = {"name": "x", "number": "1", "jobid": "2", "interactive": text}
            said = "".join(f"{key}={_base64(value)}\n" for key, value in lines.items())
            found = parse_interactive_records(said.encode())
            self.assertEqual(found[1].about if found else None, about, text[:20])

    @given(st.binary(max_size=300))
    @property_test(300)
    def test_never_raises(self, said: bytes) -> None:
        """Whatever is printed."""
        parse_interactive_records(b"name=eA==\nnumber=MQ==\njobid=Mg==\n" + said)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
