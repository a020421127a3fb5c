"""The whole URL tree on one screen (PROTOCOL §1)."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import combinedLogFormatter, datetimeToLogString
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from jarvice_slurmd.web.api import Api
from jarvice_slurmd.web.outages import Outages
from jarvice_slurmd.web.request import ApiRequest
from jarvice_slurmd.web.resource import Handler, LeafResource, NotFoundResource, Requests

#: Upstream gives a cluster 20 to 30 s (PROTOCOL §1); one command may take 20 (Settings).
ANSWER_SECONDS: Final = 24.0


class RootResource(Resource):
    """Finds the endpoint of a path; what is none gets an answer that says so."""

    def __init__(self, server_key: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._nowhere = NotFoundResource(server_key)

    def getChild(self, path: bytes, request: ApiRequest) -> Resource:
        """See twisted.web.resource.Resource.getChild."""
        return self._nowhere


def make_site(
    api: Api,
    requests: Requests,
    *,
    outages: Outages,
    server_key: str | None,
    max_body_bytes: int,
    reactor: IReactorTime,
    answer_seconds: float = ANSWER_SECONDS,
) -> Site:
    """The site of the API.

    `server_key` is ``user:password``, None when nobody has to say it; `max_body_bytes` bounds a
    request's body, `answer_seconds` how long its caller waits for an answer.
    """

    def leaf(
        method: str,
        handler: Handler,
        *,
        is_question: bool = True,
        is_open: bool = False,
        takes_below: bool = False,
    ) -> LeafResource:
        return LeafResource(
            method,
            handler,
            requests=requests,
            outages=outages,
            clock=reactor,
            answer_seconds=answer_seconds,
            server_key=server_key,
            is_open=is_open,
            is_question=is_question,
            takes_below=takes_below,
        )

    tree: dict[bytes, Resource] = {
        b"live": leaf("GET", api.live, is_open=True),
        b"ready": leaf("GET", api.ready, is_open=True),
        b"gc": leaf("GET", api.gc, is_question=False),
        b"nodes": leaf("GET", api.nodes),
        b"running": leaf("GET", api.running),
        b"queued": leaf("GET", api.queued),
        b"submit": leaf("POST", api.submit, is_question=False),
        b"runstatus": leaf("POST", api.runstatus),
        b"exitstatus": leaf("POST", api.exitstatus),
        b"terminate": leaf("POST", api.terminate, is_question=False),
        b"release": leaf("POST", api.release, is_question=False),
        b"events": leaf("POST", api.events),
        b"online": leaf("POST", api.online),
        b"request": _RequestResource(
            pvcls=leaf("POST", api.pvcls),
            question=leaf("POST", api.request, takes_below=True),
            change=leaf("POST", api.request, is_question=False, takes_below=True),
        ),
    }
    root = RootResource(server_key)
    for path, resource in tree.items():
        root.putChild(path, resource)

    class BoundedRequest(ApiRequest):
        pass

    BoundedRequest.max_body_bytes = max_body_bytes
    BoundedRequest.server_key = server_key
    BoundedRequest.clock = reactor
    site = Site(
        root,
        requestFactory=BoundedRequest,
        reactor=reactor,
        parsePOSTFormSubmission=False,
        logFormatter=_access_log_line,
    )
    site.displayTracebacks = False
    return site


def _access_log_line(_: str, request: IRequest) -> str:
    # twisted.web makes its time of the reactor's, which is not the time of day (service.py).
    line: str = combinedLogFormatter(datetimeToLogString(), request)
    return line


class _RequestResource(Resource):
    """/request/pvcls is the cluster's; everything else below /request is a job's.

    What ends a job goes on when its caller goes away; the rest are questions.
    """

    def __init__(
        self, *, pvcls: LeafResource, question: LeafResource, change: LeafResource
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pvcls = pvcls
        self._question = question
        self._change = change

    def getChild(self, path: bytes, request: ApiRequest) -> Resource:
        """See twisted.web.resource.Resource.getChild."""
        below = request.postpath or []
        if path == b"pvcls" and not any(below):
            return self._pvcls
        # The name is `path`; the number, the job id and the method follow.
        return self._change if below[2:] in ([b"shutdown"], [b"abort"]) else self._question

    def render(self, request: ApiRequest) -> int:
        """No job and no method at all."""
        return self._question.render(request)
