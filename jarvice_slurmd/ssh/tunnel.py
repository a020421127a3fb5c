# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""A byte stream to a port beyond the login node: how it is opened, and why it may not be."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.error import ConchError
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.connection import OPEN_ADMINISTRATIVELY_PROHIBITED
from twisted.internet.address import HostnameAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory

from jarvice_slurmd.errors import (
    ForwardingRefusedError,
    NotConnectedError,
    TunnelConnectError,
)
from jarvice_slurmd.ssh.flow import FlowConnection
from jarvice_slurmd.ssh.stream import StreamChannel


class TunnelChannel(StreamChannel):
    """A direct-tcpip channel (RFC 4254 §7.2), the transport of the protocol that it connects.

    `opened` fires with the protocol, or fails as `ITunnelOpener.open` documents; cancelling it
    abandons the attempt.
    """

    name = b"direct-tcpip"
    # Whether it counts for sshd's MaxSessions.
    takes_session = False

    def __init__(
        self,
        connection: FlowConnection,
        host: str,
        port: int,
        factory: IProtocolFactory,
        largest_window: int,
    ) -> None:
        super().__init__(connection, largest_window)
        self.opened: Deferred[IProtocol] = Deferred(lambda _: self._give_up(None))
        self.host = host
        self._host = host.encode() if host.isascii() else host.encode("idna")
        self.port = port
        self._factory = factory
        self._is_settled = False

    @property
    def open_data(self) -> bytes:
        """What the open request says: where to, and from where, which means nothing here."""
        return (
            NS(self._host) + struct.pack(">L", self.port) + NS(b"127.0.0.1") + struct.pack(">L", 0)
        )

    def channelOpen(self, specificData: bytes) -> None:
        """The login node has connected."""
        if self._is_settled:
            self.conn.sendClose(self)
            return
        self.connected_to_port()

    def connected_to_port(self) -> None:
        """The port is at the other end: hand the stream over."""
        self._is_settled = True
        protocol = self._factory.buildProtocol(self.getPeer())
        if protocol is None:
            self.conn.sendClose(self)
            self.opened.errback(TunnelConnectError("the connection is not wanted any longer"))
            return
        self._protocol = protocol
        protocol.makeConnection(self)
        self.opened.callback(protocol)

    def openFailed(self, reason: Any) -> None:
        """There is no stream: sshd may not forward, or could not connect, or the link is lost."""
        if not isinstance(reason, ConchError):
            self.give_up(NotConnectedError(f"the SSH link was lost: {self.conn.lost_reason}"))
        else:
            words = reason.value.decode("utf-8", "replace") if reason.value else "no reason given"
            if reason.data == OPEN_ADMINISTRATIVELY_PROHIBITED:
                self.give_up(
                    ForwardingRefusedError(f"the login node's sshd forbids forwarding ({words})")
                )
            else:
                self.give_up(
                    TunnelConnectError(
                        f"the login node can't connect to {self.host}:{self.port} ({words})"
                    )
                )
        self.ended.callback(None)

    def give_up(self, error: Exception) -> None:
        """Fail with `error` unless it is open already."""
        if not self._is_settled:
            self._give_up(error)

    def _give_up(self, error: Exception | None) -> None:
        """Close what may yet open; None is for a cancellation, which brings its own error."""
        self._is_settled = True
        if self.id in self.conn.localToRemoteChannel:
            self.conn.sendClose(self)
        if error is not None:
            self.opened.errback(error)

    def closed(self) -> None:
        """The channel is gone; before it was open, that is the failure."""
        self.give_up(TunnelConnectError(f"{self.host}:{self.port} closed the connection"))
        super().closed()

    def getPeer(self) -> HostnameAddress:
        """The port, as the login node names its host."""
        return HostnameAddress(self._host, self.port)
