"""What a cluster must offer, checked: asks the probes and collects the findings.

Sees the cluster through `IRemoteShell` and `ITunnelOpener` only. A check that can't be made is
unknown; nothing here raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol

from jarvice_slurmd.errors import (
    ForwardingRefusedError,
    JarviceSlurmdError,
    TunnelConnectError,
)
from jarvice_slurmd.interfaces import IRemoteShell, ITunnelOpener
from jarvice_slurmd.settings import Settings
from jarvice_slurmd.slurm import probes
from jarvice_slurmd.slurm.commands import render_root
from jarvice_slurmd.slurm.compute_node import (
    compute_node_not_asked,
    judge_compute_node,
    judge_container,
)
from jarvice_slurmd.slurm.findings import Answer, Finding, Verdict, parse_facts
from jarvice_slurmd.slurm.requirements import (
    judge_accounting,
    judge_configuration,
    judge_folder,
    judge_login,
    judge_queue,
)

#: Seconds that one probe of the login node may take.
PROBE_SECONDS: Final = 10.0
#: Seconds that sessions are held open side by side, to be counted.
_SESSION_SECONDS: Final = 3
_ALLOW_FORWARDING: Final = (
    "set AllowTcpForwarding to yes or local in sshd_config for this account, and let PermitOpen"
    " allow compute nodes' ports 20000 to 31999"
)
_SHOW_NODES: Final = (
    "have `sinfo` and `scontrol show node` tell this account a compute node and its address: remove"
    " `nodes` from PrivateData in slurm.conf"
)
#: Seconds beyond a compute node's patience until its check is given up.
_HEADROOM: Final = 60.0


@frozen(kw_only=True)
class RequirementsCheck:
    """Checks one cluster with the daemon's own settings and link.

    `relays` says whether tunnels go around a refusal to forward. The link keeps to at most as many
    sessions a connection as the settings say. `now` tells seconds since 1970, which `clock` need
    not.
    """

    shell: IRemoteShell
    tunnels: ITunnelOpener
    relays: Callable[[], bool]
    settings: Settings
    clock: IReactorTime
    now: Callable[[], float] = time.time

    async def quick(self) -> list[Finding]:
        """What the login node says within moments; all questions are asked at once."""
        root = render_root(self.settings.scratch_dir)
        asked = self.now()
        login, configuration, queue, accounting, folder, container, node = await gatherResults(
            [
                self._ask_later(script)
                for script in (
                    probes.render_login_probe(),
                    probes.render_configuration_probe(),
                    probes.render_queue_probe(),
                    probes.render_accounting_probe(),
                    probes.render_folder_probe(root=root),
                    probes.render_container_probe(root=root),
                    probes.render_node_probe(),
                )
            ],
            consumeErrors=True,
        )
        (answer, answered) = login
        return [
            *judge_login(answer, asked, answered),
            *judge_configuration(configuration[0]),
            *judge_accounting(accounting[0], configuration[0]),
            *judge_queue(queue[0], configuration[0]),
            *judge_folder(folder[0]),
            *judge_container(
                container[0], overlay_size=self.settings.overlay_size, where="the login node"
            ),
            await self._forwarding(node[0]),
            self._host_key(),
        ]

    async def whole(
        self, *, on_compute_node: bool, partition: str | None = None, patience: int = 180
    ) -> list[Finding]:
        """The quick checks, and those that take a while; a compute node only where wanted.

        `patience` is how many seconds the compute node's job gets to start and end.
        """
        findings = await self.quick()
        findings.append(await self._sessions())
        overlay_size = self.settings.overlay_size
        if not on_compute_node:
            return [*findings, *compute_node_not_asked()]
        script = probes.render_compute_probe(
            root=render_root(self.settings.scratch_dir),
            tmpdir=self.settings.singularity_tmpdir,
            partition=partition,
            seconds=patience,
        )
        answer = await self._ask(script, patience + _HEADROOM)
        compute = [*judge_compute_node(answer, overlay_size=overlay_size)]
        if "tool" in parse_facts(answer.stdout):
            # The tool that jobs find counts, not the login node's.
            tool = judge_container(answer, overlay_size=overlay_size, where="the compute node")
            findings = _replaced(findings, tool)
        return [*findings, *compute]

    def _ask_later(self, script: str) -> Deferred[tuple[Answer, float]]:
        async def ask() -> tuple[Answer, float]:
            answer = await self._ask(script, PROBE_SECONDS)
            return answer, self.now()

        return Deferred.fromCoroutine(ask())

    async def _ask(self, script: str, seconds: float) -> Answer:
        try:
            result = await self.shell.run(script, timeout=seconds, max_output=65_536)
        except JarviceSlurmdError as error:
            return Answer(status=None, stderr=str(error))
        return Answer(
            status=result.status,
            stdout=result.stdout.decode("utf-8", "replace"),
            stderr=result.stderr.decode("utf-8", "replace"),
        )

    def _host_key(self) -> Finding:
        settings = self.settings
        known = settings.ssh_known_hosts is not None
        return Finding(
            name="host key",
            verdict=Verdict.OK if known else Verdict.WARNING,
            found="it is the one in JARVICE_SLURM_SSH_KNOWN_HOSTS"
            if known
            else "whatever key came first was trusted; the log shows its fingerprint",
            needed="a host key that is known before the first connection",
            fix="compare the fingerprint with the login node's, then set"
            " JARVICE_SLURM_SSH_KNOWN_HOSTS to what"
            f" `ssh-keyscan -p {settings.ssh_port} {settings.ssh_host}` prints",
        )

    async def _forwarding(self, node: Answer) -> Finding:
        """Whether sshd forwards connections to a compute node's slurmd.

        Where no node's address is told it is asked for a connection to itself, which can show that
        forwarding is forbidden, but not that it reaches compute nodes.
        """
        facts = parse_facts(node.stdout)
        host, port = facts.get("address", ""), facts.get("port", "")
        name, hidden = facts.get("node"), not host
        if hidden:
            host, port, name = "127.0.0.1", facts.get("ssh_port", ""), "the login node itself"
        no_address = "none answers, or none may be seen" if node.status == 0 else node.trouble
        verdict, fix = Verdict.UNKNOWN, ""
        if not port.isdigit():
            found = node.trouble
        else:
            tunnel = self.tunnels.open(host, int(port), Factory.forProtocol(Protocol))
            tunnel.addTimeout(PROBE_SECONDS, self.clock)
            where = f"{name} ({host}:{port})"
            try:
                protocol = await tunnel
            except ForwardingRefusedError as error:
                wanted = self.settings.jobs_domain is not None
                verdict = Verdict.FAILED if wanted else Verdict.WARNING
                found, fix = f"{error}; batch jobs do not need it", _ALLOW_FORWARDING
            except TunnelConnectError as error:
                verdict = Verdict.UNKNOWN if hidden else Verdict.WARNING
                found = f"{where} did not answer: {error}"
                fix = "let the login node reach compute nodes' ports 20000 to 31999"
            except Exception as error:  # a timeout, or a link that was lost meanwhile
                found = f"{where}: {error or type(error).__name__}"
            else:
                if protocol.transport is not None:  # type: ignore[attr-defined]
                    protocol.transport.loseConnection()  # type: ignore[attr-defined]
                verdict, found = Verdict.OK, f"a connection to {where} was forwarded"
                if hidden:
                    verdict, fix = Verdict.UNKNOWN, _SHOW_NODES
                    found += (
                        f"; compute nodes could not be tried, no address was told: {no_address}"
                    )
                if self.relays():
                    verdict, fix = Verdict.WARNING, _ALLOW_FORWARDING
                    found = f"sshd forbids it; a relay on the login node reaches {where}"
        return Finding(
            name="forwarding",
            verdict=verdict,
            found=found,
            needed="sshd forwards connections to compute nodes, for interactive jobs",
            fix=fix,
        )

    async def _sessions(self) -> Finding:
        """How many sessions one connection bears: as many as are held at the same time."""
        wanted = self.settings.ssh_max_sessions
        script = probes.render_session_probe(_SESSION_SECONDS)
        seconds = PROBE_SECONDS + wanted * _SESSION_SECONDS
        asking = [Deferred.fromCoroutine(self._ask(script, seconds)) for _ in range(wanted)]
        answers: list[Answer] = await gatherResults(asking, consumeErrors=True)
        most = _most_at_once(answers)
        verdict = Verdict.OK if most >= wanted else Verdict.WARNING if most else Verdict.UNKNOWN
        return Finding(
            name="MaxSessions",
            verdict=verdict,
            found=f"{most} sessions at once on one connection"
            if most
            else next((a.trouble for a in answers if a.status != 0), "nothing was told"),
            needed=f"{wanted}, as JARVICE_SLURM_SSH_MAX_SESSIONS says",
            fix=f"set MaxSessions to {wanted} in sshd_config, or JARVICE_SLURM_SSH_MAX_SESSIONS"
            f" to {most}",
        )


def _most_at_once(answers: Iterable[Answer]) -> int:
    """The most sessions that one connection had at any moment."""
    events: list[tuple[str, float, int]] = []
    for answer in answers:
        facts = parse_facts(answer.stdout)
        try:
            begin, end = float(facts["begin"]), float(facts["end"])
        except (KeyError, ValueError):
            continue
        connection = facts.get("connection", "")
        events += [(connection, begin, 1), (connection, end, -1)]
    most = now = 0
    for _, _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


def _replaced(findings: Iterable[Finding], better: Iterable[Finding]) -> list[Finding]:
    """The findings, those of the same names replaced."""
    by_name = {finding.name: finding for finding in better}
    return [by_name.get(finding.name, finding) for finding in findings]
