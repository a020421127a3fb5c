# mypy: allow-untyped-calls
"""An SSH transport that only remembers: for channels and connections without sockets or keys."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.common import NS, getNS
from twisted.internet.task import Clock

from jarvice_slurmd.ssh.client import LinkTransport
from jarvice_slurmd.ssh.connection import LinkConnection, ServerVersion


class FakeTransport(LinkTransport):
    """Takes the place of `LinkTransport` under a `LinkConnection`."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.reason = ""
        self.aborted = False
        self.rekeying = False

    @property
    def is_rekeying(self) -> bool:
        """As the test says."""
        return self.rekeying

    def send_data(self, header: bytes, data: bytes) -> None:
        """Remember."""
        self.sent.append((conch.MSG_CHANNEL_DATA, header + data))

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Remember."""
        self.sent.append((messageType, payload))

    def authenticated(self, connection: LinkConnection) -> None:
        """Nobody waits."""

    @property
    def server_version(self) -> ServerVersion:
        """Any."""
        return ServerVersion("2.0", "Fake_1.0")

    def close(self, reason: str) -> None:
        """The socket would end soon."""
        self.abort(reason)

    def abort(self, reason: str) -> None:
        """The socket would end at once."""
        self.reason = self.reason or reason
        self.aborted = True

    def taken(self, kind: int) -> list[bytes]:
        """The payloads of one kind of message sent so far."""
        return [payload for messageType, payload in self.sent if messageType == kind]

    def requests(self) -> list[bytes]:
        """The names of the channel requests sent so far."""
        return [getNS(p[4:])[0] for p in self.taken(conch.MSG_CHANNEL_REQUEST)]


class FakeServer:
    """What a server would say, said to a connection by the test. Remote ids are 1000 and up."""

    def __init__(
        self, clock: Clock | None = None, kind: type[LinkConnection] = LinkConnection
    ) -> None:
        self.clock = clock or Clock()
        self.connection = kind(self.clock, 4.0, 2)
        self.transport = FakeTransport()
        self.connection.transport = self.transport
        self.connection.serviceStarted()

    def say(self, kind: int, channel: Any, rest: bytes = b"") -> None:
        """Send a message to a channel."""
        self.connection.packetReceived(kind, struct.pack(">L", channel.id) + rest)

    def confirm(self, channel: Any, window: int = 0, packet: int = 32768) -> None:
        """Accept the channel, with so much window."""
        rest = struct.pack(">3L", 1000 + channel.id, window, packet)
        self.say(conch.MSG_CHANNEL_OPEN_CONFIRMATION, channel, rest)

    def refuse(self, channel: Any, code: int, words: bytes) -> None:
        """Do not open the channel."""
        rest = struct.pack(">L", code) + NS(words) + NS(b"")
        self.say(conch.MSG_CHANNEL_OPEN_FAILURE, channel, rest)

    def grow(self, channel: Any, window: int) -> None:
        """Take more from the channel."""
        self.say(conch.MSG_CHANNEL_WINDOW_ADJUST, channel, struct.pack(">L", window))

    def stdout(self, channel: Any, data: bytes) -> None:
        """Print; as the transport hands it over, the short way where there is one."""
        take = getattr(self.connection, "data_received", None)
        if take is None:
            self.say(conch.MSG_CHANNEL_DATA, channel, NS(data))
        else:
            packet = b"\0\x5e" + struct.pack(">L", channel.id) + NS(data)
            take(packet, len(packet))

    def stderr(self, channel: Any, data: bytes) -> None:
        """Complain."""
        self.say(conch.MSG_CHANNEL_EXTENDED_DATA, channel, struct.pack(">L", 1) + NS(data))

    def exit_status(self, channel: Any, status: int) -> None:
        """The command has ended."""
        rest = NS(b"exit-status") + b"\0" + struct.pack(">L", status)
        self.say(conch.MSG_CHANNEL_REQUEST, channel, rest)

    def exit_signal(self, channel: Any, name: bytes) -> None:
        """A signal has ended the command."""
        rest = NS(b"exit-signal") + b"\0" + NS(name) + b"\0" + NS(b"") + NS(b"")
        self.say(conch.MSG_CHANNEL_REQUEST, channel, rest)

    def eof(self, channel: Any) -> None:
        """Write no more."""
        self.say(conch.MSG_CHANNEL_EOF, channel)

    def close(self, channel: Any) -> None:
        """Close the channel."""
        self.say(conch.MSG_CHANNEL_CLOSE, channel)

    def lose(self, reason: str) -> None:
        """The socket ends."""
        self.transport.reason = self.transport.reason or reason
        self.connection.serviceStopped()

    def received(self) -> bytes:
        """All that came on channels."""
        data = self.transport.taken(conch.MSG_CHANNEL_DATA)
        return b"".join(getNS(p[4:])[0] for p in data)
