"""Where interactive jobs are, as a replica finds out: cluster, services and clock in memory."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from jarvice_slurmd.errors import (
    ForwardingRefusedError,
    NotConnectedError,
    SlurmUnavailableError,
    StorageError,
)
from jarvice_slurmd.interactive.directory import (
    LONGEST_PATIENCE,
    NO_INFO,
    OUTAGE_SECONDS,
    WAIT_SECONDS,
    JobDirectory,
)
from jarvice_slurmd.interactive.interfaces import (
    IJobDirectory,
    Service,
    Stage,
    Unknown,
    Waiting,
)
from jarvice_slurmd.interactive.known import MAX_KNOWN
from jarvice_slurmd.interactive.probe import PROBE_SECONDS, ServiceProbe
from jarvice_slurmd.interactive.records import PAUSE_SECONDS
from jarvice_slurmd.interactive.routing import JobsDomain
from jarvice_slurmd.interfaces import CommandResult, IJobInfo
from jarvice_slurmd.jobs.model import Interactive, JobInfo, JobRef
from jarvice_slurmd.slurm.interactive import render_interactive
from jarvice_slurmd.snapshot import QueueSnapshot
from test.fakes import ScriptedShell
from test.interactive.fake_services import (
    BY_HOST,
    BY_PATH,
    FakeServices,
    at_root,
    printed,
    status,
    under_prefix,
)

T = TypeVar("T")

NAME = "20260101000000-ABCDE-app-user_s1"
REF = JobRef(name=NAME, number=7, jobid="70")
# What a job writes of its node's address is for people: Slurm's own word is 10.0.0.1.
SERVICE = "20007 n1 192.0.2.1"
AT_ROOT = Service(host="10.0.0.1", port=20007, strip_prefix=True)
UNDER_PREFIX = Service(host="10.0.0.1", port=20007)
FIND = "tell()"
SETTLE = '>".prefix'


class DirectoryTestCase(SynchronousTestCase):
    """A directory, and the cluster that it asks: job 7 is Slurm's job 70."""

    domain: JobsDomain = BY_PATH

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.shell = ScriptedShell()
        self.doubt = b""
        self.shell.answer("scontrol -o show job", lambda: self.doubt)
        self.shell.answer("squeue", lambda: self.queue.encode())
        self.shell.answer(FIND, lambda: self.records)
        self.shell.answer(SETTLE, b"strip\n")
        self.shell.answer("show node n1", b"NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=n1\n")
        self.shell.answer("show node n2", b"NodeName=n2 NodeAddr=10.0.0.2 NodeHostName=n2\n")
        self.services = FakeServices(self.clock)
        self.announced: list[tuple[str, int]] = []
        self.directory = self.make_directory()
        self.records = printed(NAME, 7, "70", service=SERVICE)
        self.queue = self.line("R")

    def make_directory(self) -> JobDirectory:
        """What one replica has."""
        return JobDirectory(
            shell=self.shell,
            snapshot=QueueSnapshot(self.shell, self.clock, make_mark=str),
            probe=ServiceProbe(opener=self.services, clock=self.clock),
            clock=self.clock,
            domain=self.domain,
            root='"$HOME"/.jarvice',
            announce=lambda node, port: self.announced.append((node, port)),
        )

    def line(self, state: str, *, name: str = f"jarvice_{NAME}", reason: str = "None") -> str:
        """What squeue says of job 70."""
        return f"70|{state}|0:05|n1|{reason}|{name}\n"

    def serve(self, answer: Any = at_root, host: str = "10.0.0.1") -> None:
        """Have a service answer."""
        self.services.answers[host, 20007] = answer

    def start(self, question: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Ask, and let the clock's turns pass, but no time."""
        asked = Deferred.fromCoroutine(question)
        self.clock.pump([0] * 20)
        return asked

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """Ask, and let the time pass that Slurm must not be asked more often than."""
        asked = Deferred.fromCoroutine(question)
        self.clock.pump([0.125] * 20)
        return self.successResultOf(asked)

    def resolve(self, number: int = 7) -> Service | Waiting | Unknown:
        """Where a number leads."""
        return self.ask(self.directory.resolve(number))

    def pass_time(self, seconds: float) -> None:
        """Let seconds pass."""
        self.clock.pump([0.125] * int(seconds * 8))


class StageTests(DirectoryTestCase):
    """A job's way, as who opens its address sees it."""

    def test_missing_from_the_queue(self) -> None:
        """A job that Slurm knows, though its queue lacks it, is not gone."""
        self.serve()
        self.assertEqual(self.resolve(), AT_ROOT)
        self.queue, self.doubt = "", b"slurm=0\n"
        self.pass_time(10)
        self.assertEqual(self.resolve(), AT_ROOT)
        self.pass_time(OUTAGE_SECONDS)
        asked = Deferred.fromCoroutine(self.directory.resolve(7))
        self.pass_time(3)
        self.failureResultOf(asked, SlurmUnavailableError)
        self.doubt = b"slurm=1 Invalid job id specified\n"
        self.assertEqual(self.resolve(), Unknown())

    def test_interfaces(self) -> None:
        """It is what the front and the API ask for."""
        verifyObject(IJobDirectory, self.directory)
        verifyObject(IJobInfo, self.directory)

    def test_unknown(self) -> None:
        """A number that nobody noted; asked again at once the cluster is not."""
        self.records = b""
        self.assertEqual(self.start(self.directory.resolve(7)).result, Unknown())
        for _ in range(10):
            self.assertEqual(self.start(self.directory.resolve(7)).result, Unknown())
        self.assertEqual(len(self.shell.asked(FIND)), 1)
        self.assertEqual(len(self.shell.asked("squeue")), 0)
        self.pass_time(1)
        self.resolve()
        self.assertEqual(len(self.shell.asked(FIND)), 2)

    def test_batch_job(self) -> None:
        """A batch job's number leads nowhere: its submission noted no service."""
        self.records = printed(NAME, 7, "70", service=SERVICE, interactive="")
        self.serve()
        self.assertEqual(self.resolve(), Unknown())
        self.assertEqual(self.services.opened, [])

    def test_whole_way(self) -> None:
        """Queued and why, starting, port not open, ready, ended."""
        self.queue = self.line("PD", reason="Resources")
        self.records = printed(NAME, 7, "70")
        self.assertEqual(self.resolve(), Waiting(stage=Stage.QUEUED, detail="Resources"))
        self.queue = self.line("CF")
        self.assertEqual(self.resolve(), Waiting(stage=Stage.QUEUED, detail=""))
        self.queue = self.line("R")
        self.assertEqual(self.resolve(), Waiting(stage=Stage.STARTING))
        self.records = printed(NAME, 7, "70", service=SERVICE)
        self.assertEqual(self.resolve(), Waiting(stage=Stage.PORT_CLOSED))
        self.serve(lambda path: status(502))
        self.assertEqual(self.resolve(), Waiting(stage=Stage.PORT_CLOSED))
        self.assertEqual(self.announced, [])
        self.serve()
        self.assertEqual(self.resolve(), AT_ROOT)
        self.queue = self.line("CD")
        self.pass_time(6)
        self.assertEqual(self.resolve(), Unknown())
        self.records = b""
        self.assertEqual(self.resolve(), Unknown())
        self.assertEqual(self.announced, [("n1", 20007)])

    def test_every_end(self) -> None:
        """However it ended, it has."""
        self.serve()
        for state in ("CD", "F", "CA", "TO", "NF", "OOM", "PR"):
            self.queue = self.line("R")
            self.assertEqual(self.resolve(), AT_ROOT)
            self.queue = self.line(state)
            self.pass_time(6)
            self.assertEqual(self.resolve(), Unknown(), state)
            self.pass_time(1)

    def test_forgotten(self) -> None:
        """A job that Slurm no longer has is gone; that it lacked it once is not enough."""
        self.serve()
        self.resolve()
        there, self.queue = self.queue, ""
        self.pass_time(6)
        asked = self.start(self.directory.resolve(7))
        self.assertNoResult(asked)
        self.queue = there
        self.pass_time(1)
        self.assertEqual(self.successResultOf(asked), AT_ROOT)
        self.queue = ""
        self.pass_time(6)
        self.assertEqual(self.resolve(), Unknown())

    def test_another_name(self) -> None:
        """Slurm gave the job id to another job: not ours to lead to."""
        self.serve()
        for name in ("jarvice_20260101000000-OTHER-app-user_s1", NAME, "x"):
            self.queue = self.line("R", name=name)
            self.assertEqual(self.resolve(), Unknown(), name)
        self.assertEqual(self.services.opened, [])

    def test_another_users_job(self) -> None:
        """A job that squeue does not list among ours does not exist for us."""
        self.serve()
        self.queue = "71|R|0:05|n1|None|jarvice_other\n"
        self.assertEqual(self.resolve(), Unknown())
        self.assertEqual(self.services.opened, [])

    def test_state_nobody_knows(self) -> None:
        """From a state that stands in no table nothing is concluded."""
        self.serve()
        self.queue = self.line("XX")
        self.assertEqual(self.resolve(), Waiting(stage=Stage.PORT_CLOSED))
        self.queue = self.line("R")
        self.assertEqual(self.resolve(), AT_ROOT)
        self.queue = self.line("XX")
        self.pass_time(6)
        self.assertEqual(self.resolve(), AT_ROOT)

    def test_number_is_given_again(self) -> None:
        """A number whose job has ended leads to the next job of that number."""
        self.serve()
        self.resolve()
        self.queue = self.line("CD") + "80|R|0:05|n2|None|jarvice_next\n"
        self.records = printed("next", 7, "80", service="20008 n2 10.0.0.2")
        self.services.answers["10.0.0.2", 20008] = at_root
        self.pass_time(6)
        self.resolve()
        self.pass_time(1)
        self.assertEqual(self.resolve(), Service(host="10.0.0.2", port=20008, strip_prefix=True))


class ClosedPortTests(DirectoryTestCase):
    """A job that was reached, and whose port can't be connected to any more."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()
        self.assertEqual(self.resolve(), AT_ROOT)

    def ask_slurm(self) -> None:
        """Somebody else asks, a moment before."""
        before = len(self.shell.asked("squeue"))
        self.start(self.directory.resolve(7))
        self.assertEqual(len(self.shell.asked("squeue")) - before, 1)
        self.pass_time(0.125)

    def has_ended(self, number: int = 7) -> bool:
        """What who could not connect is told."""
        return self.ask(self.directory.has_ended(number))

    def test_ended(self) -> None:
        """Slurm says so at once, where the service was trusted for seconds more."""
        self.queue = self.line("CD")
        self.assertEqual(self.start(self.directory.resolve(7)).result, AT_ROOT)
        self.assertTrue(self.has_ended())
        self.assertEqual(self.start(self.directory.resolve(7)).result, Unknown())
        self.assertTrue(self.has_ended())

    def test_forgotten(self) -> None:
        """A job that Slurm no longer has is looked for twice."""
        self.queue, before = "", len(self.shell.asked("squeue"))
        self.assertTrue(self.has_ended())
        self.assertEqual(len(self.shell.asked("squeue")) - before, 2)
        self.assertIsInstance(self.resolve(), Unknown)

    def test_missed_once(self) -> None:
        """That one answer lacks it ends nothing."""
        there, self.queue = self.queue, ""
        asked = self.start(self.directory.has_ended(7))
        self.pass_time(0.5)
        self.assertNoResult(asked)
        self.queue = there
        self.pass_time(2)
        self.assertFalse(self.successResultOf(asked))
        self.assertEqual(self.resolve(), AT_ROOT)

    def test_runs(self) -> None:
        """A job whose application is restarting runs on; no older answer says so."""
        before = len(self.shell.asked("squeue"))
        self.assertFalse(self.has_ended())
        self.assertEqual(len(self.shell.asked("squeue")) - before, 1)
        self.assertEqual(self.resolve(), AT_ROOT)

    def test_answer_of_before(self) -> None:
        """What Slurm was asked before the port was found closed does not count."""
        self.ask_slurm()
        asked = self.start(self.directory.has_ended(7))
        self.assertNoResult(asked)
        self.queue = self.line("CA")
        self.pass_time(1)
        self.assertTrue(self.successResultOf(asked))

    def test_many_ask(self) -> None:
        """They share one question, and it is no earlier than any other would be."""
        self.ask_slurm()
        before = len(self.shell.asked("squeue"))
        asked = [self.start(self.directory.has_ended(7)) for _ in range(50)]
        self.pass_time(0.5)
        self.assertEqual(len(self.shell.asked("squeue")), before)
        self.pass_time(1)
        self.assertEqual([self.successResultOf(one) for one in asked], [False] * 50)
        self.assertEqual(len(self.shell.asked("squeue")) - before, 1)

    def test_outage(self) -> None:
        """Where Slurm does not answer, or not in time, nothing has ended."""
        self.shell.answer("squeue", SlurmUnavailableError("away"))
        self.assertFalse(self.has_ended())
        self.assertEqual(self.resolve(), AT_ROOT)
        silence: Deferred[CommandResult] = Deferred()
        self.shell.answer("squeue", silence)
        asked = self.start(self.directory.has_ended(7))
        self.pass_time(4)
        self.assertNoResult(asked)
        self.pass_time(2)
        self.assertFalse(self.successResultOf(asked))

    def test_nobody_waits(self) -> None:
        """A browser that leaves stops waiting, and nothing else."""
        self.ask_slurm()
        asked = self.start(self.directory.has_ended(7))
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertFalse(self.has_ended())

    def test_never_known(self) -> None:
        """Of a number that nobody asked for before nothing is known, nor asked."""
        before = len(self.shell.commands)
        self.assertFalse(self.has_ended(8))
        self.assertEqual(len(self.shell.commands), before)


class ServiceTests(DirectoryTestCase):
    """Which port and which prefix."""

    def test_by_name(self) -> None:
        """Where the address does not answer the node's name is tried."""
        self.serve(host="n1")
        self.assertEqual(self.resolve(), Service(host="n1", port=20007, strip_prefix=True))
        self.assertEqual([host for host, _ in self.services.opened], ["10.0.0.1", "n1"])

    def test_nodes_are_hidden(self) -> None:
        """Where Slurm does not tell a node's address (PrivateData) its name has to do."""
        self.shell.refuse("show node", 1, b"Node n1 not found")
        self.serve(host="n1")
        self.assertEqual(self.resolve(), Service(host="n1", port=20007, strip_prefix=True))
        self.assertEqual(self.services.opened[0], ("n1", 20007))

    def test_only_its_own_node(self) -> None:
        """A job that says its service is elsewhere leads nowhere, nor does a port of the node's."""
        self.services.answers = {
            (host, port): at_root for host in ("n2", "10.0.0.2", "login") for port in (22, 20007)
        }
        for said in ("20007 n2 n2", "20007 login login", "22 n1 n1", "20007 10.0.0.2 n1"):
            self.records = printed(NAME, 7, "70", service=said)
            self.assertIsInstance(self.resolve(), Waiting, said)
        self.queue = self.line("R").replace("|n1|", "|n[1-2]|")
        self.records = printed(NAME, 7, "70", service="20007 n2 n2")
        self.assertIsInstance(self.resolve(), Waiting)
        self.assertEqual(self.services.opened, [])

    def test_under_prefix(self) -> None:
        """An application that knows its prefix keeps it, and that is noted for all."""
        self.shell.answer(SETTLE, b"keep\n")
        self.serve(under_prefix)
        self.assertEqual(self.resolve(), UNDER_PREFIX)
        (settled,) = self.shell.asked(SETTLE)
        self.assertIn("echo keep", settled.script)
        self.assertIn("/jobs/70", settled.script)

    def test_another_replica_was_first(self) -> None:
        """What the other one noted counts, not what is found later."""
        self.shell.answer(SETTLE, b"keep\n")
        self.serve(at_root)
        self.assertEqual(self.resolve(), UNDER_PREFIX)

    def test_settled_before(self) -> None:
        """What is noted already is not found out again."""
        self.records = printed(NAME, 7, "70", service=SERVICE, prefix="keep\n")
        self.serve(lambda path: status(200 if path == "/job7/" else 404))
        self.assertEqual(self.resolve(), UNDER_PREFIX)
        self.assertEqual(self.services.paths, ["/job7/"])
        self.assertEqual(self.shell.asked(SETTLE), [])

    def test_said_explicitly(self) -> None:
        """What the application says counts before what is noted or its URL shows."""
        for wants_prefix, service in ((True, UNDER_PREFIX), (False, AT_ROOT)):
            about = Interactive(wants_prefix=wants_prefix, url="https://%PUBLICADDR%/%BASEURL%/x")
            self.records = printed(
                NAME,
                7,
                "70",
                service=SERVICE,
                prefix="strip\n" if wants_prefix else "keep\n",
                interactive=render_interactive(about).decode(),
            )
            self.directory = self.make_directory()
            self.services.requests.clear()
            self.serve(lambda path: status(200))
            self.assertEqual(self.resolve(), service)
            self.assertEqual(self.services.paths, ["/job7/x" if wants_prefix else "/x"])
        self.assertEqual(self.shell.asked(SETTLE), [])

    def test_url_names_the_prefix(self) -> None:
        """An application whose URL holds its prefix serves under it."""
        self.records = printed(
            NAME, 7, "70", service=SERVICE, url_txt="https://%PUBLICADDR%/%BASEURL%/lab"
        )
        self.serve(lambda path: status(200))
        self.assertEqual(self.resolve(), UNDER_PREFIX)
        self.assertEqual(self.services.paths, ["/job7/lab"])

    def test_not_noted(self) -> None:
        """A full disk does not keep a job from its user."""
        for outcome in (
            NotConnectedError("x"),
            CommandResult(status=1, stdout=b"", stderr=b"full"),
        ):
            self.shell.answer(SETTLE, outcome)
            self.directory = self.make_directory()
            self.serve()
            self.assertEqual(self.resolve(), AT_ROOT)

    def test_forwarding_refused(self) -> None:
        """A way that the login node closes is told to who waits."""
        self.services.error = ForwardingRefusedError("sshd forbids it")
        self.assertEqual(self.resolve(), Waiting(stage=Stage.PORT_CLOSED, detail="sshd forbids it"))

    def test_one_probe_for_many(self) -> None:
        """A hundred who wait for the same job cost one look-up and one probe."""
        self.services.silent.add("10.0.0.1")
        asked = [self.start(self.directory.resolve(7)) for _ in range(100)]
        self.assertEqual(len(self.services.opened), 1)
        self.assertEqual(len(self.shell.asked("squeue")), 1)
        self.serve(host="n1")
        self.pass_time(6)
        for one in asked:
            self.assertEqual(
                self.successResultOf(one), Service(host="n1", port=20007, strip_prefix=True)
            )
        self.assertEqual(len(self.services.opened), 2)
        self.assertEqual(self.announced, [("n1", 20007)])

    def test_slow_to_answer(self) -> None:
        """One that takes long for its first page gets the time, the second time."""
        self.serve()
        self.services.delay = PROBE_SECONDS + 3
        first = self.start(self.directory.resolve(7))
        self.pass_time(PROBE_SECONDS + 1)
        self.assertEqual(self.successResultOf(first), Waiting(stage=Stage.PORT_CLOSED))
        second = self.start(self.directory.resolve(7))
        self.pass_time(PROBE_SECONDS + 4)
        self.assertEqual(self.successResultOf(second), AT_ROOT)
        # It was slow, not elsewhere.
        self.assertEqual(self.services.opened, [("10.0.0.1", 20007)] * 2)

    def test_never_answers(self) -> None:
        """Whoever asks is told in time how it stands, however long the service is given."""
        self.serve(lambda _: None)
        for _ in range(10):
            asked = self.start(self.directory.resolve(7))
            self.pass_time(WAIT_SECONDS + 1)
            self.assertEqual(self.successResultOf(asked), Waiting(stage=Stage.PORT_CLOSED))
        self.pass_time(LONGEST_PATIENCE)
        self.assertEqual(self.services.open_tunnels, 0)

    def test_who_leaves_stops_nobody(self) -> None:
        """The first who asked goes: the others have their answer."""
        self.services.silent.add("10.0.0.1")
        self.serve(host="n1")
        first, second = (self.start(self.directory.resolve(7)) for _ in range(2))
        first.cancel()
        self.failureResultOf(first)
        self.pass_time(6)
        self.assertIsInstance(self.successResultOf(second), Service)
        self.assertEqual(len(self.services.opened), 2)

    def test_probed_once_a_second(self) -> None:
        """However often a page reloads."""
        for _ in range(50):
            self.start(self.directory.resolve(7))
        self.assertEqual(self.services.opened, [("10.0.0.1", 20007), ("n1", 20007)])


class HostTests(DirectoryTestCase):
    """Jobs with hosts of their own."""

    domain = BY_HOST

    def test_no_prefix(self) -> None:
        """There is nothing to take off, and nothing to settle."""
        self.records = printed(NAME, 7, "70", service=SERVICE, url_txt="https://x:1/vnc.html?a=b")
        self.serve(lambda path: status(404))
        self.assertEqual(self.resolve(), UNDER_PREFIX)
        self.assertEqual(self.services.paths, ["/vnc.html"])
        self.assertIn("\r\nHost: jarvice-7.d.com\r\n", self.services.requests[0])
        self.assertEqual(self.shell.asked(SETTLE), [])


class TrustTests(DirectoryTestCase):
    """From memory, for how long."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()
        self.resolve()
        self.pass_time(2)
        self.resolve()

    def hold(self) -> None:
        """Have Slurm answer later than anybody waits."""
        self.shell.answer("squeue", lambda: Deferred())

    def test_at_once(self) -> None:
        """A job that Slurm has just confirmed is answered without waiting, while it is asked."""
        self.hold()
        self.clock.advance(2)
        asked = Deferred.fromCoroutine(self.directory.resolve(7))
        self.assertEqual(self.successResultOf(asked), AT_ROOT)
        self.clock.advance(3)
        self.assertNoResult(self.start(self.directory.resolve(7)))

    def test_nobody_asks(self) -> None:
        """A job that nobody opens costs nothing."""
        before = len(self.shell.commands)
        self.pass_time(100)
        self.assertEqual(len(self.shell.commands), before)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ended_meanwhile(self) -> None:
        """The end is known a question later."""
        self.queue = self.line("CA")
        self.pass_time(2)
        self.start(self.directory.resolve(7))
        self.pass_time(1)
        self.assertEqual(self.start(self.directory.resolve(7)).result, Unknown())

    def test_outage(self) -> None:
        """Slurm or the login node away: an address goes on for a minute, then says so."""
        for error in (SlurmUnavailableError("down"), NotConnectedError("down")):
            self.resolve()
            self.shell.answer("squeue", error)
            self.pass_time(50)
            self.assertEqual(self.resolve(), AT_ROOT)
            self.pass_time(10)
            asked = self.start(self.directory.resolve(7))
            self.pass_time(1)
            self.failureResultOf(asked, type(error))
            self.shell.answer("squeue", lambda: self.queue.encode())
            self.pass_time(2)
            self.assertEqual(self.resolve(), AT_ROOT)

    def test_outage_is_no_end(self) -> None:
        """A job that nobody knows yet is not unknown because the cluster can't be asked."""
        self.directory = self.make_directory()
        for error in (NotConnectedError("down"), StorageError("away")):
            self.shell.answer(FIND, error)
            asked = [self.start(self.directory.resolve(7)) for _ in range(2)]
            self.pass_time(1)
            for one in asked:
                self.failureResultOf(one, type(error))
        self.shell.refuse(FIND, 74, b"the folder /home is not there")
        asked_again = self.start(self.directory.resolve(7))
        self.assertIn("/home", str(self.failureResultOf(asked_again, StorageError).value))
        self.shell.answer(FIND, lambda: self.records)
        self.assertEqual(self.resolve(), AT_ROOT)


class InfoTests(DirectoryTestCase):
    """What upstream is told."""

    def info(self, ref: JobRef = REF) -> JobInfo:
        """The job's address and help."""
        return self.ask(self.directory.info(ref))

    def test_only_when_it_answers(self) -> None:
        """Empty while it waits and starts, and when it has ended."""
        self.records = printed(
            NAME,
            7,
            "70",
            service=SERVICE,
            interactive=render_interactive(Interactive(about="An app")).decode(),
            help_txt="",
        )
        self.queue = self.line("PD")
        self.assertEqual(self.info(), NO_INFO)
        self.queue = self.line("R")
        self.assertEqual(self.info(), NO_INFO)
        self.serve()
        self.assertEqual(self.info(), JobInfo(about="An app", help="", url="https://d.com/job7/"))
        self.queue = self.line("CD")
        self.pass_time(6)
        self.assertEqual(self.info(), NO_INFO)

    def test_what_the_image_says(self) -> None:
        """URL and help are read once the service answers: what was left until then counts."""
        self.resolve()
        self.records = printed(
            NAME,
            7,
            "70",
            service=SERVICE,
            url_txt="https://%PUBLICADDR%:5902/x?p=%NIMBIXPASSWD%\n",
            password="secret\n",
            **{"help.html": "<a href='%CONNECTURL%'>"},
        )
        self.serve(lambda path: status(200 if path == "/x" else 404))
        url = "https://d.com/job7/x?p=secret"
        self.assertEqual(self.info(), JobInfo(about="", help=f"<a href='{url}'>", url=url))

    def test_other_jobs_names(self) -> None:
        """The number of one job with the name or the job id of another leads to nothing."""
        self.serve()
        self.assertNotEqual(self.info(), NO_INFO)
        self.assertEqual(self.info(JobRef(name=NAME, number=7, jobid="71")), NO_INFO)
        self.assertEqual(self.info(JobRef(name="x", number=7, jobid="70")), NO_INFO)
        self.assertEqual(self.info(JobRef(name=NAME, number=8, jobid="70")), NO_INFO)

    def test_port_is_closed_again(self) -> None:
        """Only while: a service that ended in a job that runs is told, now and then."""
        self.serve()
        self.assertNotEqual(self.info(), NO_INFO)
        opened = len(self.services.opened)
        self.services.answers.clear()
        self.info()
        self.assertEqual(len(self.services.opened), opened)
        self.pass_time(5)
        self.assertEqual(self.info(), NO_INFO)
        self.pass_time(1)
        self.assertEqual(self.resolve(), Waiting(stage=Stage.PORT_CLOSED))
        self.serve()
        self.pass_time(1)
        self.assertNotEqual(self.info(), NO_INFO)
        self.assertEqual(self.announced, [("n1", 20007)])

    def test_doubted(self) -> None:
        """A browser could not connect: the service is found anew, wherever it listens by now."""
        self.serve()
        self.assertNotEqual(self.info(), NO_INFO)
        self.services.answers.clear()
        for host, port in (("10.0.0.1", 20008), ("10.0.0.2", 20007)):
            self.directory.doubt(7, host, port)
        self.directory.doubt(8, "10.0.0.1", 20007)
        self.assertNotEqual(self.info(), NO_INFO)
        self.directory.doubt(7, "10.0.0.1", 20007)
        self.assertEqual(self.info(), NO_INFO)
        self.records = printed(NAME, 7, "70", service="20008 n1")
        self.services.answers["10.0.0.1", 20008] = at_root
        self.assertEqual(self.resolve(), Service(host="10.0.0.1", port=20008, strip_prefix=True))

    def test_doubted_in_an_outage(self) -> None:
        """One that can't be found anew, for Slurm can't be asked, is kept."""
        self.serve()
        self.assertNotEqual(self.info(), NO_INFO)
        self.services.answers.clear()
        self.pass_time(6)
        self.directory.doubt(7, "10.0.0.1", 20007)
        self.assertIsInstance(self.resolve(), Service)

    def test_busy_service(self) -> None:
        """One that is open and answers nobody at the moment has not gone."""
        self.serve()
        self.info()
        self.serve(lambda _: None)
        self.pass_time(30)
        self.assertNotEqual(self.info(), NO_INFO)


class ManyTests(DirectoryTestCase):
    """Strangers may ask for any number."""

    def test_one_question_at_a_time(self) -> None:
        """Those who ask while a question is asked are answered by the next ones."""
        pending: list[Deferred[CommandResult]] = []

        def hold() -> Deferred[CommandResult]:
            pending.append(Deferred())
            return pending[-1]

        self.shell.answer(FIND, hold)
        asked = [self.start(self.directory.resolve(at)) for at in range(1, 102)]
        self.assertEqual(len(pending), 1)
        for count in (1, 2, 3):
            self.assertEqual(len(pending), count)
            pending[-1].callback(CommandResult(status=0, stdout=b"", stderr=b""))
            self.pass_time(PAUSE_SECONDS + 0.1)
        self.assertEqual(len(pending), 3)
        for one in asked:
            self.assertEqual(self.successResultOf(one), Unknown())

    def test_bounded_memory(self) -> None:
        """Any number of unknown numbers is forgotten again, and pushes no job out."""
        self.serve()
        self.resolve()
        looked_up = len(self.shell.asked(FIND))
        self.records = b""
        for start in range(100, 100 + 2 * MAX_KNOWN, 500):
            for number in range(start, start + 500):
                Deferred.fromCoroutine(self.directory.resolve(number))
            self.clock.pump([PAUSE_SECONDS] * 12)
        self.assertGreater(len(self.shell.asked(FIND)), looked_up + 2 * MAX_KNOWN / 100)
        self.assertLessEqual(len(self.directory._unknown), MAX_KNOWN)
        self.assertEqual(list(self.directory._jobs), [7])

    def test_who_leaves_is_not_asked_for(self) -> None:
        """Numbers that nobody waits for any more cost nothing."""
        self.start(self.directory.resolve(1))
        asked = [self.start(self.directory.resolve(at)) for at in range(2, 20)]
        before = len(self.shell.asked(FIND))
        for one in asked:
            one.cancel()
            self.failureResultOf(one)
        self.pass_time(1)
        self.assertEqual(len(self.shell.asked(FIND)), before)
        self.assertEqual(self.clock.getDelayedCalls(), [])
