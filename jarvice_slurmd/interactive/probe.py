"""Whether a job's web service answers, and under which path: asked through the tunnel."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NoReturn
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from jarvice_slurmd.errors import TunnelConnectError
from jarvice_slurmd.interactive.head import (
    HEAD_END,
    BadHeadError,
    ResponseHead,
    field_values,
    parse_response_head,
)
from jarvice_slurmd.interfaces import ITunnelOpener

#: Seconds that a tunnel may take to open, and then a service to begin an answer, if not told else.
PROBE_SECONDS = 5.0

#: What a gateway in front of an application answers while that is not up (RFC 9110 §15.6).
_NOT_YET = frozenset({502, 503, 504})

#: What one answers who wants to know first who asks.
_WHO_ASKS = frozenset({401, 403})

#: A path that is no application's.
_NOWHERE = "/jarvice-slurmd/nowhere"

#: What may come before an answer (RFC 9110 §15.2); 101 ends it.
_INTERIM = re.compile(rb"HTTP/1\.[0-9] 1(?!01)[0-9]{2}[ \r\n]")

#: Bytes of an answer that are looked at.
_MAX_HEAD = 16_384


class SlowServiceError(TunnelConnectError):
    """The port is open, and nothing has answered at it in time."""


class _ProbeProtocol(Protocol):
    """Sends one request and reads no more than the head of its answer."""

    def __init__(self, request: bytes) -> None:
        self.answer: Deferred[ResponseHead] = Deferred()
        self._request = request
        self._received = bytearray()

    def connectionMade(self) -> None:
        """The tunnel is open."""
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """Part of the answer."""
        if self.answer.called:
            return
        self._received += data[:_MAX_HEAD]
        while (end := HEAD_END.search(self._received)) is not None:
            block = bytes(self._received[: end.end()])
            if not _INTERIM.match(block):
                self._settle(block)
                return
            del self._received[: end.end()]
        if len(self._received) >= _MAX_HEAD or not b"HTTP/".startswith(self._received[:5]):
            self._settle(b"")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """No answer came, or none is wanted any more."""
        self._settle(b"")

    def leave(self) -> None:
        """Nobody waits for the answer any longer."""
        if self.transport is not None:
            self.transport.loseConnection()

    def _settle(self, block: bytes) -> None:
        if self.answer.called:
            return
        self._received.clear()
        try:
            self.answer.callback(parse_response_head(block))
        except BadHeadError:
            self.answer.errback(TunnelConnectError("the job's port does not speak HTTP"))
        self.leave()


@frozen(kw_only=True)
class Place:
    """Where a service may be asked: TCP `port` of `host`; `name` is what a browser calls it."""

    host: str
    port: int
    name: str


@frozen(kw_only=True)
class ServiceProbe:
    """Asks web services whether they answer."""

    opener: ITunnelOpener
    clock: IReactorTime

    async def answers(
        self, place: Place, path: str, patience: float = PROBE_SECONDS
    ) -> ResponseHead:
        """The head of the answer to a GET of a path, whatever its status, once there is one.

        Raises as `ITunnelOpener.open`, `SlowServiceError` when it does not begin in `patience`
        seconds, or `TunnelConnectError` when it is not HTTP's, or only a gateway's that the
        application behind it is not up.
        """
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {place.name}\r\nAccept: text/html, */*\r\n"
            "User-Agent: jarvice-slurmd\r\nConnection: close\r\n\r\n"
        )
        protocol = _ProbeProtocol(request.encode("ascii", "replace"))
        await self._open(place, protocol)
        try:
            head = await protocol.answer.addTimeout(patience, self.clock, _lose_patience)
        finally:
            protocol.leave()
        if head.status in _NOT_YET:
            raise TunnelConnectError(f"the job's service answers {head.status}: it is not up yet")
        return head

    async def is_open(self, place: Place) -> None:
        """Come back when the port can be connected to; raises as `ITunnelOpener.open`."""
        protocol = Protocol()
        await self._open(place, protocol)
        if protocol.transport is not None:
            protocol.transport.loseConnection()

    async def serves_at_root(
        self, place: Place, prefix: str, path: str = "", patience: float = PROBE_SECONDS
    ) -> bool:
        """Whether a service that answers serves at `/` rather than under its prefix.

        `path` is what the application's own URL opens with. Raises as `answers`.
        """
        under_prefix = await self.answers(place, f"{prefix}/{path}", patience)
        if under_prefix.status == 404:
            return True
        at_root = await self.answers(place, f"/{path}", patience)
        if under_prefix.status in _WHO_ASKS and 200 <= at_root.status < 300:
            # It wants to know first who asks: there, or wherever its open first page is not?
            elsewhere = await self.answers(place, _NOWHERE, patience)
            if elsewhere.status == under_prefix.status:
                return True
        return not knows_prefix(under_prefix, at_root, prefix, _own_names(place))

    async def _open(self, place: Place, protocol: Protocol) -> None:
        opening: Deferred[IProtocol] = self.opener.open(
            place.host, place.port, Factory.forProtocol(lambda: protocol)
        )
        await opening.addTimeout(PROBE_SECONDS, self.clock, _time_out)


def knows_prefix(
    under_prefix: ResponseHead,
    at_root: ResponseHead,
    prefix: str,
    own_names: Collection[str | None],
) -> bool:
    """What the answers to one path, under the prefix and at `/`, say of an application.

    One that knows nothing of its prefix fails there, leads out of it, or says the same to
    everything; one that knows it answers there, and at `/` at most leads into it. A redirect to a
    host that has none of `own_names`, such as a login for all of a site, leads nowhere that counts.
    """
    host, target = _redirect(under_prefix)
    if target == prefix or target.startswith(f"{prefix}/"):
        return True
    if target.startswith("/") and (not host or host in own_names):
        return False
    if _redirect(at_root)[1].startswith(f"{prefix}/"):
        return True
    if under_prefix.status >= 400 and at_root.status < 400:
        # Unless it only wants to know first who asks.
        return under_prefix.status in _WHO_ASKS
    return under_prefix.status != at_root.status


def _redirect(head: ResponseHead) -> tuple[str, str]:
    """The host, if one is named, and the path that a redirect leads to; empty for anything else."""
    if not 300 <= head.status < 400:
        return "", ""
    location = b"".join(field_values(head.headers, b"location")[:1]).decode("latin-1")
    try:
        url = urlsplit(location)
        return url.hostname or "", url.path
    except ValueError:
        return "", ""


def _own_names(place: Place) -> Collection[str | None]:
    """The hosts by which a service may mean itself."""
    return {urlsplit(f"//{place.name}").hostname, place.host.lower(), "localhost", "127.0.0.1"}


def _time_out(_: object, seconds: float) -> NoReturn:
    raise TunnelConnectError(f"the job's port did not open within {seconds:.0f} seconds")


def _lose_patience(_: object, seconds: float) -> NoReturn:
    raise SlowServiceError(f"the job's service did not answer within {seconds:.0f} seconds")
