"""The architecture on one page: what the rooms may ask of each other.

`scheduler` and `snapshot` ask an `IRemoteShell`, `interactive` asks an `ITunnelOpener`, `web` asks
an `IScheduler`. Only `daemon` knows who provides them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from zope.interface import Interface

if TYPE_CHECKING:
    from jarvice_slurmd.jobs.model import (
        ExitReport,
        JobInfo,
        JobRef,
        JobSummary,
        RunStatus,
        Submission,
        Submitted,
    )


@frozen(kw_only=True)
class CommandResult:
    """What a command on the login node left: exit status, stdout and stderr.

    `status` is 0 to 255 as exit(3) gave it, or 128 + n when signal n ended the command
    (RFC 4254 §6.10, by the shells' convention). Nothing that a login shell's start-up files
    printed is in `stdout` or `stderr`.
    """

    status: int
    stdout: bytes
    stderr: bytes


class IRemoteShell(Interface):
    """Runs commands on the login node as the configured user."""

    def run(
        script: str,
        stdin: bytes = b"",
        *,
        timeout: float | None = None,
        max_output: int | None = None,
    ) -> Deferred[CommandResult]:
        """Run POSIX shell text with `/bin/sh`, whatever the account's login shell is.

        `timeout` is in seconds and bounds waiting for the link, for a free session and for the
        command together; `max_output` is in bytes, of stdout and stderr together; None means the
        provider's default. A non-zero exit status is a result, not an error. Cancelling the
        Deferred ends the command.

        Errors back with `NotConnectedError` or `LoginShellError` (it did not run),
        `CommandTimedOutError` or `LinkLostError` (it may have run, and may have been completed),
        or `OutputTooLargeError`.
        """


class ITunnelOpener(Interface):
    """Opens byte streams to ports of compute nodes, as seen from the login node."""

    def open(host: str, port: int, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol that `factory` builds to TCP `port` of `host`.

        As `IStreamClientEndpoint.connect`: fires with the protocol once it is connected. The
        protocol's transport is an `ITransport`; an `IHalfCloseableProtocol` is told of half-closes
        (the transport has `loseWriteConnection`). It is an `IConsumer` whose producer is paused
        while the far end does not read, and an `IPushProducer`: while it is paused nothing is read
        from the far end beyond a fixed window.

        Errors back with `NotConnectedError` (no link), `ForwardingRefusedError` or
        `TunnelConnectError`. Cancelling the Deferred abandons the attempt.
        """


class IJobInfo(Interface):
    """Says how a user reaches a job."""

    def info(ref: JobRef) -> Awaitable[JobInfo]:
        """The job's address and help as soon as, and only while, its service answers.

        All of it is empty before that, for a batch job, and for a job that is not ours.
        """


class IScheduler(Interface):
    """The use cases of PROTOCOL §1, in value objects; every method may raise any domain error."""

    def submit(submission: Submission) -> Awaitable[Submitted]:
        """Submit a job once: the same submission again yields the same job id."""

    def running() -> Awaitable[Sequence[JobSummary]]:
        """Our jobs that run or are ending."""

    def queued() -> Awaitable[Sequence[JobSummary]]:
        """Our jobs that wait."""

    def run_status(ref: JobRef) -> Awaitable[RunStatus | None]:
        """Where and for how long the job runs; None when Slurm says it has no such job."""

    def exit_status(ref: JobRef) -> Awaitable[ExitReport | None]:
        """How the job ended, and its output; None for a job nobody knows.

        Raises `JobStillRunningError` while it has not ended. After the answer the job's files are
        garbage (PROTOCOL §4).
        """

    def terminate(ref: JobRef, *, force: bool) -> Awaitable[None]:
        """Cancel the job: SIGTERM and Slurm's KillWait to end in, or at once with `force`."""

    def release(ref: JobRef) -> Awaitable[None]:
        """Let a held job go on."""

    def events(ref: JobRef) -> Awaitable[str]:
        """What `scontrol show job` says."""

    def tail(ref: JobRef, lines: int) -> Awaitable[bytes]:
        """The last `lines` lines of the job's output, 0 meaning all that the byte bound allows."""

    def list_folder(path: str, *, details: bool) -> Awaitable[bytes]:
        """The folders, then the files, in an absolute folder of the cluster (PROTOCOL, pvcls)."""

    def check() -> Awaitable[None]:
        """Raise what requests would end with now: Slurm is asked, and our folder written to."""

    def collect_garbage() -> Awaitable[bool]:
        """Remove what answered jobs left behind; True when there is more than one call removes.

        Raises when the login node can't be asked.
        """
