# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""The sending side of a byte stream over an SSH channel: bounded, in turn, with back-pressure."""

from __future__ import annotations

from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from jarvice_slurmd.ssh.buffers import Outbox
from jarvice_slurmd.ssh.connection import PACKET, WarningsLogger
from jarvice_slurmd.ssh.flow import FlowConnection

# A producer is paused above the one and resumed below the other, in bytes.
_HIGH = 128 * 1024
_LOW = 32 * 1024


@implementer(ITransport, IConsumer)
class SendingChannel(SSHChannel):
    """A channel that is a consumer: its producer pauses while the far end, or the link, is full."""

    conn: FlowConnection
    disconnecting = False
    _log = WarningsLogger()

    def __init__(self, window: int) -> None:
        super().__init__(localWindow=window, localMaxPacket=PACKET)
        self._outbox = Outbox()
        self._producer: Any = None
        self._is_streaming = True
        self._producer_is_paused = False
        self._is_write_closing = False
        self._eof_is_sent = False
        self._end: Failure | None = None

    def write_side_ended(self) -> None:
        """Our end of data has been sent."""

    def close_now(self, reason: Exception) -> None:
        """Close the channel, everything being sent or given up."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send, in turn with the other streams; whoever writes much registers as a producer."""
        if self._end is not None or self._is_write_closing or self.localClosed:
            return
        self._outbox.append(data)
        if (
            self._outbox.size > _HIGH
            and self._producer is not None
            and not self._producer_is_paused
            and self._is_streaming
        ):
            self._producer_is_paused = True
            self._producer.pauseProducing()
        if self._outbox.size and self.remoteWindowLeft > 0:
            self.conn.want_to_send(self)

    def writeSequence(self, data: Any) -> None:
        """Send several."""
        self.write(b"".join(data))

    def addWindowBytes(self, data: int) -> None:
        """The far end takes more."""
        self.remoteWindowLeft += data
        if self._outbox.size:
            self.conn.want_to_send(self)

    def send_some(self) -> bool:
        """A turn: send one packet; whether there is more that may be sent."""
        most = min(self.remoteWindowLeft, self.remoteMaxPacket, PACKET)
        if not self._outbox.size or most <= 0 or self.localClosed:
            return False
        data = self._outbox.take(most)
        self.remoteWindowLeft -= len(data)
        self.conn.send_data(self, data)
        if self._outbox.size <= (_LOW if self._is_streaming else 0):
            self._wake_producer()
        if not self._outbox.size:
            self._sent_everything()
        return self._outbox.size > 0 and self.remoteWindowLeft > 0

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause the producer while the far end, or the link, does not take what it writes."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if self._end is not None:
            producer.stopProducing()
            return
        self._producer, self._is_streaming = producer, streaming
        self._producer_is_paused = not streaming
        if not streaming:
            self._wake_producer()

    def unregisterProducer(self) -> None:
        """The producer is done."""
        self._producer = None
        if not self._outbox.size:
            self._sent_everything()

    def _wake_producer(self) -> None:
        if self._producer is not None and self._producer_is_paused:
            self._producer_is_paused = not self._is_streaming
            self._producer.resumeProducing()

    def _sent_everything(self) -> None:
        # As Twisted's TCP: a pull producer is waited for, a push producer should know better.
        if self.localClosed or (self._producer is not None and not self._is_streaming):
            return
        if self.disconnecting:
            self.close_now(ConnectionDone())
        elif self._is_write_closing and not self._eof_is_sent:
            self._eof_is_sent = True
            self.conn.sendEOF(self)
            self.write_side_ended()

    def loseWriteConnection(self) -> None:
        """Half-close: the far end sees the end of our data after all that was written."""
        self._is_write_closing = True
        if not self._outbox.size:
            self._sent_everything()

    def stop_sending(self) -> None:
        """Forget what was not sent, and whoever produces more."""
        self._outbox.clear()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.stopProducing()
