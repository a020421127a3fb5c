"""Connecting to a real OpenSSH server."""

from __future__ import annotations

import socket

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from jarvice_slurmd.ssh.client import AuthenticationError, SSHSetupError
from jarvice_slurmd.ssh.connection import LinkConnection
from jarvice_slurmd.ssh.endpoint import LoginNodeEndpoint
from jarvice_slurmd.ssh.host_keys import HostKeyError, HostKeyPolicy, parse_known_hosts
from jarvice_slurmd.ssh.keys import load_private_key
from jarvice_slurmd.ssh.options import Destination, LinkOptions
from test.ssh.sshd import PrivateKey, Sshd, private_pem, public_line

_KEY = ed25519.Ed25519PrivateKey.generate()
_RSA = rsa.generate_private_key(65537, 2048)


def _endpoint(
    destination: Destination,
    key: PrivateKey = _KEY,
    policy: HostKeyPolicy | None = None,
    timeout: float = 30,
) -> LoginNodeEndpoint:
    return LoginNodeEndpoint(
        reactor=reactor,
        destination=destination,
        key=load_private_key(private_pem(key)),
        policy=policy or HostKeyPolicy(),
        options=LinkOptions(connect_timeout=timeout),
    )


async def _closed(connection: LinkConnection) -> str:
    connection.close()
    return await connection.lost


class ConnectTests(TestCase):
    """`LoginNodeEndpoint.connect` and its errors."""

    def start_sshd(self, *keys: PrivateKey, config: str = "") -> Sshd:
        """An sshd that ends with the test."""
        sshd = Sshd(list(keys) or [_KEY], config)
        self.addCleanup(sshd.stop)
        sshd.start()
        return sshd

    async def test_user_keys(self) -> None:
        """Ed25519, ECDSA and RSA keys are let in; an RSA key is never used with SHA-1."""
        keys: list[PrivateKey] = [_KEY, ec.generate_private_key(ec.SECP384R1()), _RSA]
        sshd = self.start_sshd(*keys, config="PubkeyAcceptedAlgorithms -ssh-rsa")
        for key in keys:
            connection = await _endpoint(sshd.destination, key).connect()
            self.assertEqual(connection.server_version.protocol, "2.0")
            self.assertRegex(connection.server_version.software, r"^OpenSSH_[\w.]+$")
            self.assertEqual(await _closed(connection), "closed by this daemon")

    async def test_second_signature_algorithm(self) -> None:
        """A server that takes only rsa-sha2-256, and says so or not, gets it."""
        sshd = self.start_sshd(_RSA, config="PubkeyAcceptedAlgorithms rsa-sha2-256")
        await _closed(await _endpoint(sshd.destination, _RSA).connect())

    async def test_host_keys(self) -> None:
        """Every kind of host key is checked against known_hosts, and asked for."""
        for host_key in (_KEY, _RSA, ec.generate_private_key(ec.SECP256R1())):
            sshd = Sshd([_KEY])
            sshd.host_key = host_key
            self.addCleanup(sshd.stop)
            sshd.start()
            known = parse_known_hosts(f"[127.0.0.1]:{sshd.port} {public_line(host_key)}\n")
            endpoint = _endpoint(sshd.destination, policy=HostKeyPolicy(known))
            await _closed(await endpoint.connect())

    async def test_wrong_host_key(self) -> None:
        """A key of the pinned kind that is another one is refused before authentication."""
        sshd = self.start_sshd()
        other = public_line(ed25519.Ed25519PrivateKey.generate())
        known = parse_known_hosts(f"127.0.0.1 {other}\n")
        with capturedLogs(), self.assertRaises(HostKeyError) as caught:
            await _endpoint(sshd.destination, policy=HostKeyPolicy(known)).connect()
        self.assertEqual(len(caught.exception.expected), 1)
        self.assertIsNotNone(caught.exception.found)
        self.assertNotIn("Accepted", sshd.log())

    async def test_other_kind_of_host_key(self) -> None:
        """A server that has no key of the pinned kind is refused as loudly."""
        sshd = self.start_sshd()
        known = parse_known_hosts(f"127.0.0.1 {public_line(_RSA)}\n")
        with self.assertRaises(HostKeyError) as caught:
            await _endpoint(sshd.destination, policy=HostKeyPolicy(known)).connect()
        self.assertIsNone(caught.exception.found)

    async def test_changed_host_key(self) -> None:
        """The first key seen is pinned by the policy, for later connections."""
        sshd = self.start_sshd()
        policy = HostKeyPolicy()
        await _closed(await _endpoint(sshd.destination, policy=policy).connect())
        await _closed(await _endpoint(sshd.destination, policy=policy).connect())
        sshd.stop_listening()
        sshd.host_key = ed25519.Ed25519PrivateKey.generate()
        sshd.start()
        with self.assertRaises(HostKeyError):
            await _endpoint(sshd.destination, policy=policy).connect()

    async def test_key_not_accepted(self) -> None:
        """The error names the key by its fingerprint, the user, and what is offered."""
        sshd = self.start_sshd()
        with self.assertRaises(AuthenticationError) as caught:
            await _endpoint(sshd.destination, _RSA).connect()
        self.assertIn("SHA256:", str(caught.exception))
        self.assertIn(f"user {sshd.destination.user}", str(caught.exception))
        self.assertIn("publickey", str(caught.exception))

    async def test_second_factor(self) -> None:
        """A key that is right but not enough is told apart from one that is wrong."""
        sshd = self.start_sshd(config="AuthenticationMethods publickey,password")
        with self.assertRaises(AuthenticationError) as caught:
            await _endpoint(sshd.destination).connect()
        self.assertIn("also wants password", str(caught.exception))

    async def test_nobody_listens(self) -> None:
        """Refused, and a name that does not resolve."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with self.assertRaises(SSHSetupError) as caught:
                await _endpoint(Destination(host="127.0.0.1", port=port, user="u")).connect()
        self.assertIn("refused", str(caught.exception))
        with self.assertRaises(SSHSetupError) as caught:
            await _endpoint(Destination(host="no.invalid", port=22, user="u")).connect()
        self.assertIn("no.invalid can't be resolved", str(caught.exception))

    async def test_silence(self) -> None:
        """A port that accepts and says nothing is given up in time, and so is a cancelled one."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            destination = Destination(host="127.0.0.1", port=silent.getsockname()[1], user="u")
            with self.assertRaises(SSHSetupError) as caught:
                await _endpoint(destination, timeout=0.2).connect()
            self.assertIn("within 0.2 s while exchanging keys", str(caught.exception))
            attempt = _endpoint(destination).connect()
            attempt.cancel()
            with self.assertRaises((CancelledError, SSHSetupError)):
                await attempt

    async def test_no_common_algorithms(self) -> None:
        """A server with ciphers that we lack is an error, not an exception in the log."""
        sshd = self.start_sshd(config="Ciphers chacha20-poly1305@openssh.com")
        with self.assertRaises(SSHSetupError) as caught:
            await _endpoint(sshd.destination).connect()
        self.assertIn("couldn't match all kex parts", str(caught.exception))
