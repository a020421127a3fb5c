"""The composition root: options, settings and services; the only place that sees everything."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import ClassVar

from twisted.application.internet import StreamServerEndpointService, TimerService
from twisted.application.service import IService, MultiService, Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.python import usage
from twisted.web.server import Site

from jarvice_slurmd import report
from jarvice_slurmd.errors import JarviceSlurmdError
from jarvice_slurmd.interfaces import ITunnelOpener
from jarvice_slurmd.log import ANNOUNCEMENTS, OBSERVER_FACTORY, choose_log
from jarvice_slurmd.requirements import RequirementsCheck
from jarvice_slurmd.scheduler import SlurmScheduler
from jarvice_slurmd.settings import Settings, SettingsError
from jarvice_slurmd.snapshot import QueueSnapshot
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy, parse_known_hosts
from jarvice_slurmd.ssh.keys import load_private_key
from jarvice_slurmd.ssh.link import SSHLink
from jarvice_slurmd.ssh.options import LinkOptions
from jarvice_slurmd.web.api import Api
from jarvice_slurmd.web.resource import Requests
from jarvice_slurmd.web.site import make_site

_announcements = logging.getLogger(ANNOUNCEMENTS)
_log = logging.getLogger(__name__)

#: Seconds that a stop waits for requests in flight; Kubernetes gives 30 before SIGKILL.
DRAIN_SECONDS = 20.0

#: Seconds that the init report waits for the cluster's requirements to be checked.
REPORT_SECONDS = 5.0

#: Seconds between two removals of what finished jobs left.
GARBAGE_SECONDS = 3600.0


class Options(usage.Options):
    """The command line; everything else comes from environment variables (PROTOCOL §5)."""

    synopsis = "[--http ENDPOINT]..."
    longdesc = (
        "Talks to a Slurm cluster's login node over SSH for JARVICE. Configured by environment "
        "variables; see docs/configuration.md."
    )

    environ: ClassVar[Mapping[str, str]] = os.environ

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["http"] = []

    def opt_http(self, endpoint: str) -> None:
        """A Twisted endpoint string to serve on, several times if need be. [default: tcp:8080]"""
        self["http"].append(endpoint)

    def postOptions(self) -> None:
        """Read the environment; every problem is told at once, before anything is started."""
        self["http"] = self["http"] or ["tcp:8080"]
        settings, problems = read_settings(self.environ)
        self["settings"] = settings
        from twisted.internet import reactor

        for endpoint in self["http"]:
            try:
                serverFromString(reactor, endpoint)
            except Exception as error:  # endpoint parsers raise whatever they like
                problems.append(f"--http {endpoint!r} is no Twisted endpoint: {error}")
        if problems:
            raise usage.UsageError("\n  ".join(["the configuration is wrong:", *problems]))
        parent = self.parent
        if parent is not None and not parent.get("logger"):
            logfile = parent.get("logfile") or (None if parent.get("nodaemon") else "twistd.log")
            choose_log(settings.log_level, logfile)
            parent["logger"] = OBSERVER_FACTORY


def read_settings(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings, and a sentence for every problem with them; with one they are of no use."""
    problems: list[str] = []
    try:
        settings = Settings.from_environ(environ)
    except SettingsError as error:
        settings = error.settings
        problems.extend(error.problems)
    problems.extend(_check(settings, " ".join(problems)))
    return settings, problems


def _check(settings: Settings, told: str) -> Iterable[str]:
    """What only `ssh` can tell is wrong; `told` is what is known to be."""
    if "JARVICE_SLURM_SSH_PKEY" not in told:
        try:
            load_private_key(settings.ssh_pkey)
        except JarviceSlurmdError as error:
            yield f"JARVICE_SLURM_SSH_PKEY: {error}"
    if settings.ssh_known_hosts is None or not settings.ssh_host:
        return
    known_hosts = parse_known_hosts(settings.ssh_known_hosts)
    if not known_hosts.pinned(settings.ssh_host, settings.ssh_port):
        unreadable = ", ".join(map(str, known_hosts.unreadable[:10])) or "none"
        yield (
            f"JARVICE_SLURM_SSH_KNOWN_HOSTS has no key for {settings.ssh_host}, "
            f"port {settings.ssh_port} (lines that can't be read: {unreadable})"
        )


def makeService(options: Options) -> IService:
    """What `twistd jarvice-slurmd` runs."""
    from twisted.internet import reactor

    return make_daemon(options["settings"], options["http"], reactor)


def make_link(settings: Settings, reactor: IReactorTime) -> SSHLink:
    """The link to the login node, as the settings say; not started yet."""
    known_hosts = settings.ssh_known_hosts
    return SSHLink(
        reactor,
        settings.ssh_host,
        settings.ssh_port,
        settings.ssh_user,
        load_private_key(settings.ssh_pkey),
        HostKeyPolicy(None if known_hosts is None else parse_known_hosts(known_hosts)),
        LinkOptions(
            command_timeout=settings.command_timeout,
            max_sessions=settings.ssh_max_sessions,
            max_connections=settings.ssh_max_connections,
        ),
    )


def make_check(settings: Settings, link: SSHLink, clock: IReactorTime) -> RequirementsCheck:
    """What checks the cluster behind a link."""
    tunnels = link if ITunnelOpener.providedBy(link) else None
    return RequirementsCheck(shell=link, tunnels=tunnels, settings=settings, clock=clock)


def make_daemon(
    settings: Settings, endpoints: Iterable[str], reactor: IReactorTime
) -> DaemonService:
    """Join the rooms: link, snapshot, scheduler, API and listeners."""
    link = make_link(settings, reactor)
    snapshot = QueueSnapshot(link, reactor)
    scheduler = SlurmScheduler(link, snapshot, settings)
    requests = Requests()

    def not_ready() -> str | None:
        if link.connected:
            return None
        return link.last_error or "the login node has not answered yet"

    site = make_site(
        Api(scheduler, executor=settings.executor, not_ready=not_ready),
        requests,
        server_key=settings.server_key,
        max_body_bytes=settings.body_bytes,
        reactor=reactor,
    )
    daemon = DaemonService(settings, link, site, requests, reactor)
    for endpoint in endpoints:
        daemon.listen(serverFromString(reactor, endpoint))

    def collect_garbage() -> Deferred[None]:
        collecting = Deferred.fromCoroutine(scheduler.collect_garbage())
        return collecting.addErrback(
            lambda failure: _log.info("Clean-up did not run: %s", failure.getErrorMessage())
        )

    daemon.add_task(TimerService(GARBAGE_SECONDS, collect_garbage))
    return daemon


class DaemonService(MultiService):
    """The process: tells what it is, then serves; ends in the order that loses nothing."""

    def __init__(
        self,
        settings: Settings,
        link: SSHLink,
        site: Site,
        requests: Requests,
        reactor: IReactorTime,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._settings = settings
        self._link = link
        self._site = site
        self._requests = requests
        self._reactor = reactor
        self._listeners = MultiService()
        self._tasks = MultiService()
        self._checking: Deferred[None] = defer.succeed(None)
        self._listeners.setServiceParent(self)
        self._tasks.setServiceParent(self)

    def listen(self, endpoint: IStreamServerEndpoint) -> None:
        """Serve the API on an endpoint."""
        StreamServerEndpointService(endpoint, self._site).setServiceParent(self._listeners)

    def add_task(self, service: Service) -> None:
        """A service that works by itself, once the login node has been asked for."""
        service.setServiceParent(self._tasks)

    def startService(self) -> None:
        """Print the init report, connect, and listen."""
        for line in report.render_init_report(self._settings):
            _announcements.info("%s", line)
        _announcements.info("%s", report.TESTING)
        self._link.startService()
        telling = Deferred.fromCoroutine(self._tell_first_attempt())
        telling.addErrback(lambda failure: _log.error("The init report: %s", failure.value))
        super().startService()  # type: ignore[no-untyped-call]

    async def _tell_first_attempt(self) -> None:
        reason = await self._link.first_attempt()
        if reason is None:
            version = self._link.server_version
            for line in report.render_connected(*(version or ("?", "?"))):
                _announcements.info("%s", line)
            checking = Deferred.fromCoroutine(self._tell_requirements())
            self._checking = checking.addErrback(lambda _: None)
            # Whatever the cluster is like, the daemon serves; nobody waits long for the report.
            patience: Deferred[None] = deferLater(self._reactor, REPORT_SECONDS)
            await DeferredList(
                [self._checking, patience.addErrback(lambda _: None)], fireOnOneCallback=True
            )
            patience.cancel()
        else:
            for line in report.render_not_connected(reason):
                _announcements.error("%s", line)
        _announcements.info("%s", report.DONE)

    async def _tell_requirements(self) -> None:
        findings = await make_check(self._settings, self._link, self._reactor).quick()
        for line in report.render_requirements(findings):
            _announcements.info("%s", line)

    def stopService(self) -> Deferred[None]:
        """Stop listening, answer what is in flight, then close the link."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._checking.cancel()
        await defer.maybeDeferred(super().stopService)
        idle = self._requests.when_idle()
        idle.addTimeout(DRAIN_SECONDS, self._reactor)
        try:
            await idle
        except defer.TimeoutError:
            _log.warning("Stopping while requests are still unanswered")
        # The last answers are on their way through the reactor.
        await deferLater(self._reactor, 0.1)
        await defer.maybeDeferred(self._link.stopService)
