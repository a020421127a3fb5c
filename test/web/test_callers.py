"""Callers without the key, and callers that go away."""

from __future__ import annotations

import base64
from unittest.mock import patch

from twisted.internet.defer import Deferred

from jarvice_slurmd import errors
from jarvice_slurmd.web.request import STRANGERS_BODY
from test.web.caller import FORM, ApiTestCase, form
from test.web.questions import QUESTIONS, REF, SUBMIT


class KeyTests(ApiTestCase):
    """JARVICE_SCHED_SERVER_KEY."""

    server_key = "user:pässword:with colon"

    def header(self, credentials: bytes, scheme: str = "Basic") -> dict[str, str]:
        return {"Authorization": f"{scheme} {base64.b64encode(credentials).decode()}"}

    def test_probes_are_open(self) -> None:
        """/live and /ready need no key."""
        self.assertEqual(self.get("/live").status, 200)
        self.assertEqual(self.get("/ready").status, 200)

    def test_right(self) -> None:
        """HTTP Basic, its scheme in any case."""
        assert self.server_key is not None
        for scheme in ("Basic", "basic", "BASIC"):
            headers = self.header(self.server_key.encode(), scheme)
            self.assertEqual(self.call("GET", "/running", headers).status, 200)

    def test_wrong(self) -> None:
        """Everything else is 401, asks for it, and asks the cluster nothing."""
        assert self.server_key is not None
        right = self.server_key.encode()
        for headers in (
            {},
            {"Authorization": ""},
            {"Authorization": "Basic"},
            {"Authorization": "Basic !!!"},
            self.header(right, "Bearer"),
            self.header(b"user"),
            self.header(b"user:"),
            self.header(right[:-1]),
            self.header(right + b"x"),
            self.header(right.upper()),
            self.header(right + b"\n"),
        ):
            for method, target, args in (
                *QUESTIONS,
                ("GET", "/gc", None),
                ("GET", "/nodes", None),
            ):
                sent = {**headers, "Content-Type": FORM}
                response = self.call(method, target, sent, form(args) if args is not None else b"")
                self.assertNotIn("word", self.assert_error(response, 401).replace("password", ""))
                self.assertTrue(response.headers["www-authenticate"].startswith("Basic "))
        self.assertEqual(self.scheduler.calls, [])

    def test_bytes_that_are_no_text(self) -> None:
        """Headers in no encoding are refused, not an error of ours."""
        connection = self.connect()
        connection.send(
            b"GET /running HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \xff\xfe\r\n\r\n"
        )
        response = connection.receive()
        assert response is not None
        self.assert_error(response, 401)

    def test_before_anything_else(self) -> None:
        """Without the key nobody learns which method or argument would be right."""
        for method, target in (("DELETE", "/submit"), ("POST", "/submit"), ("GET", "/request/x")):
            self.assert_error(self.call(method, target), 401)

    def test_no_endpoint(self) -> None:
        """Nor which paths there are: 401 like the others, 404 with the key."""
        assert self.server_key is not None
        right, wrong = self.header(self.server_key.encode()), self.header(b"user:x")
        for path in ("/", "/nope", "/job7/", "/live2", "/live/x", "/ready/x/y", "/running/x", "//"):
            for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
                for headers in ({}, wrong):
                    response = self.call(method, path, headers)
                    self.assertEqual(response.status, 401, (method, path))
                    self.assertIn("www-authenticate", response.headers)
                self.assertEqual(self.call(method, path, right).status, 404, (method, path))
        self.assert_error(self.call("GET", "/nope"), 401, "JARVICE_SCHED_SERVER_KEY")
        self.assert_error(self.call("GET", "/nope", right), 404, "/nope")

    def test_large_body(self) -> None:
        """Without the key none is read to its end: 401 as soon as it is seen to be large."""
        assert self.server_key is not None
        right, wrong = self.header(self.server_key.encode()), self.header(b"user:x")
        head = "POST /submit HTTP/1.1\r\nHost: x\r\n"
        for headers in ({}, wrong):
            fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            for length, pieces in (
                (f"Content-Length: {STRANGERS_BODY + 1}\r\n", 0),
                ("Transfer-Encoding: chunked\r\n", 70),
            ):
                connection = self.connect()
                connection.send(f"{head}{fields}{length}\r\n".encode())
                for _ in range(pieces):
                    connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
                response = connection.receive()
                assert response is not None
                self.assert_error(response, 401, "JARVICE_SCHED_SERVER_KEY")
                self.assertTrue(response.headers["www-authenticate"].startswith("Basic "))
                self.assertTrue(connection.ended)
        body = b"x" * (STRANGERS_BODY + 1)
        self.assert_error(self.call("POST", "/submit", right, body), 400)
        self.assert_error(self.call("POST", "/submit", {}, body[1:]), 401)

    def test_constant_time(self) -> None:
        """The comparison is hmac's, also where there are no credentials to compare."""
        for headers in ({}, self.header(b"user:x")):
            with patch("hmac.compare_digest", return_value=False) as compare:
                self.call("GET", "/running", headers)
            self.assertEqual(compare.call_count, 1)


class LeavingTests(ApiTestCase):
    """A caller that goes away."""

    def begin(self, method: str, target: str, args: object) -> list[object]:
        """Ask, leave before the answer; what was cancelled by that."""
        cancelled: list[object] = []
        self.scheduler.hold = Deferred(cancelled.append)
        connection = self.connect()
        headers = {"Content-Type": FORM} if method == "POST" else {}
        connection.request(method, target, headers, form(args) if method == "POST" else b"")
        self.assertNoResult(self.requests.when_idle())
        connection.leave()
        return cancelled

    def test_question(self) -> None:
        """What was only a question is cancelled."""
        for method, target, args in QUESTIONS:
            if target.endswith(("status", "running", "queued", "events", "pvcls")):
                self.assertEqual(len(self.begin(method, target, args)), 1, target)
                self.successResultOf(self.requests.when_idle())

    def test_change(self) -> None:
        """What changes something goes on to its end, and a stop waits for it."""
        for target in ("/submit", "/terminate", "/release", "/request/x/7/41/abort"):
            args = SUBMIT if target == "/submit" else REF
            self.scheduler.jobs.clear()
            self.assertEqual(self.begin("POST", target, args), [], target)
            idle = self.requests.when_idle()
            self.assertNoResult(idle)
            assert self.scheduler.hold is not None
            self.scheduler.error = None
            self.scheduler.hold.callback(None)
            self.successResultOf(idle)

    def test_submit_is_done(self) -> None:
        """The job is there, though nobody was told."""
        self.begin("POST", "/submit", SUBMIT)
        assert self.scheduler.hold is not None
        self.scheduler.hold.callback(None)
        self.assertEqual([job.name for job in self.scheduler.jobs.values()], ["x"])

    def test_answer_that_comes_too_late(self) -> None:
        """It is dropped without an error."""
        self.begin("POST", "/terminate", REF)
        assert self.scheduler.hold is not None
        self.scheduler.error = errors.LinkLostError("lost")
        self.scheduler.hold.callback(None)
        self.successResultOf(self.requests.when_idle())
