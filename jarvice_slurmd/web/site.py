"""The whole URL tree on one screen (PROTOCOL §1)."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Site

from jarvice_slurmd.web.api import Api
from jarvice_slurmd.web.resource import (
    ApiRequest,
    Handler,
    LeafResource,
    NotFoundResource,
    Requests,
)


class RootResource(Resource):
    """Finds the endpoint of a path; what is none gets an answer that says so."""

    def getChild(self, path: bytes, request: ApiRequest) -> Resource:
        """See twisted.web.resource.Resource.getChild."""
        return NotFoundResource()  # type: ignore[no-untyped-call]


def make_site(
    api: Api,
    requests: Requests,
    *,
    server_key: str | None,
    max_body_bytes: int,
    reactor: IReactorTime,
) -> Site:
    """The site of the API.

    `server_key` is ``user:password``, None when nobody has to say it; `max_body_bytes` bounds a
    request's body.
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
            server_key=None if is_open else server_key,
            is_question=is_question,
            takes_below=takes_below,
        )

    request = leaf("POST", api.request, is_question=False, takes_below=True)
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
        b"request": _RequestResource(leaf("POST", api.pvcls), request),
    }
    root = RootResource()  # type: ignore[no-untyped-call]
    for path, resource in tree.items():
        root.putChild(path, resource)

    class BoundedRequest(ApiRequest):
        pass

    BoundedRequest.max_body_bytes = max_body_bytes
    site = Site(root, requestFactory=BoundedRequest, reactor=reactor, parsePOSTFormSubmission=False)
    site.displayTracebacks = False
    return site


class _RequestResource(Resource):
    """/request/pvcls is the cluster's; everything else below /request is a job's."""

    def __init__(self, pvcls: LeafResource, request: LeafResource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pvcls = pvcls
        self._request = request

    def getChild(self, path: bytes, request: ApiRequest) -> Resource:
        """See twisted.web.resource.Resource.getChild."""
        is_pvcls = path == b"pvcls" and not any(request.postpath or ())
        return self._pvcls if is_pvcls else self._request

    def render(self, request: ApiRequest) -> int:
        """No job and no method at all."""
        return self._request.render(request)
