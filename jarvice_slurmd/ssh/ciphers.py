"""Sealing and opening SSH's binary packets (RFC 4253 §6), one object a direction; no I/O.

Conch knows AES-CTR with a MAC beside the ciphertext. AES-GCM (RFC 5647, as OpenSSH names and
negotiates it) encrypts and authenticates in one pass, which makes it several times as fast, and is
what servers offer that no longer offer the plain MACs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Key sizes in bytes.
GCM_CIPHERS = {b"aes128-gcm@openssh.com": 16, b"aes256-gcm@openssh.com": 32}
CTR_CIPHERS = {b"aes128-ctr": 16, b"aes192-ctr": 24, b"aes256-ctr": 32}
MACS: dict[bytes, Callable[[], object]] = {
    b"hmac-sha2-256": hashlib.sha256,
    b"hmac-sha2-512": hashlib.sha512,
}

# What OpenSSH accepts at most (PACKET_MAX_SIZE); a length beyond it is a wrong key or an attack.
MAX_PACKET = 256 * 1024
_BLOCK = 16
_TAG = 16
_LENGTH = struct.Struct(">L")
_COUNTER = struct.Struct(">Q")


class PacketError(Exception):
    """A packet that no peer with the right keys can have sent."""


class Sealer(Protocol):
    """One direction out."""

    def seal(self, sequence: int, size: int, parts: list[bytes]) -> list[bytes]:
        """The wire's bytes of a packet whose payload is `parts`, together `size` bytes."""


class Opener(Protocol):
    """One direction in."""

    def measure(self, buffer: bytes, at: int) -> int | None:
        """The bytes on the wire of the packet at `at`; None when there are too few to know."""

    def open(self, sequence: int, buffer: bytes, at: int, size: int) -> bytes:
        """The packet from its padding length on, authenticated; raises `PacketError`."""


def _padding(size: int, block: int, apart: int) -> int:
    """How much padding makes the packet whole blocks, `apart` bytes of its length not counted."""
    padding = block - (size + 5 - apart) % block
    return padding if padding >= 4 else padding + block


class NullSealer:
    """Before the first key exchange: neither encrypted nor authenticated."""

    def seal(self, sequence: int, size: int, parts: list[bytes]) -> list[bytes]:
        """See `Sealer`."""
        padding = _padding(size, 8, 0)
        return [struct.pack(">LB", size + 1 + padding, padding), *parts, bytes(padding)]


class NullOpener:
    """Before the first key exchange."""

    def measure(self, buffer: bytes, at: int) -> int | None:
        """See `Opener`."""
        return _measure(buffer, at, 0)

    def open(self, sequence: int, buffer: bytes, at: int, size: int) -> bytes:
        """See `Opener`."""
        return buffer[at + 4 : at + size]


def _measure(buffer: bytes, at: int, tag: int) -> int | None:
    """As `Opener.measure`, where the length is not encrypted."""
    if len(buffer) - at < 4:
        return None
    (length,) = _LENGTH.unpack_from(buffer, at)
    return 4 + _checked(length) + tag


def _checked(length: int) -> int:
    if not 5 <= length <= MAX_PACKET:
        raise PacketError(f"bad packet length {length}")
    return length


class GcmSealer:
    """AES-GCM: the length is authenticated but not encrypted (RFC 5647 §7.3)."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = iv[:4]
        (self._counter,) = _COUNTER.unpack_from(iv, 4)

    def seal(self, sequence: int, size: int, parts: list[bytes]) -> list[bytes]:
        """See `Sealer`."""
        padding = _padding(size, _BLOCK, 4)
        length = _LENGTH.pack(size + 1 + padding)
        plain = b"".join((bytes((padding,)), *parts, os.urandom(padding)))
        nonce = self._fixed + _COUNTER.pack(self._counter)
        self._counter = (self._counter + 1) & 0xFFFFFFFFFFFFFFFF
        return [length, self._aead.encrypt(nonce, plain, length)]


class GcmOpener:
    """AES-GCM in."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = iv[:4]
        (self._counter,) = _COUNTER.unpack_from(iv, 4)

    def measure(self, buffer: bytes, at: int) -> int | None:
        """See `Opener`."""
        return _measure(buffer, at, _TAG)

    def open(self, sequence: int, buffer: bytes, at: int, size: int) -> bytes:
        """See `Opener`."""
        nonce = self._fixed + _COUNTER.pack(self._counter)
        self._counter = (self._counter + 1) & 0xFFFFFFFFFFFFFFFF
        view = memoryview(buffer)
        try:
            return self._aead.decrypt(nonce, view[at + 4 : at + size], view[at : at + 4])
        except InvalidTag:
            raise PacketError("bad packet: it fails authentication") from None


class CtrSealer:
    """AES-CTR over the whole packet, and an HMAC of the plaintext beside it (RFC 4253 §6.4)."""

    def __init__(self, key: bytes, iv: bytes, mac: bytes, mac_key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(iv[:_BLOCK])).encryptor()
        self._mac = _keyed(mac, mac_key)

    def seal(self, sequence: int, size: int, parts: list[bytes]) -> list[bytes]:
        """See `Sealer`."""
        padding = _padding(size, _BLOCK, 0)
        plain = b"".join(
            (struct.pack(">LB", size + 1 + padding, padding), *parts, os.urandom(padding))
        )
        return [self._encryptor.update(plain), _digest(self._mac, sequence, plain)]


class CtrOpener:
    """AES-CTR in; the length can only be read by decrypting the first block."""

    def __init__(self, key: bytes, iv: bytes, mac: bytes, mac_key: bytes) -> None:
        self._decryptor = Cipher(algorithms.AES(key), modes.CTR(iv[:_BLOCK])).decryptor()
        self._mac = _keyed(mac, mac_key)
        self._first = b""

    def measure(self, buffer: bytes, at: int) -> int | None:
        """See `Opener`."""
        if not self._first:
            if len(buffer) - at < _BLOCK:
                return None
            self._first = self._decryptor.update(buffer[at : at + _BLOCK])
        length = _checked(_LENGTH.unpack_from(self._first)[0])
        if (length + 4) % _BLOCK:
            raise PacketError(f"bad packet length {length}")
        return 4 + length + self._mac.digest_size

    def open(self, sequence: int, buffer: bytes, at: int, size: int) -> bytes:
        """See `Opener`."""
        end = at + size - self._mac.digest_size
        plain = self._first + self._decryptor.update(memoryview(buffer)[at + _BLOCK : end])
        self._first = b""
        expected = _digest(self._mac, sequence, plain)
        if not hmac.compare_digest(expected, memoryview(buffer)[end : at + size]):
            raise PacketError("bad packet: it fails authentication")
        return plain[4:]


def _keyed(mac: bytes, key: bytes) -> hmac.HMAC:
    digest = MACS[mac]
    size = {b"hmac-sha2-256": 32, b"hmac-sha2-512": 64}[mac]
    return hmac.new(key[:size], digestmod=digest)  # type: ignore[arg-type]


def _digest(keyed: hmac.HMAC, sequence: int, plain: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(_LENGTH.pack(sequence & 0xFFFFFFFF))
    mac.update(plain)
    return mac.digest()


def make_sealer(cipher: bytes, mac: bytes, key: bytes, iv: bytes, mac_key: bytes) -> Sealer:
    """The outgoing direction for negotiated names and derived keys (RFC 4253 §7.2)."""
    if cipher in GCM_CIPHERS:
        return GcmSealer(key[: GCM_CIPHERS[cipher]], iv[:12])
    return CtrSealer(key[: CTR_CIPHERS[cipher]], iv, mac, mac_key)


def make_opener(cipher: bytes, mac: bytes, key: bytes, iv: bytes, mac_key: bytes) -> Opener:
    """The incoming direction for negotiated names and derived keys."""
    if cipher in GCM_CIPHERS:
        return GcmOpener(key[: GCM_CIPHERS[cipher]], iv[:12])
    return CtrOpener(key[: CTR_CIPHERS[cipher]], iv, mac, mac_key)
