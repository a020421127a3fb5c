"""Whose a request is, by the address it was sent to (PROTOCOL §3)."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Final

from attrs import field, frozen
from zope.interface import implementer

from jarvice_slurmd.interactive.head import RequestHead, field_values
from jarvice_slurmd.interactive.interfaces import (
    Api,
    IJobDirectory,
    IRouter,
    Page,
    Route,
    Service,
    Target,
    Waiting,
)
from jarvice_slurmd.interactive.pages import (
    render_bad_request_page,
    render_moved_page,
    render_page,
    render_unknown_page,
    render_waiting_page,
)

_DOMAIN: Final = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<authority>[A-Za-z0-9.\-]+(?::[0-9]{1,5})?)(?P<path>/[^?#\s]*)?"
)
_NUMBER: Final = rb"(0|[1-9][0-9]{0,17})"
_DIGITS: Final = rb"([0-9]+)"
_API: Final = Api()
#: What twisted.web's HTTPChannel takes: bytes of a head (totalHeadersSize), fields (maxHeaders).
_API_HEAD: Final = 16384
_API_FIELDS: Final = 500
_NOT_FROM_HERE: Final = "The API of this cluster does not answer requests that a web page makes."


@frozen(kw_only=True)
class JobAddress:
    """Which job an address names, and the part of its path that names it (empty by host)."""

    number: int
    prefix: bytes = b""


@frozen(kw_only=True)
class JobsDomain:
    """JARVICE_JOBS_DOMAIN and JARVICE_JOBS_NAMESPACE, understood.

    `path` is the path with its `$`, or empty where jobs have hosts of their own.
    """

    scheme: str
    authority: str
    path: str
    namespace: str
    _pattern: re.Pattern[bytes] = field(init=False, repr=False, eq=False)
    _likeness: re.Pattern[bytes] = field(init=False, repr=False, eq=False)

    @_pattern.default
    def _compile(self) -> re.Pattern[bytes]:
        return self._addresses(_NUMBER)

    @_likeness.default
    def _compile_likeness(self) -> re.Pattern[bytes]:
        return self._addresses(_DIGITS)

    def _addresses(self, number: bytes) -> re.Pattern[bytes]:
        if self.path:
            before, _, after = self.path.encode().partition(b"$")
            pattern = b"(%b%b%b)(?=[/?]|$)" % (re.escape(before), number, re.escape(after))
            return re.compile(pattern)
        domain = re.escape(self.authority.partition(":")[0].encode())
        name = re.escape(self.namespace.encode())
        return re.compile(rb"%b-%b\.%b\.?(?::[0-9]+)?" % (name, number, domain), re.IGNORECASE)

    def parse_address(self, target: bytes, host: bytes) -> JobAddress | None:
        """The job that a request's target and Host name, or None.

        By path any Host will do: an ingress may have put in its own.
        """
        if self.path:
            match = self._pattern.match(target)
            return match and JobAddress(number=int(match[2]), prefix=match[1])
        match = self._pattern.fullmatch(host)
        return match and JobAddress(number=int(match[1]))

    def is_like_an_address(self, target: bytes, host: bytes) -> bool:
        """Whether they look like a job's address, even with a number that no job can have."""
        if self.path:
            return self._likeness.match(target) is not None
        return self._likeness.fullmatch(host) is not None

    def url(self, number: int) -> str:
        """The job's public address; ends with a slash."""
        if self.path:
            return f"{self.scheme}://{self.authority}{self.path.replace('$', str(number))}/"
        return f"{self.scheme}://{self.namespace}-{number}.{self.authority}/"


def parse_jobs_domain(text: str, namespace: str) -> JobsDomain:
    """Read JARVICE_JOBS_DOMAIN: `d.com`, `d.com/job$` or `http://d.com:8080/job$`.

    Raises ValueError with a sentence for an administrator.
    """
    match = _DOMAIN.fullmatch(text.strip().rstrip("/"))
    path = (match and match["path"]) or ""
    if match is None or (path and (path.count("$") != 1 or path.startswith("/$"))):
        raise ValueError(f"JARVICE_JOBS_DOMAIN must be like d.com or d.com/job$, not {text!r}.")
    if not path and not re.fullmatch(r"[A-Za-z0-9\-]+", namespace):
        raise ValueError("JARVICE_JOBS_NAMESPACE must be a host name's part where jobs have hosts.")
    return JobsDomain(
        scheme=match["scheme"] or "https",
        authority=match["authority"].lower(),
        path=path,
        namespace=namespace,
    )


@implementer(IRouter)
@frozen(kw_only=True)
class JobRouter:
    """Sends jobs' addresses to jobs and the rest to the API.

    With `api` False (the listener of `--jobs`) the rest is 404. Without a domain there are no jobs,
    and without a directory none here: their pages are elsewhere, and still may not call the API.
    """

    domain: JobsDomain | None
    directory: IJobDirectory | None
    api: bool = True

    def route(self, head: RequestHead) -> Route | Awaitable[Route]:
        """See `IRouter.route`."""
        if self.domain is not None and self.directory is not None:
            host = b"".join(field_values(head.headers, b"host"))
            address = self.domain.parse_address(head.target, host)
            if address is not None:
                return _find(self.directory, head, address)
            if self.domain.is_like_an_address(head.target, host):
                # A browser that mistypes it must not be asked for the API's password.
                return render_unknown_page(request=head.headers)
        if not self.api:
            return render_unknown_page(request=head.headers)
        if self.domain is not None and _comes_from_a_page(head):
            return render_page(403, "Not from here", _NOT_FROM_HERE, request=head.headers)
        return _unreadable(head) or _API

    async def unreachable(self, head: RequestHead, target: Target) -> Page | None:
        """See `IRouter.unreachable`."""
        if self.directory is None:
            return None
        if await self.directory.has_ended(target.number):
            return render_unknown_page(target.number, head.headers)
        self.directory.doubt(target.number, target.host, target.port)
        return None


async def _find(directory: IJobDirectory, head: RequestHead, address: JobAddress) -> Route:
    found = await directory.resolve(address.number)
    if isinstance(found, Service):
        return _aim(head, address, found)
    if isinstance(found, Waiting):
        return render_waiting_page(address.number, found, head.headers)
    return render_unknown_page(address.number, head.headers)


def _unreadable(head: RequestHead) -> Page | None:
    """What to answer a request that the API's site would drop without a word."""
    if not head.target.isascii():
        sentence = "The path holds bytes that are not percent-encoded."
        return render_bad_request_page(400, sentence, head.headers)
    size = sum(len(name) + len(value) + 2 for name, value in head.headers)
    if size + len(head.method) + len(head.target) + 10 > _API_HEAD:
        sentence = f"The head of a request to the API is larger than {_API_HEAD} bytes."
        return render_bad_request_page(431, sentence, head.headers)
    if len(head.headers) > _API_FIELDS:
        sentence = f"The head of a request to the API has over {_API_FIELDS} fields."
        return render_bad_request_page(431, sentence, head.headers)
    return None


def _comes_from_a_page(head: RequestHead) -> bool:
    # By path a job's pages share the API's origin, and whoever may call the API may have its
    # password cached in his browser: no page's script, form or frame is to call it in his name.
    site = field_values(head.headers, b"sec-fetch-site")
    return bool(field_values(head.headers, b"origin")) or site not in ([], [b"none"])


def _aim(head: RequestHead, address: JobAddress, service: Service) -> Target | Page:
    strip = service.strip_prefix and bool(address.prefix)
    rest = head.target[len(address.prefix) :]
    if strip and not rest.startswith(b"/") and head.method in (b"GET", b"HEAD"):
        # Relative references would lead out of the job's address without the slash.
        return render_moved_page(address.prefix + b"/" + rest)
    return Target(
        number=address.number,
        host=service.host,
        port=service.port,
        prefix=address.prefix,
        strip_prefix=strip,
    )
