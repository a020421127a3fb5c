"""What the tunnel endpoint asks of the rest: where a job's service is, and whose a request is."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import Enum
from typing import TypeAlias

from attrs import frozen
from zope.interface import Interface

from jarvice_slurmd.interactive.head import Headers, RequestHead


@frozen(kw_only=True)
class Service:
    """A running job's web service: TCP `port` on `host`, as the login node names it.

    `strip_prefix` says that the application serves at `/`, so that the `/job<number>` of an
    address by path is taken off before a request is forwarded. Of an address by host it says
    nothing.
    """

    host: str
    port: int
    strip_prefix: bool = False


class Stage(Enum):
    """How far an interactive job is whose service can't be reached yet."""

    QUEUED = "queued"
    STARTING = "starting"
    PORT_CLOSED = "port not open yet"


@frozen(kw_only=True)
class Waiting:
    """An interactive job on its way; `detail` tells its user more, such as why it waits."""

    stage: Stage
    detail: str = ""


@frozen(kw_only=True)
class Unknown:
    """No interactive job of ours that waits or runs has this number."""


class IJobDirectory(Interface):
    """Finds interactive jobs by the number in their address."""

    def resolve(number: int) -> Awaitable[Service | Waiting | Unknown]:
        """Where the job stands now; asked for each request, so answered from memory mostly.

        May raise any `JarviceSlurmdError`; `NotConnectedError` is asked again for a bounded time.
        """

    def has_ended(number: int) -> Awaitable[bool]:
        """Whether Slurm, asked anew, says that a job which `resolve` knew runs no longer.

        For when its port can't be connected to. Waits a bounded time, and raises nothing: False
        where Slurm did not say so.
        """

    def doubt(number: int, host: str, port: int) -> None:
        """A job's service could not be connected to: find it anew before it is answered again."""


@frozen(kw_only=True)
class Target:
    """Where one request goes: a job's service, and the prefix its address has in public.

    `prefix` has a leading and no trailing slash; it is empty in an address by host.
    """

    number: int
    host: str
    port: int
    prefix: bytes = b""
    strip_prefix: bool = False


@frozen(kw_only=True)
class Api:
    """The request is for the API's own site."""


@frozen(kw_only=True)
class Page:
    """An answer that is made here, whole."""

    status: int
    headers: Headers = ()
    body: bytes = b""


Route: TypeAlias = Target | Api | Page


class IRouter(Interface):
    """Decides whose a request is, from its head alone."""

    def route(head: RequestHead) -> Route | Awaitable[Route]:
        """Whose the request is; answers without waiting where nothing has to be asked.

        Errors as `IJobDirectory.resolve`.
        """

    def unreachable(head: RequestHead, target: Target) -> Awaitable[Page | None]:
        """What to answer when the port of a target could not be connected to.

        The next request finds its service anew. None where that failure itself is the answer: the
        job is still there.
        """
