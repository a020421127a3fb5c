# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""The client's side of an SSH transport: host key check, key exchange, authentication."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import (
    DISCONNECT_AUTH_CANCELLED_BY_USER,
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_KEY_EXCHANGE_FAILED,
)
from twisted.conch.ssh.userauth import MSG_USERAUTH_REQUEST, SSHUserAuthClient
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure

from jarvice_slurmd.errors import NotConnectedError
from jarvice_slurmd.ssh.connection import LinkConnection, ServerVersion, WarningsLogger
from jarvice_slurmd.ssh.host_keys import HostKeyError, HostKeyPolicy, fingerprint
from jarvice_slurmd.ssh.options import Destination
from jarvice_slurmd.ssh.transport import PacketTransport


class SSHSetupError(NotConnectedError):
    """A connection to the login node could not be set up; the text says in which step, and why."""


class AuthenticationError(SSHSetupError):
    """The login node did not let us in."""


class LinkTransport(PacketTransport):
    """One connection to the login node, until it is authenticated and afterwards.

    `ready` fires with the `LinkConnection` after authentication, or fails with `HostKeyError`,
    `AuthenticationError` or `SSHSetupError`; cancelling it ends the attempt. `reason` says why the
    connection ended, or is about to.
    """

    # No SHA-1; `PacketTransport` says which ciphers.
    supportedKeyExchanges = [  # noqa: RUF012
        b"curve25519-sha256",
        b"curve25519-sha256@libssh.org",
        b"ecdh-sha2-nistp256",
        b"ecdh-sha2-nistp384",
        b"ecdh-sha2-nistp521",
        b"diffie-hellman-group-exchange-sha256",
    ]
    # Conch never compresses although it offers to.
    supportedCompressions = [b"none"]  # noqa: RUF012
    _dhMinimalGroupSize = 2048
    _log = WarningsLogger()

    def __init__(
        self,
        destination: Destination,
        key: Key,
        policy: HostKeyPolicy,
        make_connection: Callable[[], LinkConnection],
    ) -> None:
        super().__init__()
        self.supportedPublicKeys = policy.algorithms(destination.host, destination.port)
        self.ready: Deferred[LinkConnection] = Deferred(self._cancelled)
        self.reason = ""
        self.step = "connecting"
        self._destination = destination
        self._key = key
        self._policy = policy
        self._make_connection = make_connection
        self._host_key = b""
        self._is_secure = False
        self._is_settled = False

    # From the socket

    def connectionMade(self) -> None:
        """Greet, and start the key exchange."""
        if ITCPTransport.providedBy(self.transport):
            # Keystrokes are small packets; sshd's own delay is another matter (TRAPS, Nagle).
            self.transport.setTcpNoDelay(True)
        self.step = "exchanging keys"
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The socket has ended: nothing waits for it any longer."""
        if not self.reason:
            self.reason = _describe_loss(reason)
        self._settle(SSHSetupError(f"{self.reason} while {self.step}"))
        super().connectionLost(reason)

    # Key exchange

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[bool]:
        """Check the key that the server shows, on every key exchange.

        The Deferred has always fired already: with a later answer Conch would read EXT_INFO with
        the wrong keys.
        """
        try:
            self._policy.check(self._destination.host, self._destination.port, hostKey)
        except HostKeyError as e:
            self._fail(e)
            return fail(e)
        self._host_key = hostKey
        return succeed(True)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """Change keys; Conch never resets its note of an early NEWKEYS, which breaks the next."""
        super().ssh_NEWKEYS(packet)
        if self.nextEncryptions.encBlockSize:
            self._gotNewKeys = 0

    def connectionSecure(self) -> None:
        """Keys were exchanged: the first time, authenticate; later it was a rekeying."""
        if self._is_secure:
            return
        self._is_secure = True
        # Only now has the server proved that it holds the key it showed.
        self._policy.trust(self._destination.host, self._destination.port, self._host_key)
        self.step = "authenticating"
        self.requestService(
            PublicKeyAuthentication(self._destination.user, self._key, self._make_connection())
        )

    def authenticated(self, connection: LinkConnection) -> None:
        """From the connection: it was started, and is ready for channels."""
        self.step = "connected"
        if not self._is_settled:
            self._is_settled = True
            self.ready.callback(connection)

    @property
    def server_version(self) -> ServerVersion:
        """From the greeting, `SSH-protoversion-softwareversion SP comments` (RFC 4253 §4.2)."""
        _, protocol, software = self.otherVersionString.decode("ascii", "replace").split("-", 2)
        return ServerVersion(protocol, software.split(" ")[0])

    # Ends

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """The server says why it is about to disconnect."""
        words = description.decode("utf-8", "replace").strip()
        self.reason = f"the login node ended the connection ({words or reasonCode})"

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Disconnect; when Conch itself finds a reason, that is why the connection ends."""
        if not self.reason:
            words = desc.decode("utf-8", "replace")
            self.reason = f"the SSH protocol failed ({words})"
            if reason == DISCONNECT_KEY_EXCHANGE_FAILED and getattr(self, "keyAlg", b"") is None:
                self._fail(self._policy.refuse_kind(self._destination.host, self._destination.port))
        super().sendDisconnect(reason, desc)

    def close(self, reason: str) -> None:
        """Disconnect after what is written has gone out."""
        self.reason = self.reason or reason
        super().sendDisconnect(DISCONNECT_BY_APPLICATION, reason.encode())

    def abort(self, reason: str) -> None:
        """Drop the socket at once; a peer that does not read can't hold us up."""
        self.reason = self.reason or reason
        if self.transport is not None:
            # ITransport does not have it, every stream transport of Twisted does.
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def refuse(self, error: AuthenticationError) -> None:
        """From authentication: the server won't let us in."""
        self._fail(error)
        super().sendDisconnect(DISCONNECT_AUTH_CANCELLED_BY_USER, b"not authenticated")

    def _fail(self, error: NotConnectedError) -> None:
        self.reason = str(error)
        self._settle(error)

    def _settle(self, error: NotConnectedError) -> None:
        if not self._is_settled:
            self._is_settled = True
            self.ready.errback(error)

    def _cancelled(self, _: object) -> None:
        self._is_settled = True
        self.abort("the attempt was given up")


class PublicKeyAuthentication(SSHUserAuthClient):
    """Authentication by signature (RFC 4252 §7), in one round trip, and by nothing else."""

    _log = WarningsLogger()
    transport: LinkTransport

    def __init__(self, user: str, key: Key, connection: LinkConnection) -> None:
        super().__init__(user.encode(), connection)
        self._private_key = key
        self._algorithms: Iterator[bytes] = iter(())

    def serviceStarted(self) -> None:
        """Sign with what the server takes; RSA never with SHA-1 (OpenSSH 8.8 refuses that)."""
        ours: list[bytes] = self._private_key.supportedSignatureAlgorithms()
        ours = [a for a in ours if a != b"ssh-rsa"]
        # RFC 8308 §3.1; without it the server is old, and may still know the newer names.
        theirs = self.transport.peerExtensions.get(b"server-sig-algs", b"").split(b",")
        self._algorithms = iter([a for a in ours if a in theirs] or ours)
        self._try(next(self._algorithms))

    def _try(self, algorithm: bytes) -> None:
        public: bytes = self._private_key.public().blob()
        request = NS(b"publickey") + b"\x01" + NS(algorithm) + NS(public)
        assert self.transport.sessionID is not None
        signed = (
            NS(self.transport.sessionID)
            + bytes((MSG_USERAUTH_REQUEST,))
            + NS(self.user)
            + NS(self.instance.name)
            + request
        )
        signature = self._private_key.sign(signed, algorithm)
        self.lastAuth = b"publickey"
        self.transport.sendPacket(
            MSG_USERAUTH_REQUEST,
            NS(self.user) + NS(self.instance.name) + request + NS(signature),
        )

    def ssh_USERAUTH_FAILURE(self, packet: bytes) -> None:
        """Try the next signature algorithm, or say what the server would rather have."""
        methods, partial = getNS(packet)
        if partial[:1] != b"\x01":
            algorithm = next(self._algorithms, None)
            if algorithm is not None:
                self._try(algorithm)
                return
        public = fingerprint(self._private_key.public().blob())
        user = self.user.decode()
        wanted = methods.decode("ascii", "replace").replace(",", ", ") or "nothing"
        if partial[:1] == b"\x01":
            words = f"the key {public} is right, but the login node also wants {wanted}"
        else:
            words = (
                f"the login node does not accept the key {public} for the user {user}"
                f" (it offers: {wanted})"
            )
        self.transport.refuse(AuthenticationError(words))

    def ssh_USERAUTH_BANNER(self, packet: bytes) -> None:
        """Not for us: text for a person who logs in (RFC 4252 §5.4)."""


def _describe_loss(reason: Failure | None) -> str:
    """Why a socket ended, in words that fit into a sentence."""
    if reason is None or reason.check(ConnectionDone):
        return "the login node closed the connection"
    if reason.check(ConnectionAborted):
        return "the connection was dropped"
    return f"the connection broke ({reason.getErrorMessage()})"
