"""From what a job says of its service to a service that answers."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from attrs import frozen

from jarvice_slurmd.errors import JarviceSlurmdError, TunnelConnectError, TunnelError
from jarvice_slurmd.interactive.address import names_its_prefix, service_path
from jarvice_slurmd.interactive.interfaces import Service
from jarvice_slurmd.interactive.probe import Place, ServiceProbe, SlowServiceError
from jarvice_slurmd.interactive.routing import JobsDomain
from jarvice_slurmd.interfaces import IRemoteShell
from jarvice_slurmd.jobs.parameters import render_ingress_path
from jarvice_slurmd.slurm.hostlist import parse_hostlist
from jarvice_slurmd.slurm.interactive import (
    InteractiveRecord,
    parse_node_address,
    parse_prefix,
    render_node,
    render_settle_prefix,
)

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class ServiceFinder:
    """Finds the services of jobs that run; `root` is the shell word of the `.jarvice` folder."""

    shell: IRemoteShell
    probe: ServiceProbe
    domain: JobsDomain
    root: str

    async def find(
        self, record: InteractiveRecord, hostlist: str, patience: float
    ) -> Service | None:
        """The job's service once it answers; None before it has chosen a port.

        `hostlist` is Slurm's, of the job's nodes: its service is on the first of them, whatever
        the job says. Raises as `ServiceProbe.answers`, which see for `patience`, while it does not
        answer.
        """
        said = record.service
        if said is None:
            return None
        if said.node not in parse_hostlist(hostlist)[:1]:
            raise TunnelConnectError(f"{said.node} is not the first of the job's nodes, {hostlist}")
        address = await self._address(said.node)
        if address != said.node:
            # What Slurm itself uses comes first: a name need not resolve on the login node.
            try:
                return await self._settle(record, address, said.port, patience)
            except SlowServiceError:
                raise
            except TunnelError as error:
                _log.debug("Job %d at %s:%d: %s", record.number, address, said.port, error)
        return await self._settle(record, said.node, said.port, patience)

    async def look(self, service: Service) -> None:
        """Come back when a service's port is still open.

        A busy application that answers late has not gone. Raises as `ServiceProbe.is_open`.
        """
        await self.probe.is_open(Place(host=service.host, port=service.port, name=""))

    async def _address(self, node: str) -> str:
        result = await self.shell.run(render_node(node))
        return (parse_node_address(result.stdout) if result.status == 0 else None) or node

    async def _settle(
        self, record: InteractiveRecord, host: str, port: int, patience: float
    ) -> Service:
        """The service, once it has answered; whether its prefix is taken off is noted for all."""
        place = Place(host=host, port=port, name=urlsplit(self.domain.url(record.number)).netloc)
        path = service_path(self.domain, record)
        prefix = render_ingress_path(self.domain.path, record.number)
        if not prefix:
            await self.probe.answers(place, f"/{path}", patience)
            return Service(host=host, port=port)
        strip = record.strip_prefix
        if record.about.wants_prefix is not None:
            strip = not record.about.wants_prefix
        elif strip is None and names_its_prefix(record):
            strip = False
        if strip is not None:
            asked = f"/{path}" if strip else f"/{prefix}/{path}"
            await self.probe.answers(place, asked, patience)
            return Service(host=host, port=port, strip_prefix=strip)
        strip = await self.probe.serves_at_root(place, f"/{prefix}", path, patience)
        strip = await self._note(record, strip)
        return Service(host=host, port=port, strip_prefix=strip)

    async def _note(self, record: InteractiveRecord, strip: bool) -> bool:
        """Note what was found out; what another replica has noted before counts."""
        try:
            noted = await self.shell.run(
                render_settle_prefix(root=self.root, jobid=record.jobid, strip=strip)
            )
        except JarviceSlurmdError as error:
            _log.warning("Could not note the prefix of job %d: %s", record.number, error)
            return strip
        settled = parse_prefix(noted.stdout.decode("ascii", "replace"))
        return strip if settled is None else settled
