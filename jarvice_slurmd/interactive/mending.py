"""Addresses and cookies in a job's response, mended to hold where the browser sees the job; pure.

By path, all jobs and the API share one origin, so what a response may do to its origin as a whole
is taken back here too.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from attrs import frozen

_ABSOLUTE: Final = re.compile(rb"(?:(https?):)?//([^/?#\\]*)(.*)", re.IGNORECASE | re.DOTALL)
_REFRESH: Final = re.compile(
    rb"([0-9. \t]*[;,]?[ \t]*url[ \t]*=[ \t]*)(['\"]?)([^'\"]*)(.*)", re.IGNORECASE | re.DOTALL
)
# In a decoded path: dot segments, and what could become one if read once more; a comma makes two.
_LEADS_OUT: Final = re.compile(rb"/\.{1,2}(?![^/?#])|[\x00-\x1f\x7f\\%,]")
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}
# They speak for the whole origin, which by path is not the job's alone.
ORIGIN_WIDE: Final = frozenset(
    {b"nel", b"report-to", b"strict-transport-security", b"public-key-pins"}
)


@frozen(kw_only=True)
class PublicSite:
    """How one request's job is seen from outside.

    `prefix` and `strip_prefix` as in `Target`; `authorities` are all the names (lower case, as
    `plain_authority` gives them) by which the application may mean itself; `path` is the request's
    public path.
    """

    prefix: bytes = b""
    strip_prefix: bool = False
    authorities: frozenset[bytes] = frozenset()
    path: bytes = b"/"


def plain_authority(authority: bytes, scheme: bytes = b"") -> bytes:
    """A host and port to compare by: lower case, without a port that goes without saying."""
    authority = authority.lower()
    ports = [_DEFAULT_PORTS[scheme]] if scheme in _DEFAULT_PORTS else _DEFAULT_PORTS.values()
    for port in ports:
        authority = authority.removesuffix(port)
    return authority


def is_under(path: bytes, prefix: bytes) -> bool:
    """Whether a path lies under a prefix, segment by segment: `/job12` is not under `/job1`."""
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?")


def mend_location(url: bytes, site: PublicSite) -> bytes:
    """A reference as the browser needs it (Location, Content-Location).

    One that names the application's own host becomes a path, so it keeps the scheme and port that
    the browser used; a path gets the prefix that was taken off. Other hosts and relative paths
    stay as they are.
    """
    match = _ABSOLUTE.match(url)
    if match:
        scheme, authority, rest = match.groups()
        if plain_authority(authority, (scheme or b"").lower()) not in site.authorities:
            return url
        path = rest if rest.startswith(b"/") else b"/" + rest
        # A path that starts with two slashes would be taken for a host.
        if path.startswith((b"//", b"/\\")) and not site.strip_prefix:
            return url
    elif url.startswith(b"/"):
        path = url
    else:
        return url
    if site.strip_prefix and not is_under(path, site.prefix):
        return site.prefix + path
    return path


def mend_refresh(value: bytes, site: PublicSite) -> bytes:
    """The Refresh field, `5; url=/elsewhere`, with its reference mended."""
    match = _REFRESH.fullmatch(value)
    if match is None:
        return value
    start, quote, url, rest = match.groups()
    return start + quote + mend_location(url, site) + rest


def mend_cookie(value: bytes, site: PublicSite) -> bytes:
    """A Set-Cookie field that reaches this job and nothing else (RFC 6265 §4.1.2, §5.2).

    Domain goes, always. By path, Path is brought under the prefix: an application that serves at
    `/` speaks of paths below it, any other path would be the API's or another job's.
    """
    pair, *attributes = value.split(b";")
    kept = []
    path: bytes | None = None
    for attribute in attributes:
        name, _, content = attribute.partition(b"=")
        name = name.strip(b" \t").lower()
        if name == b"path":
            path = content.strip(b" \t")
        elif name != b"domain":
            kept.append(attribute)
    if path is not None and not path.startswith(b"/"):
        path = None  # The browser takes the default path then (RFC 6265 §5.2.4).
    if site.prefix:
        path = _cookie_path(path, site)
    if path is not None:
        kept.append(b" Path=" + path)
    return b";".join([pair, *kept])


def mend_worker_scope(value: bytes, site: PublicSite) -> bytes | None:
    """Service-Worker-Allowed, kept from covering more than the job; None takes the field away.

    Browsers read it as a URL: tabs are dropped, a backslash is a slash, `%2e` a dot, and dots are
    resolved. What any of that could lead out of the job is no scope.
    """
    if not site.prefix:
        return value
    if site.strip_prefix and value.startswith(b"/") and not is_under(value, site.prefix):
        value = site.prefix + value
    inside = value.startswith(site.prefix + b"/")
    return value if inside and not _LEADS_OUT.search(unquote_to_bytes(value)) else None


def bound_worker_scope(site: PublicSite) -> bytes | None:
    """The Service-Worker-Allowed that a response must have; None where the job's own may pass.

    A script may cover the folder that it is in: that of `/job1` itself is `/`, everyone's.
    """
    is_bare = bool(site.prefix) and not site.path.startswith(site.prefix + b"/")
    return site.prefix + b"/" if is_bare else None


def _cookie_path(path: bytes | None, site: PublicSite) -> bytes | None:
    if path is None:
        # The default path is the folder of the request's path: for `/job1` itself that is `/`.
        return None if site.path.startswith(site.prefix + b"/") else site.prefix + b"/"
    if is_under(path, site.prefix):
        return path
    return site.prefix + path if site.strip_prefix else site.prefix + b"/"
