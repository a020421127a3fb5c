# mypy: allow-untyped-calls
"""Packets sealed and opened: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from twisted.conch.ssh.transport import SSHCiphers
from twisted.trial.unittest import SynchronousTestCase

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

_KEY, _IV, _MAC_KEY = os.urandom(64), os.urandom(64), os.urandom(64)
_NAMES = [(c, b"implicit") for c in GCM_CIPHERS] + [(c, m) for c in CTR_CIPHERS for m in MACS]


def _pair(cipher: bytes, mac: bytes) -> tuple[Sealer, Opener]:
    if cipher == b"none":
        return NullSealer(), NullOpener()
    return (
        make_sealer(cipher, mac, _KEY, _IV, _MAC_KEY),
        make_opener(cipher, mac, _KEY, _IV, _MAC_KEY),
    )


def _open_all(opener: Opener, wire: bytes, pieces: list[int], sequence: int) -> list[bytes]:
    """The payloads of a stream that comes in pieces."""
    payloads: list[bytes] = []
    buffer = b""
    edges = sorted({0, len(wire), *(p for p in pieces if p < len(wire))})
    for begin, end in zip(edges, [*edges[1:], len(wire)], strict=True):
        buffer += wire[begin:end]
        while True:
            size = opener.measure(buffer, 0)
            if size is None or len(buffer) < size:
                break
            packet = opener.open(sequence + len(payloads), buffer, 0, size)
            buffer = buffer[size:]
            payloads.append(packet[1 : len(packet) - packet[0]])
    assert not buffer
    return payloads


class CipherTests(SynchronousTestCase):
    """`make_sealer` and `make_opener`."""

    @given(
        names=st.sampled_from([*_NAMES, (b"none", b"none")]),
        payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=5),
        pieces=st.lists(st.integers(0, 2000), max_size=10),
        sequence=st.sampled_from([0, 7, 0xFFFFFFFE]),
    )
    def test_round_trip(
        self,
        names: tuple[bytes, bytes],
        payloads: list[bytes],
        pieces: list[int],
        sequence: int,
    ) -> None:
        """Payloads of any size, in any pieces, beyond the sequence number's wrap."""
        sealer, opener = _pair(*names)
        wire = b"".join(
            b"".join(sealer.seal(sequence + n, len(p), [p[:3], p[3:]]))
            for n, p in enumerate(payloads)
        )
        self.assertEqual(_open_all(opener, wire, pieces, sequence), payloads)

    @given(
        names=st.sampled_from(_NAMES),
        at=st.integers(0, 10_000),
        flip=st.integers(1, 255),
    )
    def test_any_change_is_refused(self, names: tuple[bytes, bytes], at: int, flip: int) -> None:
        """Whichever byte is changed on the way, no packet comes out."""
        sealer, opener = _pair(*names)
        wire = bytearray(b"".join(sealer.seal(3, 50, [b"x" * 50])))
        wire[at % len(wire)] ^= flip
        # Zeros behind it: a length made longer must not be waited for without end.
        buffer = bytes(wire) + bytes(300_000)
        with self.assertRaises(PacketError):
            size = opener.measure(buffer, 0)
            assert size is not None
            opener.open(3, buffer, 0, size)

    def test_order_counts(self) -> None:
        """A packet that comes twice, or before its time, is refused."""
        for names in _NAMES:
            sealer, opener = _pair(*names)
            first = b"".join(sealer.seal(0, 5, [b"first"]))
            opener.open(0, first, 0, opener.measure(first, 0) or 0)
            with self.assertRaises(PacketError):
                opener.open(1, first, 0, opener.measure(first, 0) or 0)

    def test_as_conch(self) -> None:
        """The CTR ciphers are those of Conch, MAC included."""
        for cipher in CTR_CIPHERS:
            for mac in MACS:
                sealer, opener = _pair(cipher, mac)
                conch = SSHCiphers(cipher, cipher, mac, mac)
                conch.setKeys(_IV, _KEY, _IV, _KEY, _MAC_KEY, _MAC_KEY)
                wire = b"".join(sealer.seal(5, 5, [b"hello"]))
                plain = conch.decrypt(wire[:16])
                self.assertEqual(plain[5:10], b"hello")
                self.assertTrue(conch.verify(5, plain, wire[16:]))
                sealed = conch.encrypt(plain) + conch.makeMAC(6, plain)
                size = opener.measure(sealed, 0)
                self.assertEqual(size, len(sealed))
                self.assertEqual(opener.open(6, sealed, 0, len(sealed)), plain[4:])

    def test_gcm_vector(self) -> None:
        """AES-GCM as RFC 5647 has it: fixed part and counter, the length authenticated beside."""
        sealer, _ = _pair(b"aes128-gcm@openssh.com", b"implicit")
        for count in range(3):
            length, sealed = sealer.seal(99, 20, [b"p" * 20])
            number = (int.from_bytes(_IV[4:12], "big") + count) % 2**64
            nonce = _IV[:4] + number.to_bytes(8, "big")
            plain = AESGCM(_KEY[:16]).decrypt(nonce, sealed, length)
            self.assertEqual(plain[1:21], b"p" * 20)
            self.assertEqual(len(plain) % 16, 0)
            self.assertEqual(int.from_bytes(length, "big"), len(plain))

    def test_bad_lengths(self) -> None:
        """A length that no packet can have is refused before anything is kept for it."""
        for length in (0, 4, 256 * 1024 + 1, 0xFFFFFFFF):
            for names in ((b"none", b"none"), (b"aes256-gcm@openssh.com", b"implicit")):
                with self.assertRaises(PacketError):
                    _pair(*names)[1].measure(length.to_bytes(4, "big") + bytes(100), 0)
