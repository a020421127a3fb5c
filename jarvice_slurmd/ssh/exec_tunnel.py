# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""A byte stream through a relay that runs as a command, where sshd forbids forwarding."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory

from jarvice_slurmd.errors import (
    ForwardingRefusedError,
    NotConnectedError,
    TunnelConnectError,
)
from jarvice_slurmd.ssh.command import SessionRefusedError
from jarvice_slurmd.ssh.flow import FlowConnection
from jarvice_slurmd.ssh.relay import (
    NO_PROGRAM,
    parse_connected,
    parse_ended,
    parse_reason,
    render_relay,
)
from jarvice_slurmd.ssh.shell import (
    MAX_PREAMBLE,
    PreambleFilter,
    encode_script,
    make_nonce,
    render_invocation,
)
from jarvice_slurmd.ssh.tunnel import TunnelChannel

# What is kept of a relay's stderr, until it has connected and then, in bytes.
_MAX_STDERR = 16 * 1024
_TAIL = 64


class ExecTunnelChannel(TunnelChannel):
    """A session channel whose command's stdin and stdout are the stream.

    Flow control and ends are those of `StreamChannel`; only an end of data must have been said on
    stderr, and a status other than 0 is a far end that broke the connection.
    """

    name = b"session"
    takes_session = True
    open_data = b""

    def __init__(
        self,
        connection: FlowConnection,
        host: str,
        port: int,
        factory: IProtocolFactory,
        largest_window: int,
    ) -> None:
        super().__init__(connection, host, port, factory, largest_window)
        script = encode_script(render_relay(host, port))
        self._invocation = render_invocation(script, nonce=make_nonce(), seconds=None)
        self._stdout = PreambleFilter(self._invocation.nonce)
        self._stderr = PreambleFilter(self._invocation.nonce)
        self._said = b""
        self._is_connected = False
        self._is_end_said = False
        self._status: int | None = None

    def channelOpen(self, specificData: bytes) -> None:
        """A session is ours: run the relay in it."""
        if self._is_settled:
            self.conn.sendClose(self)
            return
        accepted: Deferred[Any] = self.conn.sendRequest(
            self, b"exec", NS(self._invocation.exec_line), wantReply=1
        )
        accepted.addErrback(lambda _: self._not_started())
        self.write(self._invocation.text)

    def openFailed(self, reason: Any) -> None:
        """sshd opened no session."""
        self.ended.callback(None)
        if self.conn.is_lost:
            self.give_up(NotConnectedError(f"the SSH link was lost: {self.conn.lost_reason}"))
        else:
            self.give_up(SessionRefusedError("the login node opens no session for a tunnel"))

    def arrived(self, data: bytes) -> None:
        """Some of stdout: the stream, behind what the login shell printed."""
        if self._is_connected:
            super().arrived(data)
            return
        rest = self._stdout.feed(data)
        self.grant(len(data) - len(rest))
        if self._stdout.dropped > MAX_PREAMBLE:
            self.give_up(TunnelConnectError("the login shell prints without end"))
        elif rest:
            self._connected()
            super().arrived(rest)

    def take_extended(self, data: bytes) -> None:
        """Some of stderr: whether the relay has connected, or why not; and how it ends."""
        super().take_extended(data)
        said = self._said + self._stderr.feed(data)
        self._said = said[-(_TAIL if self._is_connected else _MAX_STDERR) :]
        self._is_end_said = self._is_end_said or parse_ended(said)
        if not self._is_connected and self._stdout.started and parse_connected(said):
            self._connected()

    def eofReceived(self) -> None:
        """Nothing more comes: the far end's end, or the end of a relay that has lost it."""
        if self._is_connected and not self._is_end_said:
            self.conn.sendClose(self)
        else:
            super().eofReceived()

    def _connected(self) -> None:
        if not self._is_connected and not self._is_settled:
            self._is_connected = True
            self._said = b""
            self.connected_to_port()

    def request_exit_status(self, data: bytes) -> bool:
        """The relay ended."""
        self._status = struct.unpack(">L", data[:4])[0]
        return True

    def _not_started(self) -> None:
        # A request that has no answer when the channel closes fails as well.
        if not self.localClosed:
            self.give_up(ForwardingRefusedError("the login node neither forwards nor runs a relay"))

    def closed(self) -> None:
        """The session is over; before the relay had connected, that is the failure."""
        if not self._is_connected and not self.conn.is_lost:
            self.give_up(self._failure())
        if self._is_connected and self._status:
            self._eof_came = False
        super().closed()

    def _failure(self) -> Exception:
        if self._status == NO_PROGRAM:
            return ForwardingRefusedError(
                "the login node's sshd forbids forwarding, and there is neither python3 nor"
                " socat, nc or bash for a relay"
            )
        if not self._stdout.started:
            said = self._stdout.first_line or self._stderr.first_line or "nothing"
            return TunnelConnectError(f"the login shell did not run the relay and said: {said}")
        reason = parse_reason(self._said)
        return TunnelConnectError(
            f"the login node can't connect to {self.host}:{self.port} ({reason})"
        )
