"""The command line, and the process as a whole: what it says and in which order it ends."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from typing import Any, cast

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.testing import MemoryReactorClock
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.daemon import (
    BACKLOG,
    DRAIN_SECONDS,
    DaemonService,
    make_daemon,
    with_backlog,
)
from jarvice_slurmd.errors import NotConnectedError
from jarvice_slurmd.interactive.front import FrontFactory
from jarvice_slurmd.log import ANNOUNCEMENTS
from jarvice_slurmd.service import Options, makeService, use_monotonic_time
from jarvice_slurmd.web.resource import Requests
from test.fakes import SETTINGS, ScriptedShell

_PEM = (
    ed25519.Ed25519PrivateKey.generate()
    .private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    .decode()
)
_ENVIRON = {
    "JARVICE_SLURM_CLUSTER_ADDR": "login.example.org",
    "JARVICE_SLURM_SSH_USER": "jarvice",
    "JARVICE_SLURM_SSH_PKEY": _PEM,
}


class OptionsTests(SynchronousTestCase):
    """`Options`."""

    def parse(self, environ: Mapping[str, str], *words: str) -> Options:
        self.patch(Options, "environ", environ)
        options = Options()
        options.parseOptions(list(words))  # type: ignore[no-untyped-call]
        return options

    def problems(self, environ: Mapping[str, str], *words: str) -> list[str]:
        with self.assertRaises(usage.UsageError) as caught:
            self.parse(environ, *words)
        first, *problems = str(caught.exception).split("\n  ")
        self.assertEqual(first, "the configuration is wrong:")
        return problems

    def test_defaults(self) -> None:
        """One listener, on port 8080; settings from the environment."""
        options = self.parse(_ENVIRON)
        self.assertEqual(options["http"], ["tcp:8080"])
        self.assertEqual(options["settings"].ssh_host, "login.example.org")

    def test_several_listeners(self) -> None:
        """As many as said, in their order."""
        words = ("--http", "tcp:8081", "--http", "unix:/run/x", "--http=tcp:1:interface=\\:\\:1")
        self.assertEqual(
            self.parse(_ENVIRON, *words)["http"],
            ["tcp:8081", "unix:/run/x", "tcp:1:interface=\\:\\:1"],
        )

    def test_every_problem_at_once(self) -> None:
        """Variables, key, known hosts and endpoints: a line each, each once."""
        problems = self.problems(
            {
                "JARVICE_SLURM_CLUSTER_ADDR": "login.example.org",
                "JARVICE_SLURM_CLUSTER_PORT": "ssh",
                "JARVICE_SLURM_SSH_PKEY": "-----BEGIN PRIVATE KEY-----\nx\n",
                "JARVICE_SLURM_SSH_KNOWN_HOSTS": "nonsense",
            },
            *("--http", "nothing:8080", "--http", "tcp:port"),
        )
        words = ("CLUSTER_PORT", "SSH_USER", "PKEY", "KNOWN_HOSTS", "nothing:8080", "tcp:port")
        for word in words:
            self.assertEqual(len([p for p in problems if word in p]), 1, (word, problems))
        self.assertEqual(len(problems), len(words), problems)

    def test_key_told_once(self) -> None:
        """A key that is missing is one problem, not two."""
        environ = {key: value for key, value in _ENVIRON.items() if not key.endswith("PKEY")}
        self.assertEqual(self.problems(environ), ["JARVICE_SLURM_SSH_PKEY is required and not set"])
        self.assertEqual(len(self.problems({**environ, "JARVICE_SLURM_SSH_PKEY": "x"})), 1)

    def test_known_hosts(self) -> None:
        """Where they have no key for the login node it could never connect: told at once."""
        key = ed25519.Ed25519PrivateKey.generate().public_key()
        line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        name = "JARVICE_SLURM_SSH_KNOWN_HOSTS"
        for hosts in ("login.example.org", "other,*.example.org"):
            self.parse({**_ENVIRON, name: f"# a comment\n{hosts} {line}"})
        for text in (f"other {line}", f"@revoked login.example.org {line}", "#", f"[x]:2 {line}"):
            (problem,) = self.problems({**_ENVIRON, name: text})
            self.assertIn(f"{name} has no key for login.example.org, port 22", problem)
        (problem,) = self.problems({**_ENVIRON, name: f"x {line}\nnonsense"})
        self.assertIn("can't be read: 2", problem)

    def test_no_secret_in_a_problem(self) -> None:
        """The key's text is not told."""
        broken = _PEM.replace("\nb3", "\nhush")
        (problem,) = self.problems({**_ENVIRON, "JARVICE_SLURM_SSH_PKEY": broken})
        self.assertNotIn("hush", problem)

    def test_unknown_option(self) -> None:
        """Anything else is an error of usage."""
        with self.assertRaises(usage.UsageError):
            self.parse(_ENVIRON, "--nonsense")

    def test_service(self) -> None:
        """From the options to a service that twistd can start."""
        self.addCleanup(gc.unfreeze)
        service = makeService(self.parse(_ENVIRON, "--http", "tcp:0"))
        self.assertTrue(IService.providedBy(service))

    def test_time_of_day_is_set_back(self) -> None:
        """No timer waits for it to come round again."""
        reactor = cast(Any, SelectReactor())
        self.addCleanup(reactor.disconnectAll)
        time_of_day = 1_800_000_000.0
        reactor.seconds = lambda: time_of_day
        use_monotonic_time(reactor)
        called: list[str] = []
        reactor.callLater(0, called.append, "before")
        time_of_day -= 3600
        reactor.callLater(0, called.append, "after")
        reactor.runUntilCurrent()
        self.assertEqual(called, ["before", "after"])

    def test_scheduled_by_the_time_of_day(self) -> None:
        """A reactor that has something to do already keeps its clock."""
        reactor = cast(Any, SelectReactor())
        self.addCleanup(reactor.disconnectAll)
        reactor.callLater(0, lambda: None)
        before = reactor.seconds
        use_monotonic_time(reactor)
        self.assertEqual(reactor.seconds, before)

    def test_garbage_collection(self) -> None:
        """A full collection does not look at all that was imported while requests wait."""
        self.addCleanup(gc.unfreeze)
        makeService(self.parse(_ENVIRON))
        frozen = gc.get_freeze_count()
        self.assertGreater(frozen, 10 * len(gc.get_objects()))


class FakeLink(ScriptedShell):
    """The link, as the process sees it; what is done to it is told to `events`."""

    server_version = ("2.0", "OpenSSH_9.2")

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.attempt: Deferred[str | None] = Deferred()
        self._events = events
        self.answer("", NotConnectedError("there is no cluster here"))

    def startService(self) -> None:
        self._events.append("link started")

    def first_attempt(self) -> Deferred[str | None]:
        return self.attempt

    def stopService(self) -> Deferred[None]:
        self._events.append("link stopped")
        return succeed(None)


class DaemonTests(SynchronousTestCase):
    """`DaemonService`."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.events: list[str] = []
        self.link = FakeLink(self.events)
        self.requests = Requests()
        front = FrontFactory(cast(Any, None))
        self.daemon = DaemonService(
            settings=SETTINGS,
            link=cast(Any, self.link),
            tunnels=cast(Any, Service()),
            api_front=front,
            jobs_front=front,
            requests=self.requests,
            reactor=self.reactor,
        )

    def stop(self) -> Deferred[None]:
        """Begin to stop."""
        stopped = self.daemon.stopService()
        stopped.addCallback(lambda _: self.events.append("stopped"))
        return stopped

    def announced(self) -> list[str]:
        """What is announced while the daemon starts and has its first answer."""
        with self.assertLogs(ANNOUNCEMENTS, logging.INFO) as logged:
            self.daemon.startService()
            self.link.attempt.callback(self.reason)
            self.reactor.pump([1] * 10)
        return [record.getMessage() for record in logged.records]

    reason: str | None = None

    def test_announcements(self) -> None:
        """The report, the test of the connection, and that it goes on."""
        lines = self.announced()
        self.assertEqual(lines[0], "+----- Slurm Scheduler init report -----+")
        told = (
            "Now testing connectivity to target cluster...",
            "Connected (version 2.0, client OpenSSH_9.2)",
            "Authentication (publickey) successful!",
            "Init done. Entering main loop.",
        )
        self.assertEqual([line for line in lines if line in told], list(told))
        self.assertEqual(lines[-1], told[-1])
        self.assertEqual(self.events, ["link started"])

    def test_no_connection(self) -> None:
        """The reason is told, and the daemon goes on."""
        self.reason = "Connection refused"
        self.assertEqual(
            self.announced()[-4:],
            [
                "Could not connect to remote cluster!",
                "Connection refused",
                "Please check ssh parameters.",
                "Init done. Entering main loop.",
            ],
        )
        self.assertTrue(self.daemon.running)

    def test_stop(self) -> None:
        """Idle, it ends: the link last."""
        self.daemon.startService()
        self.stop()
        self.reactor.pump([0.2])
        self.assertEqual(self.events, ["link started", "link stopped", "stopped"])

    def test_stop_while_a_request_is_in_flight(self) -> None:
        """It is answered first; only then the link is closed."""
        self.daemon.startService()
        self.requests.began()
        self.stop()
        self.reactor.pump([1] * 5)
        self.assertEqual(self.events, ["link started"])
        self.requests.ended()
        self.reactor.pump([0.2])
        self.assertEqual(self.events[1:], ["link stopped", "stopped"])

    def test_request_that_never_ends(self) -> None:
        """It is waited for no longer than Kubernetes waits."""
        self.daemon.startService()
        self.requests.began()
        with self.assertLogs("jarvice_slurmd.daemon", logging.WARNING):
            self.stop()
            self.reactor.pump([DRAIN_SECONDS, 0.2])
        self.assertEqual(self.events[1:], ["link stopped", "stopped"])
        self.requests.ended()

    def test_backlog(self) -> None:
        """Listeners let many wait, unless an administrator says how many."""
        self.assertEqual(with_backlog("tcp:80"), f"tcp:80:backlog={BACKLOG}")
        self.assertEqual(
            with_backlog("ssl:1:privateKey=/k"), f"ssl:1:privateKey=/k:backlog={BACKLOG}"
        )
        for endpoint in ("tcp:80:backlog=5", "systemd:domain=INET:index=0", "haproxy:tcp:80"):
            self.assertEqual(with_backlog(endpoint), endpoint)

    def test_whole(self) -> None:
        """`make_daemon` joins everything; nothing begins before the service is started."""
        settings = evolve(SETTINGS, ssh_pkey=_PEM, ssh_host="127.0.0.7", ssh_port=2222)
        daemon = make_daemon(settings, ["tcp:8080", "tcp:8081"], self.reactor)
        self.assertEqual((self.reactor.tcpServers, self.reactor.tcpClients), ([], []))
        daemon.startService()
        self.addCleanup(daemon.stopService)
        self.assertEqual([server[0] for server in self.reactor.tcpServers], [8080, 8081])
        self.assertEqual([server[2] for server in self.reactor.tcpServers], [BACKLOG] * 2)
        self.assertEqual([client[1] for client in self.reactor.tcpClients], [2222])
