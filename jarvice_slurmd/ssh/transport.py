# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""Conch's client transport with a packet path of its own: AES-GCM, and no needless copies.

Conch re-slices its receive buffer for every packet and keeps one cipher object for both
directions; measured against `ssh -L` that is less than half its speed. Here the receive buffer is
walked by an offset, channel data takes a short way, and each direction changes its keys exactly
where RFC 4253 §7.3 says. It uses private names of Twisted: pin its version, and keep the tests
of integrity under rekeying.
"""

from __future__ import annotations

from typing import Any

from twisted.conch.ssh.transport import (
    DISCONNECT_MAC_ERROR,
    DISCONNECT_PROTOCOL_ERROR,
    MSG_NEWKEYS,
    SSHCiphers,
    SSHClientTransport,
)

from jarvice_slurmd.ssh.ciphers import (
    CTR_CIPHERS,
    GCM_CIPHERS,
    MACS,
    NullOpener,
    NullSealer,
    Opener,
    PacketError,
    Sealer,
    make_opener,
    make_sealer,
)

_MSG_CHANNEL_DATA = 94


class PacketCiphers(SSHCiphers):
    """The negotiated names; the keyed objects of both directions once `setKeys` was called."""

    sealer: Sealer
    opener: Opener

    def __init__(self, negotiated: SSHCiphers) -> None:
        out_mac, in_mac = negotiated.outMACType, negotiated.inMACType
        # A cipher that authenticates has no MAC beside it, so none need have been agreed.
        super().__init__(
            negotiated.outCipType,
            negotiated.inCipType,
            b"implicit" if negotiated.outCipType in GCM_CIPHERS else out_mac,
            b"implicit" if negotiated.inCipType in GCM_CIPHERS else in_mac,
        )

    def setKeys(
        self,
        outIV: bytes,
        outKey: bytes,
        inIV: bytes,
        inKey: bytes,
        outInteg: bytes,
        inInteg: bytes,
    ) -> None:
        """Take the keys of a key exchange."""
        self.sealer = make_sealer(self.outCipType, self.outMACType, outKey, outIV, outInteg)
        self.opener = make_opener(self.inCipType, self.inMACType, inKey, inIV, inInteg)
        # By a block size Conch knows that there are keys.
        self.encBlockSize = self.decBlockSize = 16


class PacketTransport(SSHClientTransport):
    """An `SSHClientTransport` whose packets are sealed and opened by `ciphers`."""

    supportedCiphers = [*GCM_CIPHERS, *CTR_CIPHERS]  # noqa: RUF012  # as Conch has it
    supportedMACs = [*MACS]  # noqa: RUF012

    def __init__(self) -> None:
        self._sealer: Sealer = NullSealer()
        self._opener: Opener = NullOpener()
        self._next_ciphers: PacketCiphers | SSHCiphers | None = None
        self._is_ending = False

    @property
    def nextEncryptions(self) -> Any:
        """What the key exchange under way agreed on; Conch sets it in `ssh_KEXINIT`."""
        return self._next_ciphers

    @nextEncryptions.setter
    def nextEncryptions(self, negotiated: SSHCiphers) -> None:
        self._next_ciphers = PacketCiphers(negotiated)

    @property
    def is_rekeying(self) -> bool:
        """Whether a key exchange is under way, during which no data may be sent."""
        return bool(self._keyExchangeState != self._KEY_EXCHANGE_NONE)

    # Out

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Seal and write a message, or keep it until the key exchange under way is done."""
        if self.is_rekeying and not self._allowedKeyExchangeMessageType(messageType):
            self._blockedByKeyExchange.append((messageType, payload))
            return
        self._seal(len(payload) + 1, [bytes((messageType,)), payload])
        if messageType == MSG_NEWKEYS:
            # Whatever goes out from here on has the new keys, whether or not the peer's have come.
            self._sealer = self.nextEncryptions.sealer

    def send_data(self, header: bytes, data: bytes) -> None:
        """As `sendPacket` for channel data: `header` is the channel's number and the length."""
        if self.is_rekeying:
            self._blockedByKeyExchange.append((_MSG_CHANNEL_DATA, header + data))
            return
        self._seal(len(header) + len(data) + 1, [b"\x5e", header, data])

    def _seal(self, size: int, parts: list[bytes]) -> None:
        sealed = self._sealer.seal(self.outgoingPacketSequence, size, parts)
        self.outgoingPacketSequence = (self.outgoingPacketSequence + 1) & 0xFFFFFFFF
        assert self.transport is not None
        self.transport.writeSequence(sealed)

    # In

    def dataReceived(self, data: bytes) -> None:
        """Handle every whole packet; what is left of the last one waits for more."""
        if self._is_ending:
            return
        if not self.gotVersion:
            # Conch reads the greeting, and then asks `getPacket` for what follows it.
            super().dataReceived(data)
            return
        buffer = self.buf + data if self.buf else data
        # A handler that lets a packet in (there is none in Conch) would find nothing twice.
        self.buf = b""
        at = 0
        try:
            while not self._is_ending:
                size = self._opener.measure(buffer, at)
                if size is None or len(buffer) - at < size:
                    break
                packet = self._opener.open(self.incomingPacketSequence, buffer, at, size)
                self.incomingPacketSequence = (self.incomingPacketSequence + 1) & 0xFFFFFFFF
                at += size
                self._dispatch(packet)
        except PacketError as e:
            self._refuse_packet(e)
        if not self._is_ending:
            self.buf = buffer[at:] if at else buffer

    def getPacket(self) -> bytes | None:
        """The next message, for what Conch reads itself behind the greeting."""
        try:
            size = self._opener.measure(self.buf, 0)
            if self._is_ending or size is None or len(self.buf) < size:
                return None
            packet = self._opener.open(self.incomingPacketSequence, self.buf, 0, size)
        except PacketError as e:
            self._refuse_packet(e)
            return None
        self.incomingPacketSequence = (self.incomingPacketSequence + 1) & 0xFFFFFFFF
        self.buf = self.buf[size:]
        return packet[1 : len(packet) - self._padding(packet)]

    def _dispatch(self, packet: bytes) -> None:
        padding = self._padding(packet)
        if packet[1] == _MSG_CHANNEL_DATA and self.service is not None:
            take = getattr(self.service, "data_received", None)
            if take is not None:
                take(packet, len(packet) - padding)
                return
        self.dispatchMessage(packet[1], packet[2 : len(packet) - padding])

    def _padding(self, packet: bytes) -> int:
        if packet[0] + 2 > len(packet):
            raise PacketError("bad packet: more padding than packet")
        return packet[0]

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Disconnect; what still comes in is not read, it may have keys that we never agreed to."""
        self._is_ending = True
        self.buf = b""
        super().sendDisconnect(reason, desc)
        if self.transport is not None:
            # Twisted would wait for a producer that it has paused before it closes the socket.
            self.transport.unregisterProducer()  # type: ignore[attr-defined]

    def _refuse_packet(self, error: PacketError) -> None:
        reason = (
            DISCONNECT_MAC_ERROR if "authentication" in str(error) else DISCONNECT_PROTOCOL_ERROR
        )
        self.sendDisconnect(reason, str(error).encode())

    def _newKeys(self) -> None:
        """The peer's NEWKEYS has come: what it sends from here on has its new keys."""
        self._opener = self.nextEncryptions.opener
        super()._newKeys()
        changed = getattr(self.service, "keys_changed", None)
        if changed is not None:
            changed()
