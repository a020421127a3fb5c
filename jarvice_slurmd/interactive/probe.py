"""Whether a job's web service answers, and under which path: asked through the tunnel."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from jarvice_slurmd.errors import TunnelConnectError
from jarvice_slurmd.interfaces import ITunnelOpener

#: Seconds that a service may take to begin an answer.
PROBE_SECONDS = 5.0

_MAX_STATUS_LINE = 4096


class _ProbeProtocol(Protocol):
    """Sends one request and reads no more than the status line of its answer."""

    def __init__(self, request: bytes) -> None:
        self.status: Deferred[int] = Deferred()
        self._request = request
        self._received = b""

    def connectionMade(self) -> None:
        """The tunnel is open."""
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """Part of the answer."""
        self._received += data[:_MAX_STATUS_LINE]
        line, end, _ = self._received.partition(b"\n")
        if not end and len(self._received) < _MAX_STATUS_LINE:
            return
        words = line.split(None, 2)
        if len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit():
            self._settle(int(words[1]))
        else:
            self._settle(None)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """No answer came, or none is wanted any more."""
        self._settle(None)

    def _settle(self, status: int | None) -> None:
        if not self.status.called:
            if status is None:
                self.status.errback(TunnelConnectError("the job's port does not speak HTTP"))
            else:
                self.status.callback(status)
        if self.transport is not None:
            self.transport.loseConnection()


class _ProbeFactory(ClientFactory):
    noisy = False

    def __init__(self, protocol: _ProbeProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> _ProbeProtocol:
        return self._protocol


@frozen(kw_only=True)
class ServiceProbe:
    """Asks web services for their status; `host_header` is what they are told they are called."""

    opener: ITunnelOpener
    clock: IReactorTime
    host_header: str

    async def status(self, host: str, port: int, path: str) -> int:
        """The status code that a GET of a path is answered with.

        Raises as `ITunnelOpener.open`, or `TunnelConnectError` when there is no HTTP answer in
        time.
        """
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {self.host_header}\r\nAccept: text/html, */*\r\n"
            "User-Agent: jarvice-slurmd\r\nConnection: close\r\n\r\n"
        )
        protocol = _ProbeProtocol(request.encode("ascii", "replace"))
        opening: Deferred[IProtocol] = self.opener.open(host, port, _ProbeFactory(protocol))
        opening.addTimeout(PROBE_SECONDS, self.clock, _time_out)
        await opening
        protocol.status.addTimeout(PROBE_SECONDS, self.clock, _time_out)
        try:
            return await protocol.status
        finally:
            if protocol.transport is not None:
                protocol.transport.loseConnection()

    async def serves_at_root(self, host: str, port: int, prefix: str) -> bool:
        """Whether a service that answers serves at `/` rather than under its prefix.

        An application that knows nothing of its prefix answers 404 there, or gives everyone the
        same page everywhere; one that knows it answers there, and at `/` at most redirects.
        """
        under_prefix = await self.status(host, port, f"{prefix}/")
        if under_prefix == 404:
            return True
        if not 200 <= under_prefix < 300:
            return False
        return 200 <= await self.status(host, port, "/") < 300


def _time_out(_: object, seconds: float) -> None:
    raise TunnelConnectError(f"the job's port did not answer within {seconds:.0f} seconds")
