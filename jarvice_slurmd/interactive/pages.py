"""The pages that the tunnel endpoint makes itself: HTML for browsers, JSON for the rest; pure.

They need nothing from anywhere else, run no script, and those that tell of something that will
pass reload themselves.
"""

from __future__ import annotations

import json
from html import escape
from http import HTTPStatus
from typing import Final

from jarvice_slurmd.errors import (
    CommandTimedOutError,
    ForwardingRefusedError,
    JarviceSlurmdError,
    LinkLostError,
    NotConnectedError,
    SlurmUnavailableError,
    TunnelConnectError,
)
from jarvice_slurmd.interactive.head import (
    Headers,
    ResponseHead,
    field_values,
    render_response_head,
)
from jarvice_slurmd.interactive.interfaces import Page, Stage, Waiting


class ServiceEndedError(JarviceSlurmdError):
    """The job's service closed its connection, or spoke something else, instead of answering."""


#: Seconds until a page of something that will pass asks again.
RELOAD_SECONDS: Final = 3

_FIXED: Final = (
    (b"Cache-Control", b"no-store"),
    (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
)
_STAGES: Final = {
    Stage.QUEUED: ("Waiting in the queue", "The job waits for its turn on the cluster."),
    Stage.STARTING: ("Starting", "The job has its nodes and is starting up."),
    Stage.PORT_CLOSED: ("Almost there", "The job runs; its application does not answer yet."),
}
_HTML: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 17px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid;
  place-items: center; background: #f3f5f8; color: #1d2733; }}
main {{ max-width: 32rem; margin: 1rem; padding: 2rem 2.5rem; border-radius: 12px;
  background: #fff; box-shadow: 0 1px 12px #0002; }}
h1 {{ font-size: 1.5rem; margin: 0 0 .5rem; }}
p {{ margin: .5rem 0; overflow-wrap: anywhere; }}
small {{ color: #6b7785; }}
.bar {{ height: 4px; border-radius: 2px; margin: 1.5rem 0 1rem; overflow: hidden;
  background: #8883; }}
.bar i {{ display: block; width: 30%; height: 100%; border-radius: 2px; background: #2f74d0;
  animation: go 1.6s ease-in-out infinite alternate; }}
@keyframes go {{ from {{ margin-left: 0; }} to {{ margin-left: 70%; }} }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #161a20; color: #dfe5ec; }} main {{ background: #20262e; }} }}
</style></head>
<body><main><h1>{title}</h1><p>{sentence}</p>{detail}{waiting}</main></body></html>
"""
_WAITING: Final = '<div class="bar"><i></i></div><p><small>This page reloads by itself.</small></p>'


def render_answer(page: Page, *, close: bool, bodiless: bool = False) -> bytes:
    """A page as the response that a browser is sent; `bodiless` for HEAD."""
    fields: Headers = ((b"Content-Length", b"%d" % len(page.body)), *page.headers)
    if close:
        fields += ((b"Connection", b"close"),)
    reason = HTTPStatus(page.status).phrase.encode()
    head = ResponseHead(status=page.status, reason=reason, headers=fields)
    return render_response_head(head) + (b"" if bodiless else page.body)


def render_page(
    status: int,
    title: str,
    sentence: str,
    *,
    request: Headers = (),
    detail: str = "",
    state: str = "",
    reload: bool = False,
) -> Page:
    """One page in the form that the request's Accept field prefers.

    `title`, `sentence` and `detail` are plain text, `state` a word for programs. With `reload` a
    browser asks again after a few seconds, and a program is told to (Retry-After).
    """
    accept = b",".join(field_values(request, b"accept")).lower()
    if b"text/html" in accept:
        kind = b"text/html; charset=utf-8"
        text = _HTML.format(
            title=escape(title),
            sentence=escape(sentence),
            detail=f"<p><small>{escape(detail)}</small></p>" if detail else "",
            waiting=_WAITING if reload else "",
            refresh=f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">' if reload else "",
        )
    else:
        kind = b"application/json"
        answer = {"error": sentence}
        answer |= {"state": state} if state else {}
        answer |= {"detail": detail} if detail else {}
        text = json.dumps(answer) + "\n"
    fields: Headers = ((b"Content-Type", kind), *_FIXED, (b"Vary", b"Accept"))
    if reload:
        fields += ((b"Retry-After", b"%d" % RELOAD_SECONDS),)
    return Page(status=status, headers=fields, body=text.encode("utf-8", "replace"))


def render_waiting_page(number: int, waiting: Waiting, request: Headers = ()) -> Page:
    """The page of a job that is on its way."""
    title, sentence = _STAGES[waiting.stage]
    return render_page(
        503,
        f"Job {number}: {title.lower()}",
        sentence,
        detail=waiting.detail,
        state=waiting.stage.value,
        request=request,
        reload=True,
    )


def render_unknown_page(number: int | None = None, request: Headers = ()) -> Page:
    """The page of a number that leads nowhere, or of an address that is no job's."""
    name = "this address" if number is None else f"number {number}"
    return render_page(
        404,
        "No such job",
        f"No interactive job with {name} is queued or running. It may have ended."
        if number is not None
        else "There is no job at this address.",
        state="unknown",
        request=request,
    )


def render_bad_request_page(status: int, sentence: str, request: Headers = ()) -> Page:
    """The page of a request that can't be understood or is too large."""
    return render_page(status, "This request can't be answered", sentence, request=request)


def render_moved_page(location: bytes) -> Page:
    """A redirect to another path of the same host, for good and for every method."""
    return Page(status=308, headers=((b"Location", location),))


def render_error_page(error: BaseException, request: Headers = ()) -> Page:
    """The page of a job that should be there and can't be reached now."""
    status, title, sentence, reload = _explain(error)
    detail = str(error) if isinstance(error, JarviceSlurmdError) else ""
    return render_page(
        status,
        title,
        sentence,
        detail=detail,
        state="unreachable",
        request=request,
        reload=reload,
    )


def _explain(error: BaseException) -> tuple[int, str, str, bool]:
    if isinstance(error, NotConnectedError | LinkLostError):
        return 503, "The cluster can't be reached", "There is no link to the cluster now.", True
    if isinstance(error, SlurmUnavailableError):
        return 503, "The cluster is busy", "Slurm does not answer now.", True
    if isinstance(error, TimeoutError | CommandTimedOutError):
        return 504, "The job does not answer", "The job could not be reached in time.", True
    if isinstance(error, ForwardingRefusedError):
        return 502, "The way is closed", "The login node does not forward connections.", False
    if isinstance(error, TunnelConnectError):
        return 502, "The job does not answer", "Nothing answers at the job's port.", True
    if isinstance(error, ServiceEndedError):
        return 502, "The job's answer broke off", "The application closed the connection.", False
    if isinstance(error, JarviceSlurmdError):
        return 502, "The job can't be reached", "The job's application can't be reached.", False
    return (
        500,
        "Something went wrong here",
        "The fault is in the gateway; its log says more.",
        False,
    )
