"""Where interactive jobs are: found on the cluster by any replica, answered from memory mostly.

What never changes of a job (its name, job id, templates) is asked for once; whether it still runs
comes from the shared view of the queue; whether its service answers is probed until it does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from jarvice_slurmd.errors import (
    JarviceSlurmdError,
    RemoteShellError,
    SlurmUnavailableError,
    TunnelError,
)
from jarvice_slurmd.interactive.address import ingress_path, render_help, render_url
from jarvice_slurmd.interactive.interfaces import (
    IJobDirectory,
    Service,
    Stage,
    Unknown,
    Waiting,
)
from jarvice_slurmd.interactive.probe import ServiceProbe
from jarvice_slurmd.interactive.routing import JobsDomain
from jarvice_slurmd.interfaces import IJobInfo, IRemoteShell
from jarvice_slurmd.jobs.model import JobInfo, JobRef
from jarvice_slurmd.slurm.interactive import (
    InteractiveRecord,
    parse_interactive_record,
    parse_prefix,
    render_find_interactive,
    render_settle_prefix,
)
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

_MAX_KNOWN = 10_000

NO_INFO = JobInfo(about="", help="", url="")


@define(kw_only=True)
class _Known:
    """What this process remembers of a number."""

    record: InteractiveRecord | None = None
    asked_at: float | None = None
    service: Service | None = None
    probed_at: float | None = None
    confirmed_at: float | None = None
    busy: Deferred[None] | None = None


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
        self._snapshot = snapshot
        self._probe = probe
        self._clock = clock
        self._domain = domain
        self._root = root
        self._announce = announce
        self._known: dict[int, _Known] = {}

    async def resolve(self, number: int) -> Service | Waiting | Unknown:
        """See `IJobDirectory.resolve`."""
        known = self._known.get(number)
        if known is None:
            while len(self._known) >= _MAX_KNOWN:
                del self._known[next(iter(self._known))]
            known = self._known[number] = _Known()
        if known.service is not None and self._within(known.confirmed_at, TRUST_SECONDS):
            if not self._within(known.confirmed_at, ASK_AGAIN_SECONDS):
                # Whoever asks next knows; who asks now need not wait for it.
                Deferred.fromCoroutine(self._confirm(known)).addErrback(lambda _: None)
            return known.service
        if known.record is None:
            await self._alone(known, lambda: self._look_up(known, number))
        if known.record is None:
            return Unknown()
        return await self._stand(known, known.record)

    async def info(self, ref: JobRef) -> JobInfo:
        """See `IJobInfo.info`."""
        found = await self.resolve(ref.number)
        known = self._known.get(ref.number)
        record = None if known is None else known.record
        if not isinstance(found, Service) or record is None or record.jobid != ref.jobid:
            return NO_INFO
        return JobInfo(
            about=record.about.about or "",
            help=render_help(self._domain, record),
            url=render_url(self._domain, record),
        )

    async def _stand(self, known: _Known, record: InteractiveRecord) -> Service | Waiting | Unknown:
        try:
            entry = await self._confirm(known)
        except (SlurmUnavailableError, RemoteShellError):
            if known.service is not None and self._within(known.confirmed_at, OUTAGE_SECONDS):
                return known.service
            raise
        if entry is None or entry.state.phase not in (Phase.QUEUED, Phase.RUNNING):
            known.record = known.service = None
            known.asked_at = self._clock.seconds()
            return Unknown()
        if entry.state.phase is Phase.QUEUED:
            return Waiting(stage=Stage.QUEUED, detail=entry.reason)
        if known.service is None:
            await self._alone(known, lambda: self._reach(known))
        if known.service is not None:
            return known.service
        has_port = known.record is not None and known.record.service is not None
        return Waiting(stage=Stage.PORT_CLOSED if has_port else Stage.STARTING)

    async def _confirm(self, known: _Known) -> QueueEntry | None:
        """What the queue says of the job now; None when it has no such job of ours."""
        view = await self._snapshot.current()
        record = known.record
        entry = None if record is None else view.entries.get(record.jobid)
        if entry is None or record is None or entry.name != record.name:
            known.service = known.confirmed_at = None
            return None
        if entry.state.phase is Phase.RUNNING:
            known.confirmed_at = view.asked_at
        else:
            known.service = known.confirmed_at = None
        return entry

    async def _look_up(self, known: _Known, number: int) -> None:
        if self._within(known.asked_at, ASK_AGAIN_SECONDS):
            return
        result = await self._shell.run(render_find_interactive(root=self._root, number=number))
        known.asked_at = self._clock.seconds()
        if result.status == 0:
            known.record = parse_interactive_record(result.stdout) or known.record

    async def _reach(self, known: _Known) -> None:
        """Find the service's port, and see whether it answers."""
        record = known.record
        if known.service is not None or record is None:
            return
        if record.service is None:
            await self._look_up(known, record.number)
            record = known.record
        if record is None or record.service is None:
            return
        if self._within(known.probed_at, ASK_AGAIN_SECONDS):
            return
        address = record.service
        # A node's name is what people know; its address in Slurm is what surely can be reached.
        for host in dict.fromkeys((address.node, address.address)):
            try:
                service = await self._settle(record, host, address.port)
            except TunnelError as error:
                _log.debug("Job %d at %s:%d: %s", record.number, host, address.port, error)
                continue
            finally:
                known.probed_at = self._clock.seconds()
            known.record = await self._with_files(known, record)
            known.service = service
            self._announce(address.node, address.port)
            return

    async def _settle(self, record: InteractiveRecord, host: str, port: int) -> Service:
        """The service, once it has answered; whether its prefix is taken off is noted for all."""
        path = ingress_path(self._domain, record.number)
        if not path:
            await self._probe.status(host, port, "/")
            return Service(host=host, port=port)
        strip = record.strip_prefix
        if record.about.wants_prefix is not None:
            strip = not record.about.wants_prefix
        if strip is not None:
            await self._probe.status(host, port, "/" if strip else f"/{path}/")
            return Service(host=host, port=port, strip_prefix=strip)
        strip = await self._probe.serves_at_root(host, port, f"/{path}")
        try:
            noted = await self._shell.run(
                render_settle_prefix(root=self._root, jobid=record.jobid, strip=strip)
            )
        except JarviceSlurmdError as error:
            _log.warning("Could not note the prefix of job %d: %s", record.number, error)
        else:
            settled = parse_prefix(noted.stdout.decode("ascii", "replace"))
            strip = strip if settled is None else settled
        return Service(host=host, port=port, strip_prefix=strip)

    async def _with_files(self, known: _Known, record: InteractiveRecord) -> InteractiveRecord:
        """The record with what the job left since: its URL, help and password."""
        known.asked_at = None
        await self._look_up(known, record.number)
        return known.record or evolve(record)

    async def _alone(self, known: _Known, do: Callable[[], object]) -> None:
        """Do something about a job unless it is being done: then wait for that to end."""
        if known.busy is not None:
            waiting: Deferred[None] = Deferred()
            known.busy.addBoth(lambda _: waiting.callback(None))
            await waiting
            return
        known.busy = Deferred()
        try:
            await do()  # type: ignore[misc]
        finally:
            busy, known.busy = known.busy, None
            busy.callback(None)

    def _within(self, at: float | None, seconds: float) -> bool:
        return at is not None and self._clock.seconds() - at < seconds
