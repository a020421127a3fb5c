"""A real OpenSSH server for a test: an ordinary process on a loopback port, with its own keys."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from jarvice_slurmd.ssh.options import Destination, LinkOptions

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_SSHD = "/usr/sbin/sshd"

#: For a test that is not about patience: a busy machine takes seconds to log in.
PATIENT = LinkOptions(connect_timeout=60.0, down_patience=60.0)


def private_pem(key: PrivateKey) -> str:
    """The key in OpenSSH's format."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def public_line(key: PrivateKey) -> str:
    """The public key as authorized_keys and known_hosts have it."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


class Sshd:
    """`start`, use `destination`, `stop`. The current user logs in with one of `user_keys`."""

    def __init__(self, user_keys: list[PrivateKey], config: str = "", home: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jarvice-sshd-")
        self.path = Path(self._folder.name)
        self.host_key: PrivateKey = ed25519.Ed25519PrivateKey.generate()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._user_keys = user_keys
        self._config = config
        self.environment = {"HOME": home or str(self.path)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def destination(self) -> Destination:
        """Where it listens, for the user who runs the tests."""
        user = pwd.getpwuid(os.getuid()).pw_name
        return Destination(host="127.0.0.1", port=self.port, user=user)

    def start(self) -> None:
        """Start it, and come back when it listens."""
        if os.getuid() == 0:
            # sshd's own privilege separation folder, which the service unit makes otherwise.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        authorized = self.path / "authorized_keys"
        authorized.write_text("".join(public_line(k) + "\n" for k in self._user_keys))
        authorized.chmod(0o600)
        host_key = self.path / "host_key"
        host_key.unlink(missing_ok=True)
        host_key.touch(mode=0o600)
        host_key.write_text(private_pem(self.host_key))
        config = self.path / "sshd_config"
        # The first value of a keyword wins: a test's own come first.
        config.write_text(
            f"{self._config}\n"
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
            f"PidFile {self.path}/pid\nAuthorizedKeysFile {authorized}\n"
            f"UsePAM no\nPermitRootLogin yes\nStrictModes no\n"
            f"SetEnv {' '.join(f'{k}={v}' for k, v in self.environment.items())}\n"
        )
        self._process = subprocess.Popen(
            [_SSHD, "-D", "-f", str(config), "-E", str(self.path / "log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"sshd did not start: {self.log()}") from None
                time.sleep(0.02)

    def log(self) -> str:
        """What it has logged."""
        path = self.path / "log"
        return path.read_text() if path.exists() else ""

    def sessions(self) -> list[int]:
        """sshd's own processes that serve its connections; not the commands they run."""
        assert self._process is not None
        return [p for p in _descendants(self._process.pid) if _name(p) == "sshd"]

    def kill_sessions(self, signal: int = 9) -> None:
        """Kill every connection, as an administrator or the OOM killer would; or stop and go on."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal)

    def commands(self) -> list[int]:
        """What its users run, also what was left behind: their processes have its home."""
        home = f"HOME={self.environment['HOME']}".encode()
        return [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/environ")
            if home in _contents(path).split(b"\0")
        ]

    def stop_listening(self) -> None:
        """Stop the listener; connections live on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        """Stop it with all its connections and remove its files."""
        if self._process is not None:
            self.kill_sessions()
        self.stop_listening()
        self._folder.cleanup()


def _descendants(pid: int) -> list[int]:
    """A process's children and theirs, as far as they still live."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [d for child in map(int, children) for d in (*_descendants(child), child)]


def _name(pid: int) -> str:
    """A process's name, empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _contents(path: Path) -> bytes:
    """What a file of a process's says, nothing when the process has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
