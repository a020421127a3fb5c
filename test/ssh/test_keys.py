"""Private keys: every format that people have, and errors they can act on."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.ssh.keys import PrivateKeyError, load_private_key

_ED25519 = ed25519.Ed25519PrivateKey.generate()
_ECDSA = [ec.generate_private_key(c) for c in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())]
_RSA = rsa.generate_private_key(65537, 2048)


def _pem(
    key: ed25519.Ed25519PrivateKey
    | ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | dsa.DSAPrivateKey
    | x25519.X25519PrivateKey,
    form: PrivateFormat,
    encryption: KeySerializationEncryption | None = None,
) -> str:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


class LoadPrivateKeyTests(SynchronousTestCase):
    """`load_private_key` on what it takes."""

    def assert_loads(self, text: str, expected: bytes) -> None:
        """The text is a key of the type, and can sign."""
        key = load_private_key(text)
        self.assertEqual(key.sshType(), expected)
        signature = key.sign(b"x", key.supportedSignatureAlgorithms()[0])
        self.assertTrue(key.public().verify(signature, b"x"))

    def test_ed25519(self) -> None:
        """OpenSSH's format and PKCS#8."""
        for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8):
            self.assert_loads(_pem(_ED25519, form), b"ssh-ed25519")

    def test_ecdsa(self) -> None:
        """OpenSSH's format, SEC1 and PKCS#8, on all three curves."""
        for key in _ECDSA:
            name = f"ecdsa-sha2-nistp{key.key_size}".encode()
            for form in (
                PrivateFormat.OpenSSH,
                PrivateFormat.TraditionalOpenSSL,
                PrivateFormat.PKCS8,
            ):
                self.assert_loads(_pem(key, form), name)

    def test_rsa(self) -> None:
        """OpenSSH's format, PKCS#1 and PKCS#8."""
        for form in (PrivateFormat.OpenSSH, PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8):
            self.assert_loads(_pem(_RSA, form), b"ssh-rsa")

    def test_pasted(self) -> None:
        """Windows line ends, leading blanks and a missing last newline do not matter."""
        pem = _pem(_ED25519, PrivateFormat.OpenSSH)
        self.assert_loads("\n  " + pem.replace("\n", "\r\n").rstrip(), b"ssh-ed25519")


class RefusedPrivateKeyTests(SynchronousTestCase):
    """`load_private_key` on what it can't take."""

    def assert_refused(self, text: str, words: str) -> None:
        """The error says `words`, and nothing of the text."""
        with self.assertRaises(PrivateKeyError) as caught:
            load_private_key(text)
        self.assertIn(words, str(caught.exception))
        for line in text.splitlines():
            if len(line) > 30 and not line.startswith("--"):
                self.assertNotIn(line, str(caught.exception))
        self.assertIsNone(caught.exception.__cause__)

    def test_passphrase(self) -> None:
        """A protected key is named as such, in every format."""
        lock = BestAvailableEncryption(b"secret")
        for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            self.assert_refused(_pem(_RSA, form, lock), "passphrase")

    def test_not_a_key(self) -> None:
        """Nothing, prose, a public key, a certificate, a PuTTY key."""
        self.assert_refused("", "empty")
        self.assert_refused(" \n ", "empty")
        self.assert_refused("hello", "not PEM")
        self.assert_refused("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me", "public key")
        public = _RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.assert_refused(public.decode(), "public key")
        self.assert_refused("PuTTY-User-Key-File-3: ssh-ed25519\n", "PuTTY")
        self.assert_refused(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "not PEM"
        )

    def test_damaged(self) -> None:
        """A key cut short or with a wrong character in it."""
        for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8):
            lines = _pem(_RSA, form).splitlines()
            self.assert_refused("\n".join(lines[:5] + lines[-1:]), "damaged")
            self.assert_refused("\n".join(lines[:5]), "damaged")
        self.assert_refused(
            "-----BEGIN PRIVATE KEY-----\n\u00e4\u00f6\n-----END PRIVATE KEY-----", "damaged"
        )

    def test_kinds(self) -> None:
        """DSA, key agreement keys, curves unknown to SSH, short RSA."""
        self.assert_refused(_pem(dsa.generate_private_key(2048), PrivateFormat.PKCS8), "DSA")
        self.assert_refused(
            _pem(x25519.X25519PrivateKey.generate(), PrivateFormat.PKCS8), "can't be used"
        )
        self.assert_refused(
            _pem(ec.generate_private_key(ec.SECP256K1()), PrivateFormat.PKCS8), "secp256k1"
        )
