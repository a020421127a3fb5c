"""The private key that the daemon authenticates with, from PEM text.

Pure: text in, a Conch `Key` out, or one sentence that says what is wrong with the text. Nothing of
the text itself ever stands in an error.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
)
from twisted.conch.ssh.keys import Key

from jarvice_slurmd.errors import JarviceSlurmdError

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
# What OpenSSH itself refuses by default (sshd_config, RequiredRSASize).
_SMALLEST_RSA = 1024


class PrivateKeyError(JarviceSlurmdError):
    """The private key's text can't be used; the text says why and what would be right."""


def load_private_key(text: str) -> Key:
    """The key in OpenSSH's own format, PKCS#1, SEC1 or PKCS#8 PEM text.

    Ed25519, ECDSA (nistp256, nistp384, nistp521) and RSA keys without a passphrase. Raises
    `PrivateKeyError`.
    """
    # Windows line ends and surrounding blanks come with copy and paste, and mean nothing in PEM.
    pem = text.replace("\r\n", "\n").strip().encode("utf-8", "surrogateescape") + b"\n"
    if pem == b"\n":
        raise PrivateKeyError("the private key is empty")
    if pem.startswith((b"ssh-", b"ecdsa-")) or b"-----BEGIN PUBLIC KEY" in pem:
        raise PrivateKeyError("this is a public key; the private key is needed")
    if pem.startswith(b"PuTTY-User-Key-File"):
        raise PrivateKeyError(
            "this is a PuTTY key; convert it with `puttygen KEY -O private-openssh`"
        )
    if b"-----BEGIN " not in pem or b"PRIVATE KEY-----" not in pem:
        raise PrivateKeyError(
            "the private key is not PEM text (it begins with `-----BEGIN ... PRIVATE KEY-----`)"
        )
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in pem else load_pem_private_key
    try:
        loaded = load(pem, None)
    except TypeError:
        # Both loaders' way of saying that a passphrase is missing.
        raise PrivateKeyError(_ENCRYPTED) from None
    except (ValueError, UnsupportedAlgorithm):
        raise PrivateKeyError(
            "the private key can't be read: it is damaged, cut short or of an unknown kind"
        ) from None
    return _accept(loaded)


_ENCRYPTED = (
    "the private key is protected by a passphrase; a key without one is needed"
    " (`ssh-keygen -p` removes it)"
)


def _accept(loaded: object) -> Key:
    """The Conch key around one that we can authenticate with; raises `PrivateKeyError`."""
    match loaded:
        case ed25519.Ed25519PrivateKey():
            pass
        case ec.EllipticCurvePrivateKey():
            if loaded.curve.name not in _CURVES:
                raise PrivateKeyError(f"SSH has no ECDSA keys on the curve {loaded.curve.name}")
        case rsa.RSAPrivateKey():
            if loaded.key_size < _SMALLEST_RSA:
                raise PrivateKeyError(
                    f"an RSA key of {loaded.key_size} bits is too short; OpenSSH wants at least"
                    f" {_SMALLEST_RSA}"
                )
        case dsa.DSAPrivateKey():
            raise PrivateKeyError("DSA keys are no longer accepted by OpenSSH; use ed25519")
        case _:
            raise PrivateKeyError(
                f"a key of kind {type(loaded).__name__} can't be used; use ed25519, ECDSA or RSA"
            )
    return Key(loaded)
