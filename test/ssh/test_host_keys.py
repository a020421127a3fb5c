"""Host keys: known_hosts as sshd(8) describes it, and the policy made from it."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.ssh.host_keys import (
    HOST_KEY_ALGORITHMS,
    HostKeyError,
    HostKeyPolicy,
    fingerprint,
    parse_known_hosts,
)


def _line(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    """The key's type and base64, as a line of known_hosts has them."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _blob(line: str) -> bytes:
    return base64.b64decode(line.split()[1])


def _hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


ONE, TWO = (_line(ed25519.Ed25519PrivateKey.generate()) for _ in range(2))
RSA = _line(rsa.generate_private_key(65537, 2048))


class ParseKnownHostsTests(SynchronousTestCase):
    """`parse_known_hosts` and what its lines match."""

    def assert_pins(self, text: str, host: str, port: int, *lines: str) -> None:
        """The text pins exactly the keys of `lines` for the host."""
        known = parse_known_hosts(text)
        self.assertEqual(known.unreadable, ())
        self.assertEqual(known.pinned(host, port), tuple(_blob(x) for x in lines))

    def test_plain(self) -> None:
        """Names, several of them, comments, blank lines; case does not matter."""
        text = f"# a comment\n\nLogin.example,10.0.0.1 {ONE} root@login\nother {TWO}\n"
        self.assert_pins(text, "login.EXAMPLE", 22, ONE)
        self.assert_pins(text, "10.0.0.1", 22, ONE)
        self.assert_pins(text, "login", 22)

    def test_several_keys(self) -> None:
        """A host may have a key of each kind, and lines may repeat."""
        self.assert_pins(f"h {ONE}\nh {RSA}\nh {ONE}\n", "h", 22, ONE, RSA)

    def test_port(self) -> None:
        """`[host]:port` is preferred for that port and means no other."""
        text = f"[h]:2222 {ONE}\nh {TWO}\n"
        self.assert_pins(text, "h", 2222, ONE)
        self.assert_pins(text, "h", 22, TWO)
        self.assert_pins(f"[h]:2222 {ONE}\n", "h", 22)
        self.assert_pins(f"[h]:2222 {ONE}\n", "h", 2223)

    def test_bare_host_on_another_port(self) -> None:
        """As with ssh(1) a line without a port is good for any port that has none of its own."""
        self.assert_pins(f"h {TWO}\n", "h", 2222, TWO)

    def test_patterns(self) -> None:
        """`*`, `?` and `!` mean what they mean to sshd."""
        text = f"*.cluster,!bad.cluster,n? {ONE}\n"
        self.assert_pins(text, "good.cluster", 22, ONE)
        self.assert_pins(text, "bad.cluster", 22)
        self.assert_pins(text, "n1", 22, ONE)
        self.assert_pins(text, "n10", 22)
        self.assert_pins(f"[*.cluster]:2222 {ONE}\n", "a.cluster", 2222, ONE)

    def test_hashed(self) -> None:
        """HashKnownHosts' form, with and without a port."""
        text = f"{_hashed('h')} {ONE}\n{_hashed('[h]:2222')} {TWO}\n"
        self.assert_pins(text, "h", 22, ONE)
        self.assert_pins(text, "h", 2222, TWO)
        self.assert_pins(text, "i", 22)

    def test_markers(self) -> None:
        """A revoked key is never pinned; a certificate authority is ignored."""
        text = f"@revoked * {ONE}\nh {ONE}\nh {TWO}\n@cert-authority * {RSA}\n"
        self.assert_pins(text, "h", 22, TWO)
        self.assertEqual(parse_known_hosts(text).revoked("h", 22), {_blob(ONE)})

    def test_unreadable(self) -> None:
        """What can't be read is counted by line, and the rest is used."""
        text = "\n".join(
            [
                "h",
                "h ssh-ed25519",
                "h ssh-ed25519 !!!",
                f"h {ONE}",
                f"h ssh-rsa {ONE.split()[1]}",
                f"|1|x {ONE}",
                f"@unheard-of h {ONE}",
                "h ssh-ed25519 AAAA",
            ]
        )
        known = parse_known_hosts(text)
        self.assertEqual(known.unreadable, (1, 2, 3, 5, 6, 7, 8))
        self.assertEqual(known.pinned("h", 22), (_blob(ONE),))


class PinnedPolicyTests(SynchronousTestCase):
    """`HostKeyPolicy` with known_hosts."""

    def setUp(self) -> None:
        self.policy = HostKeyPolicy(
            parse_known_hosts(f"h {ONE}\nr {RSA}\n@revoked * {TWO}\nv {TWO}\n")
        )

    def test_right(self) -> None:
        """The pinned key passes, and the server is asked for its kind only."""
        self.assertEqual(self.policy.algorithms("h", 22), [b"ssh-ed25519"])
        self.assertEqual(self.policy.algorithms("r", 22), [b"rsa-sha2-512", b"rsa-sha2-256"])
        self.policy.check("h", 22, _blob(ONE))

    def test_wrong(self) -> None:
        """Another key is refused with both fingerprints, and logged once, as an error."""
        with capturedLogs() as logs:
            for _ in range(2):
                with self.assertRaises(HostKeyError) as caught:
                    self.policy.check("h", 22, _blob(RSA))
        self.assertEqual(caught.exception.found, fingerprint(_blob(RSA)))
        self.assertEqual(caught.exception.expected, (fingerprint(_blob(ONE)),))
        self.assertIn(fingerprint(_blob(RSA)), str(caught.exception))
        self.assertIn(fingerprint(_blob(ONE)), str(caught.exception))
        self.assertEqual([e["log_level"] for e in logs], [LogLevel.error])

    def test_logged_again_after_a_good_connection(self) -> None:
        """A second change is as loud as the first."""
        with capturedLogs() as logs:
            for _ in range(2):
                self.assertRaises(HostKeyError, self.policy.check, "h", 22, _blob(RSA))
                self.policy.trust("h", 22, _blob(ONE))
        self.assertEqual(len(logs), 2)

    def test_unknown_host(self) -> None:
        """With known_hosts nothing is trusted on first use."""
        self.assertRaises(HostKeyError, self.policy.algorithms, "unknown", 22)
        self.assertRaises(HostKeyError, self.policy.check, "unknown", 22, _blob(ONE))

    def test_revoked(self) -> None:
        """A revoked key is refused although a line pins it."""
        self.assertRaises(HostKeyError, self.policy.algorithms, "v", 22)
        error = self.assertRaises(HostKeyError, self.policy.check, "v", 22, _blob(TWO))
        self.assertIn("revoked", str(error))

    def test_other_kind(self) -> None:
        """A server without a key of the pinned kind is refused with the expected fingerprint."""
        error = self.policy.refuse_kind("h", 22)
        self.assertEqual(error.expected, (fingerprint(_blob(ONE)),))
        self.assertIsNone(error.found)


class FirstUsePolicyTests(SynchronousTestCase):
    """`HostKeyPolicy` without known_hosts."""

    def test_first_use(self) -> None:
        """The first key is logged with its fingerprint and pinned; a changed one is refused."""
        policy = HostKeyPolicy()
        self.assertEqual(policy.algorithms("h", 22), list(HOST_KEY_ALGORITHMS))
        policy.check("h", 22, _blob(ONE))
        with capturedLogs() as logs:
            policy.trust("h", 22, _blob(ONE))
            policy.trust("h", 22, _blob(ONE))
        self.assertEqual([e["fingerprint"] for e in logs], [fingerprint(_blob(ONE))])
        self.assertEqual(policy.algorithms("h", 22), [b"ssh-ed25519"])
        policy.check("h", 22, _blob(ONE))
        error = self.assertRaises(HostKeyError, policy.check, "h", 22, _blob(TWO))
        self.assertEqual(error.expected, (fingerprint(_blob(ONE)),))

    def test_checked_is_not_yet_trusted(self) -> None:
        """A key is pinned once the server has proved to hold it, not when it is shown."""
        policy = HostKeyPolicy()
        policy.check("h", 22, _blob(ONE))
        policy.check("h", 22, _blob(TWO))

    def test_ports_are_apart(self) -> None:
        """Two servers on one host have keys of their own."""
        policy = HostKeyPolicy()
        policy.trust("h", 22, _blob(ONE))
        policy.check("h", 2222, _blob(TWO))


class FingerprintTests(SynchronousTestCase):
    """`fingerprint`."""

    def test_as_ssh_keygen_prints_it(self) -> None:
        """RFC 4253's wire format, SHA-256, base64 without padding."""
        digest = base64.b64encode(hashlib.sha256(_blob(ONE)).digest()).decode()
        self.assertEqual(fingerprint(_blob(ONE)), f"SHA256:{digest[:43]}")
