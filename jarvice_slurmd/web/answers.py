"""What goes back, and the one table from domain errors to status codes."""

from __future__ import annotations

import json
from typing import Final

from attrs import frozen
from twisted.web import http

from jarvice_slurmd import errors
from jarvice_slurmd.errors import JarviceSlurmdError

#: PROTOCOL §1, "Errors". The first type that an error is an instance of decides.
STATUS_CODES: Final[tuple[tuple[type[JarviceSlurmdError], int], ...]] = (
    (errors.InvalidArgumentsError, 400),
    (errors.NotListableError, 401),
    (errors.UnknownJobError, 404),
    (errors.NoOutputError, 404),
    (errors.JobStillRunningError, 409),
    (errors.SlurmRefusedError, 502),
    (errors.SlurmOutputError, 502),
    (errors.OutputTooLargeError, 502),
    (errors.CommandTimedOutError, 504),
    (errors.SlurmUnavailableError, 503),
    (errors.StorageError, 503),
    (errors.RemoteShellError, 503),
)


@frozen(kw_only=True)
class Answer:
    """What goes back: a status code, a content type and the bytes; `error` is what they tell of."""

    code: int = 200
    content_type: str = "application/json"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    error: JarviceSlurmdError | None = None


def json_answer(value: object, code: int = 200, error: JarviceSlurmdError | None = None) -> Answer:
    """An answer in JSON; characters that UTF-8 can't say are replaced."""
    text = json.dumps(value, ensure_ascii=True)
    return Answer(code=code, body=text.encode("ascii"), error=error)


def error_answer(code: int, sentence: str, *headers: tuple[str, str]) -> Answer:
    """PROTOCOL §1: an object with one sentence that a person can act on."""
    answer = json_answer({"error": sentence}, code)
    return Answer(code=code, body=answer.body, headers=headers)


INTERNAL_ERROR: Final = error_answer(
    500, "something went wrong inside the scheduler; its log says what"
)

NOT_AUTHORISED: Final = error_answer(
    401,
    "this needs the user name and password of JARVICE_SCHED_SERVER_KEY",
    ("WWW-Authenticate", 'Basic realm="jarvice-slurmd", charset="UTF-8"'),
)


def answer_for(error: JarviceSlurmdError) -> Answer:
    """The answer that an error becomes."""
    for kind, code in STATUS_CODES:
        if isinstance(error, kind):
            return json_answer({"error": str(error)}, code, error)
    return INTERNAL_ERROR


def send(request: http.Request, answer: Answer) -> None:
    """Send an answer and end the request."""
    request.setResponseCode(answer.code)
    request.setHeader("Content-Type", answer.content_type)
    request.setHeader("Content-Length", str(len(answer.body)))
    request.setHeader("Cache-Control", "no-store")
    for name, value in answer.headers:
        request.setHeader(name, value)
    if request.method != b"HEAD":
        request.write(answer.body)
    request.finish()
