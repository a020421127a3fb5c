"""Whether a login node is the one it should be: known_hosts text, and a policy made from it.

The format is sshd(8)'s, "SSH_KNOWN_HOSTS FILE FORMAT". Parsing is pure. The policy remembers what
it trusted for the life of the process, so every connection of a link must share one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from fnmatch import fnmatchcase

from attrs import define, field, frozen
from twisted.logger import Logger

from jarvice_slurmd.errors import NotConnectedError

# Strongest first; what a server may be asked for while nothing is pinned. No SHA-1, no DSA.
HOST_KEY_ALGORITHMS = (
    b"ssh-ed25519",
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)


class HostKeyError(NotConnectedError):
    """The login node showed a key other than the one it should have.

    `expected` holds the fingerprints that would have been right (none when known_hosts has no key
    for the host), `found` the one shown, or None when the server has no key of a pinned kind.
    """

    def __init__(self, message: str, *, expected: tuple[str, ...], found: str | None) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


def fingerprint(blob: bytes) -> str:
    """The SHA256 fingerprint of a public key, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def key_type(blob: bytes) -> bytes:
    """The key's type, the first string of its wire format (RFC 4253 §6.6)."""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")]


@frozen(kw_only=True)
class KnownHost:
    """One readable line of a known_hosts file: host patterns and a public key."""

    hosts: str
    blob: bytes = field(repr=False)
    revoked: bool = False

    def matches(self, name: str) -> bool:
        """Whether the line speaks of `name`: a host, or `[host]:port` for a port other than 22."""
        if self.hosts.startswith("|1|"):
            return _matches_hashed(self.hosts, name)
        found = False
        for pattern in self.hosts.lower().split(","):
            # fnmatch gives brackets a meaning that they do not have here ("[host]:2222").
            if fnmatchcase(name, pattern.removeprefix("!").replace("[", "[[]")):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def _matches_hashed(hashed: str, name: str) -> bool:
    _, _, salt, digest = hashed.split("|")
    # HMAC-SHA1 is what HashKnownHosts writes; it hides names and protects nothing.
    ours = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
    return hmac.compare_digest(ours, base64.b64decode(digest))


@frozen(kw_only=True)
class KnownHosts:
    """A known_hosts file: its readable lines, and the numbers of the others, counted from 1."""

    entries: tuple[KnownHost, ...]
    unreadable: tuple[int, ...] = ()

    def pinned(self, host: str, port: int) -> tuple[bytes, ...]:
        """The keys that the host may show, in the file's order, without the revoked ones."""
        revoked = self.revoked(host, port)
        for name in _names(host, port):
            keys = [e.blob for e in self.entries if not e.revoked and e.matches(name)]
            if keys:
                return tuple(k for k in dict.fromkeys(keys) if k not in revoked)
        return ()

    def revoked(self, host: str, port: int) -> frozenset[bytes]:
        """The keys marked @revoked for the host: refused whatever else the file says."""
        names = _names(host, port)
        return frozenset(
            e.blob for e in self.entries if e.revoked and any(e.matches(n) for n in names)
        )


def _names(host: str, port: int) -> tuple[str, ...]:
    """How known_hosts may name the host, the most specific first, as ssh(1) looks it up."""
    host = host.lower()
    return (f"[{host}]:{port}", host)


def parse_known_hosts(text: str) -> KnownHosts:
    """Read known_hosts text; @cert-authority lines are ignored, unreadable ones are counted."""
    entries = []
    unreadable = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else None
        if marker == "@cert-authority":
            continue
        entry = _parse_entry(fields, revoked=marker == "@revoked")
        if entry is None or marker not in (None, "@revoked"):
            unreadable.append(number)
        else:
            entries.append(entry)
    return KnownHosts(entries=tuple(entries), unreadable=tuple(unreadable))


def _parse_entry(fields: list[str], *, revoked: bool) -> KnownHost | None:
    """The line's hosts, type and key, or None when they are not that."""
    if len(fields) < 3:
        return None
    hosts, name, key = fields[:3]
    try:
        blob = base64.b64decode(key, validate=True)
        if hosts.startswith("|"):
            _matches_hashed(hosts, "")
    except ValueError:  # not base64, or a hashed name without its parts
        return None
    if key_type(blob) != name.encode():
        return None
    return KnownHost(hosts=hosts, blob=blob, revoked=revoked)


def _algorithms(blobs: Iterable[bytes]) -> list[bytes]:
    """The signature algorithms with which a server can prove that it holds one of the keys."""
    types = {key_type(b) for b in blobs}
    return [
        a
        for a in HOST_KEY_ALGORITHMS
        if a in types or (a.startswith(b"rsa-sha2-") and b"ssh-rsa" in types)
    ]


@define(eq=False)
class HostKeyPolicy:
    """Which host keys are right: those of known_hosts, or the first one seen.

    With `known_hosts` a host must show one of its keys there. With None the first key seen is
    trusted, logged with its fingerprint, and then pinned for the life of this object.
    """

    _known_hosts: KnownHosts | None = None
    _trusted: dict[tuple[str, int], bytes] = field(factory=dict, init=False)
    _refused: set[tuple[str, int, str | None]] = field(factory=set, init=False)
    _log = Logger()

    def algorithms(self, host: str, port: int) -> list[bytes]:
        """The host key algorithms to offer, so that the server shows a key of a pinned kind.

        Raises `HostKeyError` when known_hosts has nothing for the host that could ever match.
        """
        if self._known_hosts is None and (host, port) not in self._trusted:
            return list(HOST_KEY_ALGORITHMS)
        usable = _algorithms(self._pinned(host, port))
        if not usable:
            raise self._refuse(host, port, None, "known_hosts has no usable key for it")
        return usable

    def check(self, host: str, port: int, blob: bytes) -> None:
        """Raise `HostKeyError`, and log it once at error level, unless the key may be right."""
        shown = fingerprint(blob)
        if self._known_hosts is not None and blob in self._known_hosts.revoked(host, port):
            raise self._refuse(host, port, shown, "this key is marked as revoked in known_hosts")
        if self._known_hosts is None and (host, port) not in self._trusted:
            return
        if blob not in self._pinned(host, port):
            raise self._refuse(
                host,
                port,
                shown,
                "someone may be listening in, or the host key was changed: if it was, update"
                " known_hosts, or restart this daemon where no known_hosts is given",
            )

    def trust(self, host: str, port: int, blob: bytes) -> None:
        """Pin a key that the server has proved to hold; only the first one without known_hosts."""
        self._refused = {r for r in self._refused if r[:2] != (host, port)}
        if self._known_hosts is None and (host, port) not in self._trusted:
            self._trusted[host, port] = blob
            self._log.warn(
                "Trusting the host key of {host}:{port} on first use: {type} {fingerprint}"
                " (give known_hosts to have it checked)",
                host=host,
                port=port,
                type=key_type(blob).decode("ascii", "replace"),
                fingerprint=fingerprint(blob),
            )

    def refuse_kind(self, host: str, port: int) -> HostKeyError:
        """The error, logged, for a server that has no key of any kind that is pinned."""
        return self._refuse(host, port, None, "it has no key of a kind that is trusted")

    def _pinned(self, host: str, port: int) -> tuple[bytes, ...]:
        if self._known_hosts is not None:
            return self._known_hosts.pinned(host, port)
        return (self._trusted[host, port],) if (host, port) in self._trusted else ()

    def _refuse(self, host: str, port: int, found: str | None, why: str) -> HostKeyError:
        expected = tuple(fingerprint(b) for b in self._pinned(host, port))
        message = (
            f"the host key of {host}:{port} is refused: found {found or 'none'},"
            f" expected {' or '.join(expected) or 'a key from known_hosts'}; {why}"
        )
        # A reconnecting link asks every few seconds; the log need not say it every time.
        if (host, port, found) not in self._refused:
            self._refused.add((host, port, found))
            self._log.error("HOST KEY REFUSED: {message}", message=message)
        return HostKeyError(message, expected=expected, found=found)
