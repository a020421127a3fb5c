"""The init report (PROTOCOL §6), and in it what the cluster offers of what is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jarvice_slurmd.jobs.script import MASK
from jarvice_slurmd.settings import Settings, split_proxy
from jarvice_slurmd.slurm.findings import Finding, render_findings, render_summary

TESTING = "Now testing connectivity to target cluster..."
DONE = "Init done. Entering main loop."


def render_init_report(settings: Settings) -> Iterator[str]:
    """The lines that tell an administrator what this process was configured to do."""
    yield "+----- Slurm Scheduler init report -----+"
    yield "|-- SSH connection to target cluster:"
    yield f"|     host: {settings.ssh_host}"
    yield f"|     port: {settings.ssh_port}"
    yield f"|     user: {settings.ssh_user}"
    yield "|-- Script environment:"
    yield f"|     scratch dir: {settings.scratch_dir or ''}"
    yield f"|     http_proxy: {_without_password(settings.http_proxy)}"
    yield f"|     https_proxy: {_without_password(settings.https_proxy)}"
    yield f"|     no_proxy: {settings.no_proxy}"
    yield "|-- Singularity environment:"
    yield f"|     tmp work dir: {settings.singularity_tmpdir}"
    yield f"|     verbose mode: {'true' if settings.singularity_verbose else 'false'}"
    yield f"|     overlay size: {settings.overlay_size}"
    yield "+---------------------------------------+"
    yield ""
    if settings.server_key is None:
        yield (
            "JARVICE_SCHED_SERVER_KEY is not set: whoever reaches this port can submit and end jobs"
        )


def render_connected(protocol: str, software: str) -> Iterator[str]:
    """The lines for a first connection that worked, with what the server said it was."""
    yield f"Connected (version {protocol}, client {software.split(' ')[0]})"
    yield "Authentication (publickey) successful!"


def render_not_connected(reason: str) -> Iterator[str]:
    """The lines for a first connection that failed; the daemon goes on trying."""
    yield "Could not connect to remote cluster!"
    yield reason
    yield "Please check ssh parameters."


def render_requirements(findings: Sequence[Finding]) -> Iterator[str]:
    """The lines for what was checked of the cluster, and where to learn more."""
    yield f"|-- Requirements of the cluster: {render_summary(findings)}"
    for line in render_findings(findings):
        yield f"|     {line}"
    yield "|     (python -m jarvice_slurmd.check --on-compute-node checks the rest)"


def _without_password(proxy: str) -> str:
    scheme, credentials, host = split_proxy(proxy)
    return f"{scheme}{MASK}@{host}" if credentials else proxy
