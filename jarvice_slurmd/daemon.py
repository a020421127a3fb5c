"""The process: every room joined, started and ended in the order that loses nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import cast

from twisted.application import strports
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService, Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorCore, IReactorTime, IStreamServerEndpoint
from twisted.internet.task import deferLater

from jarvice_slurmd import report
from jarvice_slurmd.clean_up import CleanUpService
from jarvice_slurmd.interactive.directory import JobDirectory
from jarvice_slurmd.interactive.forwarding import Rules
from jarvice_slurmd.interactive.front import FrontFactory
from jarvice_slurmd.interactive.front_settings import FrontSettings
from jarvice_slurmd.interactive.interfaces import IJobDirectory
from jarvice_slurmd.interactive.probe import ServiceProbe
from jarvice_slurmd.interactive.routing import JobRouter, JobsDomain, parse_jobs_domain
from jarvice_slurmd.log import ANNOUNCEMENTS
from jarvice_slurmd.requirements import RequirementsCheck
from jarvice_slurmd.scheduler import SlurmScheduler
from jarvice_slurmd.settings import Settings
from jarvice_slurmd.slurm.commands import render_root
from jarvice_slurmd.snapshot import QueueSnapshot
from jarvice_slurmd.ssh.forward import SSHTunnelOpener, TunnelOptions
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy, parse_known_hosts
from jarvice_slurmd.ssh.keys import load_private_key
from jarvice_slurmd.ssh.link import SSHLink
from jarvice_slurmd.ssh.options import LinkOptions
from jarvice_slurmd.web.api import Api
from jarvice_slurmd.web.outages import Outages
from jarvice_slurmd.web.readiness import Readiness
from jarvice_slurmd.web.resource import Requests
from jarvice_slurmd.web.site import ANSWER_SECONDS, make_site

_announcements = logging.getLogger(ANNOUNCEMENTS)
_log = logging.getLogger(__name__)

#: Seconds that a stop waits for requests in flight, and then for commands that nobody waits for any
#: longer. The first is what an answer may take; Kubernetes gives 30 for all of it before SIGKILL.
DRAIN_SECONDS = ANSWER_SECONDS + 0.5
LINK_GRACE_SECONDS = 3.0

#: Connections that may wait to be accepted: a page's many files, or all browsers after an outage.
#: Twisted's own 50 would have some of them try again a second later (TRAPS, Limits).
BACKLOG = 1024

#: Seconds that the init report waits for the cluster's requirements to be checked.
REPORT_SECONDS = 5.0

#: Seconds between two removals of what finished jobs left.
GARBAGE_SECONDS = 3600.0


def make_links(settings: Settings, reactor: IReactorTime) -> tuple[SSHLink, SSHTunnelOpener]:
    """The links to the login node, for commands and for tunnels; neither is started yet.

    They share what they learn of its host key, and no connection: no download delays a command.
    """
    known_hosts = settings.ssh_known_hosts
    policy = HostKeyPolicy(None if known_hosts is None else parse_known_hosts(known_hosts))
    key = load_private_key(settings.ssh_pkey)
    options = LinkOptions(
        command_timeout=settings.command_timeout,
        max_sessions=settings.ssh_max_sessions,
        max_connections=settings.ssh_max_connections,
        stop_grace=LINK_GRACE_SECONDS,
    )
    host, port, user = settings.ssh_host, settings.ssh_port, settings.ssh_user
    return (
        SSHLink(reactor, host, port, user, key, policy, options),
        SSHTunnelOpener(reactor, host, port, user, key, policy, TunnelOptions(link=options)),
    )


def make_check(
    settings: Settings, link: SSHLink, tunnels: SSHTunnelOpener, clock: IReactorTime
) -> RequirementsCheck:
    """What checks the cluster behind the links."""
    return RequirementsCheck(
        shell=link,
        tunnels=tunnels,
        relays=lambda: tunnels.relays,
        settings=settings,
        clock=clock,
    )


def make_daemon(
    settings: Settings,
    endpoints: Iterable[str],
    reactor: IReactorTime,
    jobs_endpoints: Iterable[str] = (),
) -> DaemonService:
    """Join the rooms: links, snapshot, scheduler, API, tunnels and listeners.

    Jobs answer where the API does, or on `jobs_endpoints` alone where there are any.
    """
    link, tunnels = make_links(settings, reactor)
    snapshot = QueueSnapshot(link, reactor)
    scheduler = SlurmScheduler(link, snapshot, settings)
    requests = Requests()
    domain: JobsDomain | None = None
    directory: JobDirectory | None = None
    if settings.jobs_domain is not None:
        domain = parse_jobs_domain(settings.jobs_domain, settings.jobs_namespace)
        directory = JobDirectory(
            shell=link,
            snapshot=snapshot,
            probe=ServiceProbe(opener=tunnels, clock=reactor),
            clock=reactor,
            domain=domain,
            root=render_root(settings.scratch_dir),
            announce=lambda node, port: _announcements.info(
                "Started proxy to %s:%d via SSH %s:%d",
                node,
                port,
                settings.ssh_host,
                settings.ssh_port,
            ),
        )

    def link_down() -> str | None:
        if link.connected:
            return None
        return link.last_error or "the login node has not answered yet"

    outages = Outages(reactor)
    site = make_site(
        Api(
            scheduler,
            executor=settings.executor,
            # Room for escapes: words in any language are no reason to cut.
            max_output=2 * settings.output_bytes,
            readiness=Readiness(link_down, scheduler.check, reactor, outages),
            job_info=directory,
        ),
        requests,
        outages=outages,
        server_key=settings.server_key,
        max_body_bytes=settings.body_bytes,
        reactor=reactor,
        # An administrator who lets commands take longer lets callers wait for them.
        answer_seconds=max(ANSWER_SECONDS, settings.command_timeout + 4.0),
    )

    def make_front(*, api: bool, jobs: IJobDirectory | None) -> FrontFactory:
        server_key = settings.server_key
        return FrontFactory(
            FrontSettings(
                router=JobRouter(domain=domain, directory=jobs, api=api),
                opener=tunnels,
                clock=reactor,
                site=site if api else None,
                rules=Rules(server_key=None if server_key is None else server_key.encode("utf-8")),
            )
        )

    jobs_endpoints = tuple(jobs_endpoints)
    daemon = DaemonService(
        settings=settings,
        link=link,
        tunnels=tunnels,
        api_front=make_front(api=True, jobs=None if jobs_endpoints else directory),
        jobs_front=make_front(api=False, jobs=directory),
        requests=requests,
        reactor=reactor,
    )
    for endpoint in endpoints:
        daemon.listen(endpoint)
    for endpoint in jobs_endpoints:
        daemon.listen_for_jobs(endpoint)

    daemon.add_task(CleanUpService(scheduler, reactor, GARBAGE_SECONDS))
    return daemon


def with_backlog(endpoint: str) -> str:
    """A Twisted endpoint string, with our backlog where it takes one and names none."""
    kind, _, words = endpoint.partition(":")
    if kind not in ("tcp", "tcp6", "ssl", "unix") or ":backlog=" in words:
        return endpoint
    return f"{endpoint}:backlog={BACKLOG}"


class DaemonService(MultiService):
    """The process: tells what it is, then serves; ends in the order that loses nothing."""

    def __init__(
        self,
        *,
        settings: Settings,
        link: SSHLink,
        tunnels: SSHTunnelOpener,
        api_front: FrontFactory,
        jobs_front: FrontFactory,
        requests: Requests,
        reactor: IReactorTime,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._settings = settings
        self._link = link
        self._tunnels = tunnels
        self._api_front = api_front
        self._jobs_front = jobs_front
        self._requests = requests
        self._reactor = reactor
        self._listeners = MultiService()
        self._tasks = MultiService()
        self._checking: Deferred[None] = defer.succeed(None)
        self._listeners.setServiceParent(self)
        self._tasks.setServiceParent(self)

    def listen(self, endpoint: str | IStreamServerEndpoint) -> None:
        """Serve the API on an endpoint, and jobs where they have none of their own.

        Where a Twisted endpoint string can't be listened on, the start fails.
        """
        self._listen(endpoint, self._api_front)

    def listen_for_jobs(self, endpoint: str | IStreamServerEndpoint) -> None:
        """Serve nothing but jobs on an endpoint."""
        self._listen(endpoint, self._jobs_front)

    def _listen(self, endpoint: str | IStreamServerEndpoint, front: FrontFactory) -> None:
        listener = (
            strports.service(
                with_backlog(endpoint), front, reactor=cast(IReactorCore, self._reactor)
            )
            if isinstance(endpoint, str)
            else StreamServerEndpointService(endpoint, front)
        )
        listener.setServiceParent(self._listeners)

    def add_task(self, service: Service) -> None:
        """A service that works by itself, once the login node has been asked for."""
        service.setServiceParent(self._tasks)

    def startService(self) -> None:
        """Print the init report, connect, and listen."""
        for line in report.render_init_report(self._settings):
            _announcements.info("%s", line)
        _announcements.info("%s", report.TESTING)
        self._link.startService()
        self._tunnels.startService()
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
        findings = await make_check(
            self._settings, self._link, self._tunnels, self._reactor
        ).quick()
        for line in report.render_requirements(findings):
            _announcements.info("%s", line)

    def stopService(self) -> Deferred[None]:
        """Stop listening, answer what is in flight, then close the link."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._checking.cancel()
        await defer.maybeDeferred(super().stopService)
        fronts = (self._api_front, self._jobs_front)
        waiting = [front.drain() for front in fronts]
        answered = defer.gatherResults([*waiting, self._requests.when_idle()], consumeErrors=True)
        answered.addTimeout(DRAIN_SECONDS, self._reactor)
        try:
            await answered
        except (defer.FirstError, defer.TimeoutError):
            _log.warning("Stopping while requests are still unanswered")
        links = (self._tunnels, self._link)
        await DeferredList([defer.maybeDeferred(link.stopService) for link in links])
