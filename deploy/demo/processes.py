"""The two things that the demo starts: the development cluster and the daemon."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

DEVCLUSTER = Path(__file__).parent.parent / "devcluster" / "devcluster"
PROJECT = Path(__file__).parent.parent.parent

#: Puts a command into a session of its own, and kills it when the process that started it dies:
#: its log goes nowhere then.
_DETACHED = ("setsid", "setpriv", "--pdeathsig=KILL")


class DevClusterFailedError(Exception):
    """A command of the development cluster failed; it has said why."""


class DevCluster:
    """The development cluster in a folder, which goes down with this process however that ends.

    Its commands are process groups of their own: a terminal's Ctrl-C does not reach them.
    """

    def __init__(self, state: str) -> None:
        self.state = state
        self._running: subprocess.Popen[str] | None = None

    async def up(self, *options: str) -> None:
        """Bring it up."""
        await self.run("up", f"--owner={os.getpid()}", *options)

    async def run(self, command: str, *arguments: str) -> str:
        """Run a command of the development cluster; returns what it printed.

        Raises `DevClusterFailedError` when it failed.
        """
        child = self._running = _start_devcluster(command, "--state", self.state, *arguments)
        output, _ = await deferToThread(child.communicate)
        self._running = None
        if child.returncode:
            raise DevClusterFailedError(f"devcluster {command} failed: the reason stands above")
        return str(output)

    def interrupt(self) -> bool:
        """End the command that runs as Ctrl-C would; False when there is none."""
        if self._running is None or self._running.returncode is not None:
            return False
        pid = self._running.pid
        try:
            os.killpg(pid, signal.SIGINT)
        except PermissionError:  # it is sudo's, which hands on what root sends it
            subprocess.run(["sudo", "-n", "kill", "-INT", str(pid)], check=False)
        except ProcessLookupError:  # it has just ended
            pass
        return True


def _start_devcluster(*arguments: str) -> subprocess.Popen[str]:
    # A group and no session: sudo remembers a password by the terminal of the session.
    return subprocess.Popen(
        [sys.executable, str(DEVCLUSTER), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )


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
        """Start the daemon with these settings and arguments; it inherits none of our settings.

        It is ended by `stop`, or when this process is killed: no terminal's Ctrl-C reaches it.
        """
        daemon = cls(tell)
        twistd = Path(sys.executable).parent / "twistd"
        command = [*_DETACHED, str(twistd), "--nodaemon", "--pidfile="]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JARVICE_")}
        reactor.spawnProcess(
            daemon,
            command[0],
            [*command, "jarvice-slurmd", *arguments],
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
        number = getattr(reason.value, "signal", None)
        status = getattr(reason.value, "exitCode", None)
        self.ended.callback(-number if status is None and number else status)

    async def stop(self) -> int | None:
        """End it as Kubernetes would, with SIGTERM; returns how it ended."""
        transport = self.transport
        assert transport is not None and IProcessTransport.providedBy(transport)
        if not self.ended.called:
            with contextlib.suppress(ProcessExitedAlready):
                transport.signalProcess("TERM")
        return await self.ended
