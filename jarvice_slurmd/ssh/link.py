# mypy: allow-untyped-calls
# (Conch has few annotations, and calls through our subclasses count as ours.)
"""The SSH link: every command of the daemon through a few long-lived connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from jarvice_slurmd.errors import NotConnectedError
from jarvice_slurmd.interfaces import CommandResult, IRemoteShell
from jarvice_slurmd.ssh.connection import LinkConnection, ServerVersion
from jarvice_slurmd.ssh.dispatch import CommandDispatcher
from jarvice_slurmd.ssh.endpoint import LoginNodeEndpoint
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy
from jarvice_slurmd.ssh.options import Destination, LinkOptions
from jarvice_slurmd.ssh.shell import encode_script


@implementer(IRemoteShell)
class SSHLink(Service):
    """Runs commands on the login node while it is started; see `IRemoteShell`.

    `CommandDispatcher` says in which order, over how many connections, and what becomes of them
    while there is none.
    """

    name = "ssh-link"

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        user: str,
        key: Key,
        policy: HostKeyPolicy,
        options: LinkOptions | None = None,
        *,
        connect: Callable[[], Deferred[LinkConnection]] | None = None,
    ) -> None:
        """`connect` replaces how a connection is made; tests without a network do that."""
        options = options or LinkOptions()
        destination = Destination(host=host, port=port, user=user)
        endpoint = LoginNodeEndpoint(
            reactor=reactor, destination=destination, key=key, policy=policy, options=options
        )
        self._dispatcher = CommandDispatcher(
            reactor, connect or endpoint.connect, destination, options
        )
        self._pool = self._dispatcher.pool

    # State

    @property
    def connected(self) -> bool:
        """Whether there is an authenticated connection to the login node."""
        return self._pool.connected

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return self._pool.size

    @property
    def last_error(self) -> str | None:
        """Why there is no connection; None while there is one, or before the first attempt."""
        return self._pool.last_error

    @property
    def server_version(self) -> ServerVersion | None:
        """What the login node says it runs, while connected."""
        return self._pool.server_version

    def first_attempt(self) -> Deferred[str | None]:
        """Fires once the first attempt to connect has ended: with None, or why it failed."""
        return self._pool.first_attempt()

    # Service

    def startService(self) -> None:
        """Connect, and stay connected."""
        super().startService()
        self._dispatcher.start()

    def stopService(self) -> Deferred[None]:
        """Take no more commands, let those there are end, for `stop_grace` s, and disconnect."""
        super().stopService()
        return Deferred.fromCoroutine(self._dispatcher.stop())

    # IRemoteShell

    def run(
        self,
        script: str,
        stdin: bytes = b"",
        *,
        timeout: float | None = None,
        max_output: int | None = None,
    ) -> Deferred[CommandResult]:
        """See `IRemoteShell.run`; a NUL in the script is a `ValueError`."""
        try:
            text = encode_script(script)
        except ValueError as e:
            return fail(e)
        if not self.running:
            return fail(NotConnectedError("the SSH link is not running"))
        return self._dispatcher.run(text, stdin, timeout, max_output)
