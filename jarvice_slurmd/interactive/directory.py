"""Where interactive jobs are: found on the cluster by any replica, answered from memory mostly.

What never changes of a job (its name, job id, templates) is asked for once; whether it still runs
comes from the shared view of the queue; whether its service answers is probed until it does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLateError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from jarvice_slurmd.doubt import is_known_all_the_same
from jarvice_slurmd.errors import (
    ForwardingRefusedError,
    JarviceSlurmdError,
    SlurmUnavailableError,
    TunnelError,
)
from jarvice_slurmd.interactive.address import render_help, render_url
from jarvice_slurmd.interactive.interfaces import (
    IJobDirectory,
    Service,
    Stage,
    Unknown,
    Waiting,
)
from jarvice_slurmd.interactive.known import KnownJob, remember
from jarvice_slurmd.interactive.probe import ServiceProbe, SlowServiceError
from jarvice_slurmd.interactive.records import RecordFinder
from jarvice_slurmd.interactive.routing import JobsDomain
from jarvice_slurmd.interactive.services import ServiceFinder
from jarvice_slurmd.interfaces import IJobInfo, IRemoteShell
from jarvice_slurmd.jobs.model import JobInfo, JobRef
from jarvice_slurmd.shared import Shared
from jarvice_slurmd.slurm.output import QueueEntry
from jarvice_slurmd.slurm.states import Phase
from jarvice_slurmd.snapshot import QueueSnapshot

_log = logging.getLogger(__name__)

#: Seconds that an answer "unknown" or "not yet" is repeated before the cluster is asked again.
ASK_AGAIN_SECONDS = 1.0

#: Seconds after the last word from Slurm that a ready job is taken to run on, without waiting...
TRUST_SECONDS = 5.0

#: ...and for which it is while Slurm can't be asked at all: an outage ends nobody's desktop.
OUTAGE_SECONDS = 60.0

#: Seconds that Slurm has to say whether a job whose port is closed has ended: two questions.
END_SECONDS = 5.0

#: Seconds for which `info` says that a service answers before its port is looked at again.
LOOK_SECONDS = 5.0

#: Seconds that a service which has been slow may take in the end for its first answer, and that
#: who asks for it waits for that before he is told that it is not up yet.
LONGEST_PATIENCE = 20.0
WAIT_SECONDS = 10.0

NO_INFO = JobInfo(about="", help="", url="")


@implementer(IJobDirectory, IJobInfo)
class JobDirectory:
    """Finds interactive jobs by number, and says when their services answer.

    `root` is the shell word of the `.jarvice` folder; `announce` is told once for each job and
    process where its service was reached: node and port.
    """

    def __init__(
        self,
        *,
        shell: IRemoteShell,
        snapshot: QueueSnapshot,
        probe: ServiceProbe,
        clock: IReactorTime,
        domain: JobsDomain,
        root: str,
        announce: Callable[[str, int], object],
    ) -> None:
        self._shell = shell
        self._root = root
        self._snapshot = snapshot
        self._clock = clock
        self._domain = domain
        self._announce = announce
        self._finder = RecordFinder(shell, root, clock)
        self._services = ServiceFinder(shell=shell, probe=probe, domain=domain, root=root)
        self._jobs: dict[int, KnownJob] = {}
        self._unknown: dict[int, float] = {}

    async def resolve(self, number: int) -> Service | Waiting | Unknown:
        """See `IJobDirectory.resolve`."""
        job = self._jobs.get(number) or await self._look_up(number)
        return Unknown() if job is None else await self._stand(job)

    async def has_ended(self, number: int) -> bool:
        """See `IJobDirectory.has_ended`."""
        job = self._jobs.get(number)
        if job is None:
            return number in self._unknown
        asking = Deferred.fromCoroutine(self._confirm(job, since=self._clock.seconds()))
        try:
            entry = await asking.addTimeout(END_SECONDS, self._clock)
        except (JarviceSlurmdError, TooLateError):
            return False
        return entry is None or entry.state.phase is Phase.ENDED

    def doubt(self, number: int, host: str, port: int) -> None:
        """See `IJobDirectory.doubt`: it may listen at another port now.

        While Slurm can't be asked it is kept all the same, for it could not be found anew.
        """
        job = self._jobs.get(number)
        service = None if job is None else job.service
        if job is None or service is None or (service.host, service.port) != (host, port):
            return
        if self._within(job.confirmed_at, TRUST_SECONDS):
            job.service = None

    async def info(self, ref: JobRef) -> JobInfo:
        """See `IJobInfo.info`."""
        found = await self.resolve(ref.number)
        job = self._jobs.get(ref.number)
        if not isinstance(found, Service) or job is None:
            return NO_INFO
        if (job.record.jobid, job.record.name) != (ref.jobid, ref.name):
            return NO_INFO
        if not self._within(job.tried_at, LOOK_SECONDS):
            await job.looking.done()
        if job.service is None:
            return NO_INFO
        return JobInfo(
            about=job.record.about.about or "",
            help=render_help(self._domain, job.record),
            url=render_url(self._domain, job.record),
        )

    async def _look_up(self, number: int) -> KnownJob | None:
        if self._within(self._unknown.get(number), ASK_AGAIN_SECONDS):
            return None
        record = await self._finder.find(number)
        if record is None:
            self._forget(number)
            return None
        if number not in self._jobs:
            job = KnownJob(record=record, read_at=self._clock.seconds())
            job.reaching = Shared(lambda: self._reach(job))
            job.looking = Shared(lambda: self._look(job))
            remember(self._jobs, number, job)
        return self._jobs[number]

    def _forget(self, number: int) -> None:
        self._jobs.pop(number, None)
        self._unknown.pop(number, None)
        remember(self._unknown, number, self._clock.seconds())

    # Whether it runs.

    async def _stand(self, job: KnownJob) -> Service | Waiting | Unknown:
        if job.service is not None and self._within(job.confirmed_at, TRUST_SECONDS):
            if not self._within(job.confirmed_at, ASK_AGAIN_SECONDS):
                # Whoever asks next knows; who asks now need not wait for it.
                Deferred.fromCoroutine(self._confirm(job)).addErrback(lambda _: None)
            return job.service
        try:
            entry = await self._confirm(job)
        except JarviceSlurmdError:
            if job.service is not None and self._within(job.confirmed_at, OUTAGE_SECONDS):
                return job.service
            raise
        if entry is None or entry.state.phase is Phase.ENDED:
            return Unknown()
        if entry.state.phase is Phase.QUEUED:
            # Slurm says None while it has no reason yet.
            reason = "" if entry.reason == "None" else entry.reason
            return Waiting(stage=Stage.QUEUED, detail=reason)
        if job.service is None and entry.state.phase is Phase.RUNNING:
            try:
                await job.reaching.done().addTimeout(WAIT_SECONDS, self._clock)
            except TooLateError:
                _log.debug("Job %d has not answered yet", job.record.number)
        if job.service is not None:
            return job.service
        stage = Stage.STARTING if job.record.service is None else Stage.PORT_CLOSED
        return Waiting(stage=stage, detail=job.trouble)

    async def _confirm(self, job: KnownJob, *, since: float = 0.0) -> QueueEntry | None:
        """What the queue says of the job now; None when Slurm has no such job of ours.

        `since` is the earliest that Slurm may have been asked, by the clock.
        """
        record = job.record
        view = await self._snapshot.current()
        if view.asked_at < since:
            view = await self._snapshot.after(view)
        entry = view.entries.get(record.jobid)
        if entry is None and not self._snapshot.missed_before(record.jobid, view):
            # One answer that lacks it ends nobody's desktop.
            view = await self._snapshot.after(view)
            entry = view.entries.get(record.jobid)
        if entry is not None and entry.name != record.name:
            entry = None
        elif entry is None and await is_known_all_the_same(
            self._shell, root=self._root, name=record.name, jobid=record.jobid
        ):
            raise SlurmUnavailableError(
                f"Slurm knows job {record.jobid}, but its queue does not list it"
            )
        if entry is None or entry.state.phase is Phase.ENDED:
            job.service = None
            if self._jobs.get(record.number) is job:
                self._forget(record.number)
        elif entry.state.phase is Phase.RUNNING:
            job.confirmed_at = view.asked_at
            job.hostlist = entry.hostlist
        elif entry.state.phase is Phase.QUEUED:
            job.service = None
        return entry

    # Whether it answers.

    async def _reach(self, job: KnownJob) -> None:
        """Find the service's port, and see whether it answers."""
        if job.service is not None or self._within(job.tried_at, ASK_AGAIN_SECONDS):
            return
        if not self._within(job.read_at, ASK_AGAIN_SECONDS):
            await self._read_again(job)
        try:
            service = await self._services.find(job.record, job.hostlist, job.patience)
        except TunnelError as error:
            _log.debug("Job %d: %s", job.record.number, error)
            if isinstance(error, SlowServiceError):
                job.patience = min(2 * job.patience, LONGEST_PATIENCE)
            job.trouble = str(error) if isinstance(error, ForwardingRefusedError) else ""
            service = None
        if service is not None:
            # What the job left before its service answered (URL, help, password) is whole now.
            await self._read_again(job)
        job.tried_at = self._clock.seconds()
        job.service = service
        said = job.record.service
        if service is not None and said is not None and not job.announced:
            job.announced = True
            self._announce(said.node, said.port)

    async def _read_again(self, job: KnownJob) -> None:
        """Read the record anew: what the job has left since."""
        record = await self._finder.find(job.record.number)
        job.read_at = self._clock.seconds()
        if record is not None and record.jobid == job.record.jobid:
            job.record = record

    async def _look(self, job: KnownJob) -> None:
        """See whether the port of a service that answered once is still open.

        A busy application that answers late has not gone.
        """
        service = job.service
        if service is None:
            return
        try:
            await self._services.look(service)
        except TunnelError:
            job.service = None if job.service is service else job.service
        job.tried_at = self._clock.seconds()

    def _within(self, at: float | None, seconds: float) -> bool:
        return at is not None and self._clock.seconds() - at < seconds
