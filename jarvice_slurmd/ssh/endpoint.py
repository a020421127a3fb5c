"""From an address to an authenticated SSH connection, bounded in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as TCPTimeoutError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from jarvice_slurmd.ssh.client import LinkTransport, SSHSetupError
from jarvice_slurmd.ssh.connection import LinkConnection
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy
from jarvice_slurmd.ssh.options import Destination, LinkOptions


@frozen(kw_only=True)
class LoginNodeEndpoint:
    """Connects to a login node and authenticates, one connection a call.

    `endpoint` is where `destination` is reached; None means by its name and port.
    """

    reactor: Any = field(repr=False)  # IReactorTime, and what HostnameEndpoint asks for
    destination: Destination
    key: Key = field(repr=False)
    policy: HostKeyPolicy = field(repr=False)
    options: LinkOptions = field(factory=LinkOptions, repr=False)
    endpoint: IStreamClientEndpoint | None = field(default=None, repr=False)

    def connect(
        self,
        make_connection: Callable[[IReactorTime, float, int], LinkConnection] = LinkConnection,
    ) -> Deferred[LinkConnection]:
        """Fires with a connection that is ready for channels, never with less.

        Errors back with `HostKeyError`, `AuthenticationError` or `SSHSetupError`, within
        `connect_timeout`. Cancelling the Deferred ends the attempt.
        """
        attempt = _Attempt(self, make_connection)
        clock: IReactorTime = self.reactor
        return Deferred.fromCoroutine(attempt.run()).addTimeout(
            self.options.connect_timeout, clock, attempt.timed_out
        )

    def _stream_endpoint(self) -> IStreamClientEndpoint:
        if self.endpoint is not None:
            return self.endpoint
        return HostnameEndpoint(
            self.reactor,
            self.destination.host,
            self.destination.port,
            timeout=self.options.connect_timeout,
        )


class _Attempt:
    """One attempt to connect, and how far it has come."""

    def __init__(
        self,
        endpoint: LoginNodeEndpoint,
        make_connection: Callable[[IReactorTime, float, int], LinkConnection],
    ) -> None:
        self._endpoint = endpoint
        self._make_connection = make_connection
        self._transport: LinkTransport | None = None

    async def run(self) -> LinkConnection:
        """Connect, check the host key, authenticate."""
        at = self._endpoint
        options = at.options
        transport = LinkTransport(
            at.destination,
            at.key,
            at.policy,
            lambda: self._make_connection(
                at.reactor, options.keepalive_interval, options.keepalive_max_missed
            ),
        )
        self._transport = transport
        factory = Factory.forProtocol(lambda: transport)
        try:
            await at._stream_endpoint().connect(factory)
        except (ConnectError, DNSLookupError, TCPTimeoutError, OSError) as e:
            raise SSHSetupError(_describe(e, at.destination)) from e
        return await transport.ready

    def timed_out(self, result: Any, timeout: float) -> Any:
        """What a time-out makes of the attempt's cancellation."""
        step = self._transport.step if self._transport is not None else "connecting"
        if isinstance(result, Failure):
            raise SSHSetupError(f"no answer from the login node within {timeout:g} s while {step}")
        return result


def _describe(error: Exception, destination: Destination) -> str:
    """Why no TCP connection came about, in words that fit into a sentence."""
    if isinstance(error, DNSLookupError):
        return f"the name {destination.host} can't be resolved"
    return f"no TCP connection ({str(error).rstrip('.')})"
