"""Heads of requests and responses, read and written (RFC 9112 §2 to §6); no I/O.

Names keep their case, fields their order and repeated fields their number: an application behind
us sees what the browser sent. h11 would lower the names and sort nothing else; the tests hold
this parser against it instead. Of requests only what can be read in one way is accepted, since
two readings of one request are how requests are smuggled; of responses a little more.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from attrs import evolve, frozen

from jarvice_slurmd.errors import JarviceSlurmdError
from jarvice_slurmd.interactive.framing import (
    TOKEN,
    Body,
    ChunkedBody,
    ClosedBody,
    LengthBody,
)

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_NAME: Final = re.compile(TOKEN)
_REQUEST_LINE: Final = re.compile(
    rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])"
)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NOT_IN_REQUEST: Final = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
_NOT_IN_RESPONSE: Final = re.compile(rb"[\x00\r\n]")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:%\[\]]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


class BadHeadError(JarviceSlurmdError):
    """A head that is not HTTP/1.1, or could be read in two ways.

    `status` is the answer that RFC 9110 §15 has for it.
    """

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


@frozen(kw_only=True)
class RequestHead:
    """A request without its body. `target` is in origin-form, or `*` (RFC 9112 §3.2)."""

    method: bytes
    target: bytes
    minor: int = 1
    headers: Headers = ()


@frozen(kw_only=True)
class ResponseHead:
    """A response without its body; a `minor` of 0 is HTTP/1.0."""

    status: int
    reason: bytes = b""
    minor: int = 1
    headers: Headers = ()


def field_values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of all fields of a name, which is given in lower case, in their order."""
    return [value for field, value in headers if field.lower() == name]


def list_tokens(headers: Headers, name: bytes) -> list[bytes]:
    """The members of a comma-separated field, in lower case, over all its lines."""
    return [
        token
        for value in field_values(headers, name)
        for token in (part.strip(b" \t").lower() for part in value.split(b","))
        if token
    ]


def parse_request_head(block: bytes) -> RequestHead:
    """Read a request's head, from its first byte to the empty line that ends it.

    A target in absolute-form becomes origin-form, and its authority replaces Host (RFC 9112
    §3.2.2). Raises `BadHeadError`, and nothing else, whatever the bytes are.
    """
    lines = _split(block)
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadHeadError("The request line can't be read.")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadHeadError("Only HTTP/1.1 and HTTP/1.0 are spoken here.", 505)
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _NAME.fullmatch(name) or _NOT_IN_REQUEST.search(value):
            raise BadHeadError("A header field can't be read.")
        headers.append((name, value))
    head = RequestHead(
        method=method, target=target, minor=min(int(minor), 1), headers=tuple(headers)
    )
    return _settle_authority(head)


def parse_response_head(block: bytes) -> ResponseHead:
    """Read a response's head, as `parse_request_head` does a request's.

    Old servers are forgiven bare line feeds, folded fields and blanks before the colon: none of
    them leaves here (RFC 9112 §2.2, §5.1, §5.2).
    """
    lines = re.sub(rb"\r?\n[ \t]+", b" ", block).replace(b"\r\n", b"\n").split(b"\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise BadHeadError("The service's status line can't be read.", 502)
    headers = []
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if not colon or not _NAME.fullmatch(name) or _NOT_IN_RESPONSE.search(value):
            raise BadHeadError("A header field of the service's can't be read.", 502)
        headers.append((name, value.strip(b" \t")))
    return ResponseHead(
        status=int(match[2]),
        reason=match[3] or b"",
        minor=min(int(match[1]), 1),
        headers=tuple(headers),
    )


def render_request_head(head: RequestHead) -> bytes:
    """The bytes of a request's head."""
    return b"%b %b HTTP/1.%d\r\n%b\r\n" % (
        head.method,
        head.target,
        head.minor,
        _render_fields(head.headers),
    )


def render_response_head(head: ResponseHead) -> bytes:
    """The bytes of a response's head; ours is always HTTP/1.1 (RFC 9110 §6.2)."""
    fields = _render_fields(head.headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, fields)


def request_body(head: RequestHead) -> Body:
    """What follows a request's head (RFC 9112 §6.3); raises `BadHeadError` if that is unclear."""
    codings = field_values(head.headers, b"transfer-encoding")
    lengths = field_values(head.headers, b"content-length")
    if codings:
        if lengths or not head.minor:
            raise BadHeadError("Transfer-Encoding can't stand in this request.")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadHeadError("The only Transfer-Encoding understood is chunked.", 501)
        return ChunkedBody()
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise BadHeadError("Content-Length is not one number.")
    return LengthBody(int(lengths[0]) if lengths else 0)


def response_body(head: ResponseHead, method: bytes) -> Body:
    """What follows the head of the response to a `method` request; raises `BadHeadError`."""
    if method == b"HEAD" or head.status < 200 or head.status in (204, 304):
        return LengthBody(0)
    codings = transfer_codings(head)
    if codings:
        if b"chunked" in codings[:-1]:
            raise BadHeadError("The service's Transfer-Encoding can't be read.", 502)
        return ChunkedBody() if codings[-1] == b"chunked" else ClosedBody()
    lengths = set(list_tokens(head.headers, b"content-length"))
    if not lengths:
        return ClosedBody()
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise BadHeadError("The service's Content-Length is not one number.", 502)
    return LengthBody(int(length))


def transfer_codings(head: ResponseHead) -> list[bytes]:
    """The codings of a response's Transfer-Encoding; HTTP's first drafts' `identity` is none."""
    tokens = list_tokens(head.headers, b"transfer-encoding")
    return [token for token in tokens if token != b"identity"]


def wants_close(headers: Headers) -> bool:
    """Whether the sender closes its connection after this message (RFC 9112 §9.6)."""
    return b"close" in list_tokens(headers, b"connection")


def wants_websocket(head: RequestHead) -> bool:
    """Whether a request asks to go on as a WebSocket (RFC 6455 §4.1)."""
    return (
        head.method == b"GET"
        and head.minor == 1
        and b"upgrade" in list_tokens(head.headers, b"connection")
        and list_tokens(head.headers, b"upgrade") == [b"websocket"]
    )


def _split(block: bytes) -> list[bytes]:
    if not block.endswith(b"\r\n\r\n"):
        raise BadHeadError("The lines of the request do not end with CR LF.")
    return block[:-4].split(b"\r\n")


def _settle_authority(head: RequestHead) -> RequestHead:
    hosts = field_values(head.headers, b"host")
    if len(hosts) > 1 or (head.minor and not hosts):
        raise BadHeadError("The request must have one Host field.")
    if hosts and not _AUTHORITY.fullmatch(hosts[0]):
        raise BadHeadError("The Host field can't be read.")
    if head.method == b"CONNECT":
        raise BadHeadError("This is not a proxy.", 405)
    if head.target.startswith(b"/") or (head.target == b"*" and head.method == b"OPTIONS"):
        return head
    match = _ABSOLUTE.fullmatch(head.target)
    if match is None or not match[1] or not _AUTHORITY.fullmatch(match[1]):
        raise BadHeadError("The target of the request can't be read.")
    rest = match[2] if match[2].startswith(b"/") else b"/" + match[2]
    others = tuple(field for field in head.headers if field[0].lower() != b"host")
    return evolve(head, target=rest, headers=((b"Host", match[1]), *others))


def _render_fields(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in headers])
