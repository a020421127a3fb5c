# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""Byte streams to ports of compute nodes, over SSH connections apart from the commands' own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.application.service import Service
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from jarvice_slurmd.errors import ForwardingRefusedError, NotConnectedError, TunnelConnectError
from jarvice_slurmd.interfaces import ITunnelOpener
from jarvice_slurmd.ssh.carriers import Carrier, Carriers
from jarvice_slurmd.ssh.command import SessionRefusedError
from jarvice_slurmd.ssh.endpoint import LoginNodeEndpoint
from jarvice_slurmd.ssh.exec_tunnel import ExecTunnelChannel
from jarvice_slurmd.ssh.flow import FlowConnection
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy
from jarvice_slurmd.ssh.options import Destination, LinkOptions
from jarvice_slurmd.ssh.tunnel import TunnelChannel

# Names and addresses as Slurm has them; nothing that a program could take for an option.
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]{0,254}")


@frozen(kw_only=True)
class TunnelOptions:
    """How tunnels are opened; seconds."""

    link: LinkOptions = field(factory=LinkOptions)
    # The connection to the port, as the login node makes it.
    open_timeout: float = 10.0
    # How long sshd's refusal to forward is believed before forwarding is tried again.
    refusal_kept: float = 600.0
    # How many addresses that it refused are remembered.
    max_refusals: int = 1024
    # Where each tunnel takes a session, so many connections with `link.max_sessions` each.
    max_connections: int = 8


@implementer(ITunnelOpener)
class SSHTunnelOpener(Service):
    """Opens tunnels while it is started; see `ITunnelOpener`.

    By forwarding (direct-tcpip), or where sshd forbids that by a relay that runs as a command on
    the login node. The first tunnel opens the connection; one that is lost is opened again by the
    next tunnel, which waits `down_patience` seconds for it.
    """

    name = "ssh-tunnels"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        user: str,
        key: Key,
        policy: HostKeyPolicy,
        options: TunnelOptions | None = None,
        *,
        connect: Callable[[], Deferred[FlowConnection]] | None = None,
    ) -> None:
        """`connect` replaces how a connection is made; tests without a network do that."""
        self._clock: IReactorTime = reactor
        self._options = options or TunnelOptions()
        endpoint = LoginNodeEndpoint(
            reactor=reactor,
            destination=Destination(host=host, port=port, user=user),
            key=key,
            policy=policy,
            options=self._options.link,
        )
        self._carriers = Carriers(
            reactor,
            connect or (lambda: Deferred.fromCoroutine(_connect(endpoint))),
            self._options.link,
            self._options.max_connections,
        )
        # When sshd last refused to forward to an address, the oldest first: it may allow others.
        self._refusals: dict[tuple[str, int], float] = {}
        self._was_told = False

    @property
    def connections(self) -> int:
        """How many SSH connections there are."""
        return self._carriers.size

    @property
    def tunnels(self) -> int:
        """How many tunnels are open or opening."""
        return self._carriers.tunnels

    @property
    def relays(self) -> bool:
        """Whether some tunnels go through the relay, because sshd refused to forward."""
        return any(map(self._is_believed, self._refusals.values()))

    def startService(self) -> None:
        """Allow tunnels; the first one connects."""
        super().startService()
        self._carriers.start()

    def stopService(self) -> Deferred[None]:
        """End every tunnel and disconnect."""
        super().stopService()
        return Deferred.fromCoroutine(self._carriers.stop())

    def open(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `ITunnelOpener.open`."""
        return Deferred.fromCoroutine(self._open(host, port, factory))

    async def _open(self, host: str, port: int, factory: IProtocolFactory) -> IProtocol:
        if not _HOST.fullmatch(host) or not 0 < port < 65536:
            raise TunnelConnectError(f"{host!r}, port {port}, is no address that can be connected")
        if not self._is_refused(host, port):
            carrier = await self._carriers.with_room(sessions=False)
            try:
                result = await self._through(
                    carrier,
                    TunnelChannel(carrier.connection, host, port, factory, carrier.window),
                )
            except ForwardingRefusedError as e:
                self._note_refusal(host, port, str(e))
            else:
                self._note_forwarding(host, port)
                return result
        return await self._open_relay(host, port, factory)

    async def _open_relay(self, host: str, port: int, factory: IProtocolFactory) -> IProtocol:
        """Open a tunnel that takes a session, on a connection that has one free."""
        until = self._clock.seconds() + self._options.open_timeout
        while True:
            carrier = await self._carriers.with_room(sessions=True)
            channel = ExecTunnelChannel(carrier.connection, host, port, factory, carrier.window)
            try:
                return await self._through(carrier, channel)
            except SessionRefusedError as e:
                carrier.refused()
                if self._clock.seconds() >= until:
                    raise NotConnectedError(str(e)) from None

    async def _through(self, carrier: Carrier, channel: TunnelChannel) -> IProtocol:
        late = self._clock.callLater(
            self._options.open_timeout,
            channel.give_up,
            TunnelConnectError(
                f"{channel.host}:{channel.port} did not answer within"
                f" {self._options.open_timeout:g} s"
            ),
        )
        carrier.open(channel)
        try:
            return await channel.opened
        finally:
            if late.active():
                late.cancel()

    # Where sshd does not forward

    def _is_believed(self, refused_at: float) -> bool:
        return self._clock.seconds() - refused_at < self._options.refusal_kept

    def _is_refused(self, host: str, port: int) -> bool:
        refused_at = self._refusals.get((host, port))
        return refused_at is not None and self._is_believed(refused_at)

    def _note_refusal(self, host: str, port: int, why: str) -> None:
        self._refusals.pop((host, port), None)
        self._refusals[host, port] = self._clock.seconds()
        if len(self._refusals) > self._options.max_refusals:
            del self._refusals[next(iter(self._refusals))]
        if not self._was_told:
            self._was_told = True
            self._log.warn(
                "{why}; tunnels to {host}:{port} and whatever else it refuses go through a relay"
                " that runs as a command there, which costs more: AllowTcpForwarding and PermitOpen"
                " in its sshd_config would allow forwarding",
                why=why[0].upper() + why[1:],
                host=host,
                port=port,
            )

    def _note_forwarding(self, host: str, port: int) -> None:
        if self._refusals.pop((host, port), None) is not None and self._was_told:
            self._was_told = False
            self._log.warn(
                "The login node's sshd allows forwarding to {host}:{port} again",
                host=host,
                port=port,
            )


async def _connect(endpoint: LoginNodeEndpoint) -> FlowConnection:
    connection = await endpoint.connect(FlowConnection)
    assert isinstance(connection, FlowConnection)
    return connection
