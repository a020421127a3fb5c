"""What the daemon is measured against: a new paramiko connection, and OpenSSH's ControlMaster.

Both run one command a question, and block; callers are threads.
"""

from __future__ import annotations

import io
import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import paramiko  # type: ignore[import-not-found, import-untyped, unused-ignore]
from attrs import frozen

#: Runs a command on the login node with this stdin; its stdout, or `AskFailedError`.
Ask = Callable[[str, bytes], bytes]

# Seconds that one command, the connection included, may take.
_PATIENCE: Final = 60.0


class AskFailedError(Exception):
    """A neighbour's command did not succeed; the text is the reason, short enough to count by."""


@frozen(kw_only=True)
class Login:
    """How to log in to a devcluster: address, user, the private key's text, ssh's config file."""

    host: str
    port: int
    user: str
    key: str
    ssh_config: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], state: Path) -> Login:
        """The login node of the devcluster in `state` whose environment for the daemon this is."""
        return cls(
            host=environ["JARVICE_SLURM_CLUSTER_ADDR"],
            port=int(environ["JARVICE_SLURM_CLUSTER_PORT"]),
            user=environ["JARVICE_SLURM_SSH_USER"],
            key=environ["JARVICE_SLURM_SSH_PKEY"],
            ssh_config=str(state / "ssh" / "config"),
        )


class FreshParamiko:
    """A new paramiko connection for every command.

    With `look_up`, as the predecessor does it: the key is parsed anew each time, as RSA first, and
    agent and key files are looked for; without it, as cheaply as paramiko can.
    """

    def __init__(self, login: Login, *, look_up: bool) -> None:
        self._login = login
        self._look_up = look_up
        self._key = load_key(login.key)
        logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

    def ask(self, command: str, stdin: bytes) -> bytes:
        """Connect, run the command, disconnect."""
        login = self._login
        try:
            with paramiko.SSHClient() as client:
                # A host key nobody checks, as the predecessor has it; the node is on loopback.
                client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
                client.connect(
                    login.host,
                    port=login.port,
                    username=login.user,
                    pkey=load_key(login.key) if self._look_up else self._key,
                    allow_agent=self._look_up,
                    look_for_keys=self._look_up,
                    timeout=_PATIENCE,
                    banner_timeout=_PATIENCE,
                    auth_timeout=_PATIENCE,
                )
                to, out, err = client.exec_command(command, timeout=_PATIENCE)
                to.write(stdin)
                to.channel.shutdown_write()
                said, complaint = bytes(out.read()), bytes(err.read())
                status = out.channel.recv_exit_status()
        except (OSError, EOFError, paramiko.SSHException) as error:
            # What paramiko adds in brackets splits one cause into several.
            words = _first_line(str(error)).partition("[")[0]
            raise AskFailedError(f"{type(error).__name__}: {words}") from error
        if status != 0:
            raise AskFailedError(_first_line(complaint.decode("utf-8", "replace")))
        return said


def load_key(text: str) -> paramiko.PKey:
    """A private key from its text, tried as RSA first."""
    try:
        return paramiko.RSAKey.from_private_key(io.StringIO(text))
    except paramiko.SSHException:
        return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


class ControlMaster:
    """OpenSSH's warm connection; every command is an `ssh -S` of its own. A context manager."""

    def __init__(self, login: Login, socket: Path) -> None:
        self.socket = socket
        self._words = ["ssh", "-F", login.ssh_config, "-S", str(socket), "-T"]
        self._master: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ControlMaster:
        self._master = subprocess.Popen(
            [*self._words, "-M", "-N", "login"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _PATIENCE
        while subprocess.run(
            [*self._words, "-O", "check", "login"], capture_output=True, check=False
        ).returncode:
            if time.monotonic() > deadline or self._master.poll() is not None:
                raise AskFailedError("OpenSSH's ControlMaster did not come up")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._master is not None
        self._master.terminate()
        self._master.wait()

    def ask(self, command: str, stdin: bytes) -> bytes:
        """Run the command through the master, which must be up."""
        try:
            done = subprocess.run(
                [*self._words, "login", command],
                input=stdin,
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AskFailedError(f"no answer within {_PATIENCE:.0f} s") from None
        if done.returncode != 0:
            raise AskFailedError(_first_line(done.stderr.decode("utf-8", "replace")))
        return done.stdout


def _first_line(text: str) -> str:
    return next((line.strip()[:80] for line in text.splitlines() if line.strip()), "no reason")
