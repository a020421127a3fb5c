# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""An SSH connection that many byte streams share fairly, and never holds more than it must.

Conch credits a channel's window before anybody has read the data, and buffers without bound what
can't be sent. Here a channel's own reader pays back the window, and nothing is sent while the
socket is full: then the channels keep their few bytes, and take turns, a packet each.
"""

from __future__ import annotations

import math
import socket
import struct
from collections import deque
from typing import Protocol

from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.connection import MSG_CHANNEL_DATA
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime, ITCPTransport
from zope.interface import implementer

from jarvice_slurmd.ssh.connection import LinkConnection

_HEADER = struct.Struct(">LL")
# What the kernel may hold unsent, in bytes: more only makes keystrokes wait behind bulk data.
_UNSENT = 256 * 1024


class Sender(Protocol):
    """A channel with something to send."""

    def send_some(self) -> bool:
        """Send one packet; whether there is more that may be sent."""


@implementer(IPushProducer)
class FlowConnection(LinkConnection):
    """A `LinkConnection` for channels of type `FlowChannel`; others work as ever."""

    def __init__(self, clock: IReactorTime, interval: float, max_missed: int) -> None:
        super().__init__(clock, interval, max_missed)
        self.clock = clock
        self._is_congested = False
        self._is_serving = False
        self._senders: deque[Sender] = deque()
        self._queued: set[Sender] = set()
        self._is_measuring = False
        self._shortest = math.inf
        self._queueing = 0.0

    def serviceStarted(self) -> None:
        """Listen to the socket's own back-pressure from the start."""
        tcp = self.transport.transport
        if tcp is not None:
            # ITransport does not have it, every stream transport of Twisted does.
            tcp.registerProducer(self, True)  # type: ignore[attr-defined]
        if ITCPTransport.providedBy(tcp):
            option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
            if option is not None:
                tcp.getHandle().setsockopt(socket.IPPROTO_TCP, option, _UNSENT)  # type: ignore[attr-defined]
        super().serviceStarted()

    def serviceStopped(self) -> None:
        """Nothing more can be sent."""
        self._senders.clear()
        self._queued.clear()
        super().serviceStopped()

    # IPushProducer, for the socket

    def pauseProducing(self) -> None:
        """The socket is full."""
        self._is_congested = True

    def resumeProducing(self) -> None:
        """The socket takes more."""
        self._is_congested = False
        self._serve()

    def stopProducing(self) -> None:
        """The socket is gone; the connection is told elsewhere."""
        self._is_congested = True

    # The way

    def queueing(self) -> float:
        """How much longer a round trip took when last measured than the shortest; in such.

        Begins the next measurement. What a round trip meets on its way, queues of the network's and
        of the login node's socket, is what a keystroke meets.
        """
        if not self._is_measuring:
            self.measure()
        return self._queueing

    def measure(self) -> Deferred[float]:
        """Fires with the seconds that a round trip takes, or when the connection has ended."""
        self._is_measuring = True
        return self.probe().addCallback(self._measured, self.clock.seconds())

    def _measured(self, _: None, began: float) -> float:
        self._is_measuring = False
        took = self.clock.seconds() - began
        if took > 0.0:
            self._shortest = min(self._shortest, took)
            self._queueing = took / self._shortest - 1.0
        return took

    # Turns

    def want_to_send(self, sender: Sender) -> None:
        """Give a channel its turn as soon as there is room, if it has none yet."""
        if sender not in self._queued:
            self._queued.add(sender)
            self._senders.append(sender)
            self._serve()

    def keys_changed(self) -> None:
        """A key exchange is over: channels may send again."""
        self._serve()

    def send_data(self, channel: SSHChannel, data: bytes) -> None:
        """Send a packet of a channel's data."""
        remote = self.localToRemoteChannel[channel.id]
        self.transport.send_data(_HEADER.pack(remote, len(data)), data)

    def _serve(self) -> None:
        """A packet for each in turn, until there is nothing to send or no room for it."""
        if self._is_serving:
            return
        self._is_serving = True
        try:
            while self._senders and not self._is_congested and not self.transport.is_rekeying:
                sender = self._senders.popleft()
                self._queued.discard(sender)
                if self._guarded_send(sender) and sender not in self._queued:
                    self._queued.add(sender)
                    self._senders.append(sender)
        finally:
            self._is_serving = False

    def _guarded_send(self, sender: Sender) -> bool:
        channel = sender if isinstance(sender, SSHChannel) else None
        return bool(self._guarded(channel, sender.send_some))

    # Data coming in, by the transport's short way

    def data_received(self, packet: bytes, end: int) -> None:
        """Take a CHANNEL_DATA packet; channel, length and data stand at 2, 6 and 10 to `end`."""
        channel = self.channels.get(int.from_bytes(packet[2:6], "big"))
        take = getattr(channel, "take", None)
        if channel is None or take is None:
            self.packetReceived(MSG_CHANNEL_DATA, packet[2:end])
            return
        self._heard = True
        length = int.from_bytes(packet[6:10], "big")
        if length != end - 10 or length > channel.localWindowLeft:
            self._log.error("The login node sent more on an SSH channel than it may")
            self._guarded(None, channel.abortConnection)
            return
        self._guarded(channel, take, packet[10:end])

    def ssh_CHANNEL_EXTENDED_DATA(self, packet: bytes) -> None:
        """Take stderr; Conch's own would pay back the window of what has not been read yet."""
        channel = self.channels[int.from_bytes(packet[:4], "big")]
        take = getattr(channel, "take_extended", None)
        if take is None:
            super().ssh_CHANNEL_EXTENDED_DATA(packet)
            return
        data = getNS(packet[8:])[0]
        if len(data) > channel.localWindowLeft:
            channel.abortConnection()
        else:
            take(data)
