# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""One command on the login node: an exec channel in, a `CommandResult` out."""

from __future__ import annotations

import signal
import struct
from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jarvice_slurmd.errors import (
    LinkLostError,
    LoginShellError,
    OutputTooLargeError,
    RemoteShellError,
)
from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.ssh.connection import PACKET, LinkConnection, WarningsLogger
from jarvice_slurmd.ssh.shell import MAX_PREAMBLE, Invocation, PreambleFilter

_WINDOW = 1024 * 1024
# A signal whose name we don't know: what a shell says of an exit status out of range.
_UNKNOWN_SIGNAL = 255


class SessionRefusedError(RemoteShellError):
    """The server opened no session, or the connection ended before it did: nothing ran.

    Internal to this room: the command is put back into the queue.
    """


class CommandChannel(SSHChannel):
    """A session channel that runs one invocation (RFC 4254 §6.5).

    `result` fires with the `CommandResult`, or fails with `SessionRefusedError` or what
    `IRemoteShell.run` documents; `released` fires when the server's session is free again, which
    may be later. Neither is to be cancelled: `end` ends the command.
    """

    name = b"session"
    conn: LinkConnection
    _log = WarningsLogger()

    def __init__(self, invocation: Invocation, stdin: bytes, max_output: int) -> None:
        super().__init__(localWindow=_WINDOW, localMaxPacket=PACKET)
        self.result: Deferred[CommandResult] = Deferred()
        self.released: Deferred[None] = Deferred()
        self.is_open = False
        self._is_settled = False
        self._exec_line = invocation.exec_line
        self._unsent = [memoryview(part) for part in (stdin, invocation.text) if part]
        self._room = max_output
        self._status: int | None = None
        self._preambles = PreambleFilter(invocation.nonce), PreambleFilter(invocation.nonce)
        self._outputs = bytearray(), bytearray()

    # From the connection

    def channelOpen(self, specificData: bytes) -> None:
        """A session is ours: run the command in it, unless nobody wants it any longer."""
        self.is_open = True
        if self._is_settled:
            self.conn.sendClose(self)
            return
        accepted: Deferred[Any] = self.conn.sendRequest(
            self, b"exec", NS(self._exec_line), wantReply=1
        )
        accepted.addErrback(self._exec_refused)
        self._send()

    def openFailed(self, reason: Any) -> None:
        """There is no session for us, now or at all."""
        words = reason.args[0] if reason.args else type(reason).__name__
        if isinstance(words, bytes):
            words = words.decode("utf-8", "replace")
        self._settle(SessionRefusedError(f"the login node opened no session ({words})"))
        self.released.callback(None)

    def addWindowBytes(self, data: int) -> None:
        """The server takes more of stdin."""
        self.remoteWindowLeft += data
        self._send()

    def dataReceived(self, data: bytes) -> None:
        """Some of stdout."""
        self._take(0, data)

    def extReceived(self, dataType: int, data: bytes) -> None:
        """Some of stderr; RFC 4254 knows no other kind."""
        if dataType == EXTENDED_DATA_STDERR:
            self._take(1, data)

    def eofReceived(self) -> None:
        """No more output; what counts is the close."""

    def request_exit_status(self, data: bytes) -> bool:
        """The command ended (RFC 4254 §6.10)."""
        self._status = struct.unpack(">L", data[:4])[0]
        return True

    def request_exit_signal(self, data: bytes) -> bool:
        """A signal ended it; the name comes without its SIG."""
        name = getNS(data)[0].decode("ascii", "replace")
        number = getattr(signal, f"SIG{name}", None)
        self._status = _UNKNOWN_SIGNAL if number is None else 128 + int(number)
        return True

    def closeReceived(self) -> None:
        """The server is done with the channel: so are we."""
        self.conn.sendClose(self)

    def closed(self) -> None:
        """Both sides have closed it, or the connection ended."""
        self._unsent.clear()
        self._finish()
        self.released.callback(None)

    # For the owner

    def end(self, error: Exception) -> None:
        """Fail with `error` and end the command: SIGTERM to its process group, then close.

        sshd frees the session once the processes have ended (OpenSSH keeps a session until then).
        """
        self._settle(error)
        self._hang_up()

    # Inside

    def _send(self) -> None:
        """Send as much of stdin as the server has room for, then its end."""
        while self._unsent:
            part = self._unsent[-1]
            size = min(len(part), self.remoteWindowLeft, self.remoteMaxPacket, PACKET)
            if size <= 0:
                return
            self.conn.sendData(self, bytes(part[:size]))
            self.remoteWindowLeft -= size
            if size < len(part):
                self._unsent[-1] = part[size:]
                continue
            self._unsent.pop()
            if not self._unsent:
                self.conn.sendEOF(self)

    def _take(self, stream: int, data: bytes) -> None:
        """Keep what belongs to the script's output, within the bounds."""
        if self._is_settled:
            return
        preamble = self._preambles[stream]
        data = preamble.feed(data)
        if not preamble.started and preamble.dropped > MAX_PREAMBLE:
            self.end(LoginShellError(f"the login shell prints without end: {preamble.first_line}"))
            return
        self._room -= len(data)
        if self._room < 0:
            self.end(OutputTooLargeError("the command wrote more than is allowed"))
        else:
            self._outputs[stream].extend(data)

    def _exec_refused(self, _: Failure) -> None:
        """sshd would not even start the login shell; or the channel has closed meanwhile."""
        if self.is_open and not self._is_settled and not self.localClosed:
            self.end(LoginShellError("the login node refuses to run commands (exec request)"))

    def _finish(self) -> None:
        if self._is_settled:
            return
        if self.conn.is_lost:
            reason = self.conn.lost_reason
            self._settle(LinkLostError(f"the SSH link was lost while a command ran: {reason}"))
        elif self._status is None:
            self._settle(LinkLostError("the login node closed the command without its status"))
        elif not any(p.started for p in self._preambles):
            lines = (p.first_line for p in self._preambles)
            said = next((line for line in lines if line), "nothing")
            self._settle(
                LoginShellError(
                    f"the login shell did not run the command: it ended with status {self._status}"
                    f" and said: {said}"
                )
            )
        else:
            stdout, stderr = map(bytes, self._outputs)
            self._is_settled = True
            self.result.callback(CommandResult(status=self._status, stdout=stdout, stderr=stderr))

    def _settle(self, error: Exception) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        self._unsent.clear()
        for output in self._outputs:
            output.clear()
        self.result.errback(error)

    def _hang_up(self) -> None:
        if self.is_open and not self.localClosed:
            # To the whole process group; `timeout` there follows with SIGKILL after a while.
            self.conn.sendRequest(self, b"signal", NS(b"TERM"))
            self.conn.sendClose(self)
