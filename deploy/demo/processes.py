"""The two things that the demo starts: the development cluster and the daemon."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

DEVCLUSTER = Path(__file__).parent.parent / "devcluster" / "devcluster"
PROJECT = Path(__file__).parent.parent.parent


class DevClusterFailedError(Exception):
    """A command of the development cluster failed; it has said why."""


def devcluster(command: str, *arguments: str) -> str:
    """Run a command of the development cluster; returns what it printed.

    Raises `DevClusterFailedError` when it failed.
    """
    words = [sys.executable, str(DEVCLUSTER), command, *arguments]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DevClusterFailedError(f"devcluster {command} failed: the reason stands above")
    return done.stdout


def parse_exports(text: str) -> dict[str, str]:
    """The variables in what `devcluster env` printed: `export NAME=value`, quoted for a shell."""
    words = shlex.split(text)
    return dict(word.split("=", 1) for word in words if word != "export" and "=" in word)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon(ProcessProtocol):
    """`twistd jarvice-slurmd` as a child; each line of its log goes to `tell`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.ended: Deferred[int | None] = Deferred()
        self._tell = tell
        self._rest = b""

    @classmethod
    def start(
        cls,
        reactor: IReactorProcess,
        environment: dict[str, str],
        arguments: list[str],
        tell: Callable[[str], None],
    ) -> Daemon:
        """Start the daemon with these settings and arguments; it inherits none of our settings."""
        daemon = cls(tell)
        twistd = Path(sys.executable).parent / "twistd"
        command = [str(twistd), "--nodaemon", "--pidfile=", "jarvice-slurmd", *arguments]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JARVICE_")}
        reactor.spawnProcess(
            daemon,
            str(twistd),
            command,
            env={**inherited, **environment},
            path=str(PROJECT),
            childFDs={0: "w", 1: "r", 2: "r"},
        )
        return daemon

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        """Part of its log."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        """It is gone; `ended` fires with its exit status, or minus the signal that ended it."""
        signal = getattr(reason.value, "signal", None)
        status = getattr(reason.value, "exitCode", None)
        self.ended.callback(-signal if status is None and signal else status)

    async def stop(self) -> int | None:
        """End it as Kubernetes would, with SIGTERM; returns how it ended."""
        transport = self.transport
        assert transport is not None and IProcessTransport.providedBy(transport)
        if not self.ended.called:
            with contextlib.suppress(ProcessExitedAlready):
                transport.signalProcess("TERM")
        return await self.ended
