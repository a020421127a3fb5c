# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""A byte stream over an SSH channel, as a Twisted transport: how it is read, and how it ends."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from jarvice_slurmd.ssh.buffers import ReceiveWindow
from jarvice_slurmd.ssh.flow import FlowConnection
from jarvice_slurmd.ssh.sending import SendingChannel

FIRST_WINDOW = 256 * 1024
#: The largest window of a stream on one machine or rack, in bytes: such a one makes no long queue.
NEAR_WINDOW = 2 * 1024 * 1024


@implementer(IPushProducer)
class StreamChannel(SendingChannel):
    """A channel that is read at its protocol's pace, with a window of at most `largest_window`.

    `ended` fires when the channel is gone, whatever became of it. Closes, half-closes and pauses
    mean what they mean to Twisted's TCP transport. Subclasses open it, and set its `_protocol`.
    """

    def __init__(self, connection: FlowConnection, largest_window: int) -> None:
        super().__init__(FIRST_WINDOW)
        # Conch sets it when the server has answered; it may be asked for earlier.
        self.conn = connection
        self.ended: Deferred[None] = Deferred()
        self._protocol: IProtocol | None = None
        is_far = largest_window > NEAR_WINDOW
        self._window = ReceiveWindow(
            FIRST_WINDOW, largest_window, connection.queueing if is_far else None
        )
        self._pending: deque[bytes] = deque()
        self._waiting = 0
        self._is_paused = False
        self._is_delivering = False
        self._eof_came = False
        self._eof_is_told = False
        self._is_gone = False

    # In: from the connection

    def take(self, data: bytes) -> None:
        """Some data has come."""
        self.localWindowLeft -= len(data)
        self.arrived(data)

    def take_extended(self, data: bytes) -> None:
        """Data beside the stream, such as stderr: read at once, whatever the reader does."""
        self.localWindowLeft -= len(data)
        self.grant(len(data))

    def arrived(self, data: bytes) -> None:
        """Some of the stream, for now or for when the reader goes on."""
        if self._protocol is None or self.disconnecting:
            # Nobody reads it; but what the far end can't get rid of it may not read beside.
            self.grant(len(data))
        elif self._is_paused or self._pending or self._is_delivering:
            self._pending.append(data)
            self._waiting += len(data)
        else:
            self._is_delivering = True
            try:
                self.grant(len(data))
                self._protocol.dataReceived(data)
            finally:
                self._is_delivering = False
            if self._pending or self._eof_came or self._end is not None:
                self._deliver()

    def eofReceived(self) -> None:
        """The far end writes no more."""
        self._eof_came = True
        self._deliver()

    def closeReceived(self) -> None:
        """The far end is gone; what it sent before may still wait for the reader."""
        self.conn.sendClose(self)

    def closed(self) -> None:
        """The channel is gone: closed by both sides, or the connection has ended."""
        if self._end is None:
            self._end = Failure(self._why_ended())
        self._outbox.clear()
        if self.conn.is_lost or self.disconnecting:
            self._drop()
        self._is_gone = True
        self.ended.callback(None)
        self._deliver()

    def _why_ended(self) -> Exception:
        if self.conn.is_lost:
            return ConnectionLost(f"the SSH link was lost: {self.conn.lost_reason}")
        if self._eof_came:
            return ConnectionDone()
        return ConnectionLost("the far end broke the connection")

    def _deliver(self) -> None:
        """Give the reader what waits for it, in order, as long as it is not paused."""
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._pending and not self._is_paused and self._protocol is not None:
                data = self._pending.popleft()
                self._waiting -= len(data)
                self.grant(len(data))
                self._protocol.dataReceived(data)
        finally:
            self._is_delivering = False
        if self._pending and not self.disconnecting:
            return
        if self._eof_came and not self._eof_is_told and not self._is_paused:
            self._tell_eof()
        if self._is_gone:
            self._tell_lost()

    def _drop(self) -> None:
        self._pending.clear()
        self._waiting = 0

    def grant(self, taken: int) -> None:
        """So much was read: allow the far end as much more, now or with more to come."""
        granted = self._window.credit(taken, self._waiting)
        if granted and self._end is None:
            self.conn.adjustWindow(self, granted)

    def _tell_eof(self) -> None:
        self._eof_is_told = True
        if self._protocol is None or self._end is not None:
            return
        if IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.readConnectionLost()
            self._close_if_both_ended()
        else:
            self.loseConnection()

    def _tell_lost(self) -> None:
        """Tell the protocol, once, that it is over."""
        self._drop()
        self.stop_sending()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            assert self._end is not None
            protocol.connectionLost(self._end)

    # In: IPushProducer, for the reader

    def pauseProducing(self) -> None:
        """Deliver no more: the far end gets no further credit."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._is_paused = False
        self._deliver()

    def stopProducing(self) -> None:
        """No more at all."""
        self.loseConnection()

    # Ends

    def write_side_ended(self) -> None:
        """Our end of data has been sent: the protocol may want to know."""
        if IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.writeConnectionLost()
        self._close_if_both_ended()

    def _close_if_both_ended(self) -> None:
        if self._eof_is_sent and self._eof_is_told and not self.localClosed:
            self.close_now(ConnectionDone())

    def close_now(self, reason: Exception) -> None:
        """Close the channel; the protocol is told soon, whenever the far end answers.

        As TCP's does: in the reactor's next turn, never within the caller's own call.
        """
        self._end = Failure(reason)
        self._outbox.clear()
        self.conn.sendClose(self)
        self.conn.clock.callLater(0, self._tell_lost)

    def loseConnection(self) -> None:
        """Close after what was written is sent; nothing more is read."""
        self.disconnecting = True
        # What is dropped is paid for: a far end that can't send may not read either.
        self.grant(self._waiting)
        self._drop()
        if self._is_gone:
            self.conn.clock.callLater(0, self._tell_lost)
        elif self._end is None and not self._outbox.size:
            self._sent_everything()

    def abortConnection(self) -> None:
        """Close at once; what was written may be lost."""
        if self._end is None:
            self.disconnecting = True
            self._drop()
            self.close_now(ConnectionAborted())
