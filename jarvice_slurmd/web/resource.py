"""Asynchronous resources: one endpoint each, asked for the key, answered in time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.resource import Resource

from jarvice_slurmd.errors import CommandTimedOutError, JarviceSlurmdError
from jarvice_slurmd.web.answers import (
    INTERNAL_ERROR,
    NOT_AUTHORISED,
    Answer,
    answer_for,
    error_answer,
    send,
)
from jarvice_slurmd.web.outages import Outages
from jarvice_slurmd.web.request import ApiRequest, says_key

_log = logging.getLogger(__name__)


class Requests:
    """The requests in flight, so that a stop can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self._idle: list[Deferred[None]] = []

    def began(self) -> None:
        """A request has begun to be answered."""
        self._count += 1

    def ended(self) -> None:
        """A request has been answered, or its caller has gone."""
        self._count -= 1
        if not self._count:
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)

    def when_idle(self) -> Deferred[None]:
        """Fires when no request is in flight."""
        waiting: Deferred[None] = Deferred(lambda it: self._idle.remove(it))
        self._idle.append(waiting)
        if not self._count:
            self._idle.remove(waiting)
            waiting.callback(None)
        return waiting


Handler = Callable[[ApiRequest], Awaitable[Answer]]


class LeafResource(Resource):
    """One endpoint: one method, one handler.

    `server_key` is ``user:password``, None when nobody has to say it; of an endpoint that `is_open`
    nobody has to, only of the paths below it, which are none.
    `is_question` says that the handler changes nothing: its caller's going away cancels it.
    `takes_below` says that the paths below are the handler's too. `answer_seconds` is how long a
    caller waits at most: then it is told so, and what is no question goes on without it.
    """

    isLeaf = True

    def __init__(
        self,
        method: str,
        handler: Handler,
        *,
        requests: Requests,
        outages: Outages,
        clock: IReactorTime,
        answer_seconds: float,
        server_key: str | None = None,
        is_open: bool = False,
        is_question: bool = True,
        takes_below: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._method = method
        self._handler = handler
        self._requests = requests
        self._outages = outages
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._server_key = server_key
        self._is_open = is_open
        self._is_question = is_question
        self._takes_below = takes_below

    def render(self, request: ApiRequest) -> int:
        """Start answering; see twisted.web.resource.Resource.render."""
        self._requests.began()
        asked_at = self._clock.seconds()
        answering = Deferred.fromCoroutine(self._answer(request, asked_at))
        over = False

        def finish(answer: Answer | None) -> None:
            nonlocal over
            if not over:
                over = True
                late.cancel()
                if answer is not None:
                    send(request, answer)

        def left(_: object) -> None:
            finish(None)
            if self._is_question:
                answering.cancel()

        def too_late() -> None:
            nonlocal over
            over = True
            error = CommandTimedOutError(
                f"the cluster did not answer within {self._answer_seconds:g} s"
            )
            self._outages.failed(_endpoint(request), 504, error, asked_at=asked_at)
            send(request, answer_for(error))
            if self._is_question:
                answering.cancel()

        def ended(outcome: Answer | Failure) -> None:
            if isinstance(outcome, Failure):
                if not (over and outcome.check(CancelledError)):
                    _log.error("Answering %s failed:\n%s", request, outcome.getTraceback())
                outcome = INTERNAL_ERROR
            finish(outcome)
            self._requests.ended()

        late = self._clock.callLater(self._answer_seconds, too_late)
        request.notifyFinish().addErrback(left)
        answering.addBoth(ended)
        return server.NOT_DONE_YET

    async def _answer(self, request: ApiRequest, asked_at: float) -> Answer:
        if any(request.postpath or ()) and not self._takes_below:
            return _not_found(request, self._server_key)
        if not self._is_open and not says_key(request, self._server_key):
            return NOT_AUTHORISED
        method = request.method.decode("ascii", "replace")
        if method != self._method and (method, self._method) != ("HEAD", "GET"):
            return error_answer(
                405,
                f"{method} is not what this endpoint takes: {self._method}",
                ("Allow", self._method),
            )
        try:
            answer = await self._handler(request)
        except JarviceSlurmdError as error:
            answer = answer_for(error)
        endpoint = _endpoint(request)
        if answer.error is not None:
            self._outages.failed(endpoint, answer.code, answer.error, asked_at=asked_at)
        elif answer.code < 500:
            self._outages.answered(endpoint)
        return answer


def _endpoint(request: http.Request) -> str:
    """An endpoint's name in the log: one for all jobs."""
    segments = request.path.decode("ascii", "backslashreplace").split("/")
    name = f"request/…/{segments[-1]}" if segments[1:2] == ["request"] else segments[1]
    return f"{request.method.decode('ascii', 'backslashreplace')} /{name}"


class NotFoundResource(Resource):
    """What answers for every path that is no endpoint."""

    isLeaf = True

    def __init__(self, server_key: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._server_key = server_key

    def render(self, request: ApiRequest) -> int:
        """Answer 404, or 401 to who has not said the key."""
        send(request, _not_found(request, self._server_key))
        return server.NOT_DONE_YET


def _not_found(request: http.Request, server_key: str | None) -> Answer:
    # Which paths there are is not for strangers either.
    if not says_key(request, server_key):
        return NOT_AUTHORISED
    path = request.path.decode("ascii", "backslashreplace")
    return error_answer(404, f"there is no endpoint {path[:200]}")
