"""What twistd starts: the command line and the environment, checked before anything runs."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.endpoints import serverFromString
from twisted.python import usage

from jarvice_slurmd.daemon import make_daemon
from jarvice_slurmd.errors import JarviceSlurmdError
from jarvice_slurmd.interactive.routing import parse_jobs_domain
from jarvice_slurmd.log import OBSERVER_FACTORY, choose_log
from jarvice_slurmd.settings import Settings, SettingsError
from jarvice_slurmd.ssh.host_keys import parse_known_hosts
from jarvice_slurmd.ssh.keys import load_private_key


class Options(usage.Options):
    """The command line; everything else comes from environment variables (PROTOCOL §5)."""

    synopsis = "[--http ENDPOINT]... [--jobs ENDPOINT]..."
    longdesc = (
        "Talks to a Slurm cluster's login node over SSH for JARVICE. Configured by environment "
        "variables; see docs/configuration.md."
    )

    environ: ClassVar[Mapping[str, str]] = os.environ

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["http"] = []
        self["jobs"] = []

    def opt_http(self, endpoint: str) -> None:
        """A Twisted endpoint string to serve on, several times if need be. [default: tcp:8080]"""
        self["http"].append(endpoint)

    def opt_jobs(self, endpoint: str) -> None:
        """An endpoint for interactive jobs, which then answer there and only there."""
        self["jobs"].append(endpoint)

    def postOptions(self) -> None:
        """Read the environment; every problem is told at once, before anything is started."""
        self["http"] = self["http"] or ["tcp:8080"]
        settings, problems = read_settings(self.environ)
        self["settings"] = settings
        from twisted.internet import reactor

        for option in ("http", "jobs"):
            for endpoint in self[option]:
                try:
                    serverFromString(reactor, endpoint)
                except Exception as error:  # endpoint parsers raise whatever they like
                    problems.append(f"--{option} {endpoint!r} is no Twisted endpoint: {error}")
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
    if settings.jobs_domain is not None:
        try:
            parse_jobs_domain(settings.jobs_domain, settings.jobs_namespace)
        except ValueError as error:
            yield str(error)
    if settings.ssh_known_hosts is None or not settings.ssh_host:
        return
    known_hosts = parse_known_hosts(settings.ssh_known_hosts)
    if not known_hosts.pinned(settings.ssh_host, settings.ssh_port):
        unreadable = ", ".join(map(str, known_hosts.unreadable[:10])) or "none"
        yield (
            f"JARVICE_SLURM_SSH_KNOWN_HOSTS has no key for {settings.ssh_host}, "
            f"port {settings.ssh_port} (lines that can't be read: {unreadable})"
        )


def use_monotonic_time(reactor: Any) -> None:
    """Have a reactor count seconds by a clock that nobody sets.

    Twisted takes the time of day. Were that set back by an hour, no timer would be due for an hour,
    and what was known of the queue would be taken for new as long. What is scheduled already is so
    by the other clock: then nothing is changed.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def makeService(options: Options) -> IService:
    """What `twistd jarvice-slurmd` runs."""
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    service = make_daemon(options["settings"], options["http"], reactor, options["jobs"])
    # What has been made by now, modules and classes above all, stays until the process ends. Looked
    # at in every full collection it would hold the reactor up for longer than anything else does
    # (docs/bench.md).
    gc.collect()
    gc.freeze()
    return service
