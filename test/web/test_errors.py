"""Errors on the wire: every kind's status."""

from __future__ import annotations

import inspect

from twisted.internet.defer import CancelledError

from jarvice_slurmd import errors
from jarvice_slurmd.errors import JarviceSlurmdError
from test.web.caller import ApiTestCase, Response
from test.web.questions import QUESTIONS

_CODES: dict[type[JarviceSlurmdError], int] = {
    errors.InvalidArgumentsError: 400,
    errors.NotListableError: 401,
    errors.UnknownJobError: 404,
    errors.NoOutputError: 404,
    errors.JobStillRunningError: 409,
    errors.SlurmRefusedError: 502,
    errors.SlurmOutputError: 502,
    errors.OutputTooLargeError: 502,
    errors.SlurmUnavailableError: 503,
    errors.StorageError: 503,
    errors.NotConnectedError: 503,
    errors.LinkLostError: 503,
    errors.LoginShellError: 503,
    errors.CommandTimedOutError: 504,
}


class StatusTests(ApiTestCase):
    """PROTOCOL §1, "Errors"."""

    def ask(self, method: str, target: str, args: object) -> Response:
        return self.post(target, args) if method == "POST" else self.get(target)

    def test_every_error_of_every_endpoint(self) -> None:
        """Each kind has its status and its sentence, and none is ever an answer."""
        for error, code in _CODES.items():
            for method, target, args in QUESTIONS:
                self.scheduler.error = error("the sentence\u2028é")
                response = self.ask(method, target, args)
                self.assert_error(response, code, "the sentence\u2028é")

    def test_every_error_has_a_status(self) -> None:
        """A kind that is added to errors.py is not forgotten here."""
        kinds = {
            kind
            for _, kind in inspect.getmembers(errors, inspect.isclass)
            if issubclass(kind, JarviceSlurmdError)
            and not issubclass(kind, errors.TunnelError)
            and not any(below.__module__ == errors.__name__ for below in kind.__subclasses__())
        }
        self.assertEqual(kinds, _CODES.keys())

    def test_bug(self) -> None:
        """An error of our own is 500, tells nothing, and is in the log."""
        self.scheduler.error = ZeroDivisionError("secret")
        for method, target, args in QUESTIONS:
            with self.assertLogs("jarvice_slurmd.web.resource", "ERROR") as logged:
                response = self.ask(method, target, args)
            self.assertNotIn("secret", self.assert_error(response, 500))
            self.assertIn("ZeroDivisionError", logged.output[0])

    def test_cancelled_inside(self) -> None:
        """A question that was cancelled while its caller waits is answered too."""
        self.scheduler.error = CancelledError()
        with self.assertLogs("jarvice_slurmd.web.resource", "ERROR"):
            self.assert_error(self.get("/running"), 500)
