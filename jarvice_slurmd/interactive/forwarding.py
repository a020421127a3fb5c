"""What changes in a head on its way to a job and back; pure.

RFC 9110 §7.6.1 for the fields of one connection, and the rules of this endpoint: the job sees who
asked and how, and never what opens the API.
"""

from __future__ import annotations

import re
from base64 import b64decode
from hmac import compare_digest
from typing import Final

from attrs import frozen

from jarvice_slurmd.interactive.head import (
    Headers,
    RequestHead,
    ResponseHead,
    field_values,
    list_tokens,
    transfer_codings,
)
from jarvice_slurmd.interactive.interfaces import Target
from jarvice_slurmd.interactive.mending import (
    ORIGIN_WIDE,
    PublicSite,
    bound_worker_scope,
    is_under,
    mend_cookie,
    mend_location,
    mend_refresh,
    mend_worker_scope,
    plain_authority,
)

_OF_ONE_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"upgrade",
        b"http2-settings",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
    }
)
# Fields that Connection may not name: without them the message would be another one.
_NEVER_NOMINATED: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"set-cookie", b"authorization"}
)
_FORWARDED: Final = frozenset(
    {
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"x-forwarded-port",
        b"forwarded",
        b"x-real-ip",
    }
)
# What CGI-like applications would read as the field with hyphens, past all of the above.
_UNDERSCORED: Final = _FORWARDED | _OF_ONE_CONNECTION | _NEVER_NOMINATED
# Alternative services speak of a hop that is not theirs; Clear-Site-Data clears the cookies of the
# whole registrable domain, by host too.
_NEVER_BACK: Final = frozenset({b"alt-svc", b"clear-site-data", b"set-cookie2"})
_PROXY_ORDERS: Final = frozenset({b"x-sendfile", b"x-lighttpd-send-file", b"x-reproxy-url"})
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/]")


@frozen(kw_only=True)
class Caller:
    """Who asks: the address of the connection's far end, and whether it came over TLS."""

    address: bytes
    secure: bool = False


@frozen(kw_only=True)
class Rules:
    """What holds for every request.

    `server_key` is the API's own `user:password` (PROTOCOL §1); `trust_forwarded` says that an
    ingress stands before us, whose X-Forwarded fields are true.
    """

    server_key: bytes | None = None
    trust_forwarded: bool = True


def forward_request(
    head: RequestHead, *, target: Target, caller: Caller, rules: Rules, websocket: bool = False
) -> RequestHead:
    """The head that the job's service is sent; `websocket` says that it may switch to one."""
    nominated = set(list_tokens(head.headers, b"connection")) - _NEVER_NOMINATED
    site = public_site(head, target)
    fields = [
        (name, value)
        for name, value in head.headers
        if _passes(name.lower(), value, nominated, rules)
        # HTTP/1.0 has no interim responses (RFC 9110 §10.1.1).
        and (head.minor or name.lower() != b"expect")
    ]
    if target.strip_prefix:
        fields = [
            (name, _strip_destination(value, site) if name.lower() == b"destination" else value)
            for name, value in fields
        ]
    if not field_values(head.headers, b"host"):
        fields.insert(
            0, (b"Host", b"%b:%d" % (target.host.encode("ascii", "replace"), target.port))
        )
    fields += _forwarded_fields(head, target, caller, rules)
    options = []
    if b"trailers" in list_tokens(head.headers, b"te"):
        options.append(b"TE")
        fields.append((b"TE", b"trailers"))
    if websocket:
        options.append(b"Upgrade")
        fields.append((b"Upgrade", b"websocket"))
    if options:
        fields.append((b"Connection", b", ".join(options)))
    return RequestHead(
        method=head.method,
        target=_strip(head.target, target) if target.strip_prefix else head.target,
        headers=tuple(fields),
    )


def return_response(
    head: ResponseHead, *, site: PublicSite, close: bool = False, unchunk: bool = False
) -> ResponseHead:
    """The head that the browser is sent.

    `close` tells it that our connection ends with this response; `unchunk` that its chunks are
    taken apart, because it speaks HTTP/1.0.
    """
    nominated = set(list_tokens(head.headers, b"connection")) - _NEVER_NOMINATED
    drop = nominated | _OF_ONE_CONNECTION | _NEVER_BACK
    if site.prefix:
        drop |= ORIGIN_WIDE
    bodiless = head.status < 200 or head.status == 204
    length = None if bodiless else _one_length(head)
    if not transfer_codings(head):
        drop.add(b"transfer-encoding")
    if unchunk or bodiless:
        drop |= {b"transfer-encoding", b"trailer"}
    scope = bound_worker_scope(site)
    if scope is not None:
        drop.add(b"service-worker-allowed")
    fields = []
    for name, value in head.headers:
        lower = name.lower()
        if lower in drop or _is_order_to_proxy(lower):
            continue
        if lower == b"content-length":
            mended, length = length, None
        else:
            mended = _mend(lower, value, site)
        if mended is not None:
            fields.append((name, mended))
    if scope is not None:
        fields.append((b"Service-Worker-Allowed", scope))
    if head.status == 101:
        fields += [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
    elif close and head.status >= 200:
        fields.append((b"Connection", b"close"))
    return ResponseHead(status=head.status, reason=head.reason, headers=tuple(fields))


def _one_length(head: ResponseHead) -> bytes | None:
    """The length that a response states, if it does; several equal ones are one (RFC 9110 §8.6)."""
    lengths = set(list_tokens(head.headers, b"content-length"))
    return lengths.pop() if len(lengths) == 1 and not transfer_codings(head) else None


def _is_order_to_proxy(lower: bytes) -> bool:
    # Files and places of a proxy in front of us that no job may name. That its answer is not to be
    # buffered, a job may say.
    return lower in _PROXY_ORDERS or (
        lower.startswith(b"x-accel-") and lower != b"x-accel-buffering"
    )


def public_site(head: RequestHead, target: Target) -> PublicSite:
    """How the job of a request is seen from outside, as the request itself tells."""
    names = field_values(head.headers, b"host") + field_values(head.headers, b"x-forwarded-host")
    inner = target.host.encode("ascii", "replace")
    for name in (inner, b"localhost", b"127.0.0.1"):
        names.append(b"%b:%d" % (name, target.port))
    return PublicSite(
        prefix=target.prefix,
        strip_prefix=target.strip_prefix and bool(target.prefix),
        authorities=frozenset(plain_authority(name) for name in names),
        path=head.target.partition(b"?")[0],
    )


def _passes(lower: bytes, value: bytes, nominated: set[bytes], rules: Rules) -> bool:
    if (
        lower in nominated
        or lower in _OF_ONE_CONNECTION
        or lower in _FORWARDED
        or lower == b"proxy"
    ):
        return False
    if b"_" in lower and lower.replace(b"_", b"-") in _UNDERSCORED:
        return False
    return not (lower == b"authorization" and _opens_api(value, rules.server_key))


def _opens_api(value: bytes, server_key: bytes | None) -> bool:
    """Whether a job could read the API's key in an Authorization field, however it is spelled."""
    if server_key is None:
        return False
    for part in value.split(b","):
        scheme, *credentials = part.split(None, 1)[:2] or [b""]
        if scheme.lower() == b"basic":
            text = b"".join(credentials).translate(bytes.maketrans(b"-_", b"+/"))
            # Decoders disagree on what stands behind a padding.
            for spelling in (text, text.partition(b"=")[0]):
                if compare_digest(_decode_base64(spelling), server_key):
                    return True
    return False


def _decode_base64(text: bytes) -> bytes:
    """What any decoder could make of it: foreign bytes passed over, padding put right."""
    text = _NOT_BASE64.sub(b"", text)
    text = text[: len(text) - (len(text) % 4 == 1)]
    return b64decode(text + b"=" * (-len(text) % 4))


def _forwarded_fields(
    head: RequestHead, target: Target, caller: Caller, rules: Rules
) -> list[tuple[bytes, bytes]]:
    given: Headers = head.headers if rules.trust_forwarded else ()
    addresses = [*field_values(given, b"x-forwarded-for"), caller.address]
    proto = field_values(given, b"x-forwarded-proto") or [b"https" if caller.secure else b"http"]
    host = field_values(given, b"x-forwarded-host") or field_values(head.headers, b"host")
    fields = [
        (b"X-Forwarded-For", b", ".join(addresses)),
        (b"X-Forwarded-Proto", proto[0]),
        *((b"X-Forwarded-Host", value) for value in host[:1]),
    ]
    outer = b"".join(field_values(given, b"x-forwarded-prefix")[:1]).rstrip(b"/")
    prefix = outer + (target.prefix if target.strip_prefix else b"")
    if prefix:
        fields.append((b"X-Forwarded-Prefix", prefix))
    fields += [
        (name, value)
        for name, value in given
        if name.lower() in (b"x-forwarded-port", b"x-real-ip", b"forwarded")
    ]
    return fields


def _strip(path: bytes, target: Target) -> bytes:
    if not target.prefix or not is_under(path, target.prefix):
        return path
    rest = path[len(target.prefix) :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _strip_destination(value: bytes, site: PublicSite) -> bytes:
    # WebDAV's MOVE and COPY name their other path in this field (RFC 4918 §10.3).
    before, slashes, rest = value.partition(b"//")
    authority, slash, path = rest.partition(b"/") if slashes else (b"", b"/", value[1:])
    full = slash + path
    if not is_under(full, site.prefix):
        return value
    stripped = full[len(site.prefix) :] or b"/"
    return before + slashes + authority + stripped if slashes else stripped


def _mend(lower: bytes, value: bytes, site: PublicSite) -> bytes | None:
    if lower == b"set-cookie":
        return mend_cookie(value, site)
    if lower in (b"location", b"content-location"):
        return mend_location(value, site)
    if lower == b"refresh":
        return mend_refresh(value, site)
    if lower == b"service-worker-allowed":
        return mend_worker_scope(value, site)
    return value
