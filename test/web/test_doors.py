"""What never reaches an endpoint: methods, paths and bodies; clients that are slow or lost."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from jarvice_slurmd.web.site import ANSWER_SECONDS
from test.web.caller import FORM, ApiTestCase, form
from test.web.questions import QUESTIONS, REF, SUBMIT


class DoorTests(ApiTestCase):
    """Methods, paths and bodies."""

    def test_no_endpoint(self) -> None:
        """404 in JSON, whatever the path and method."""
        for path in (
            "/",
            "/nope",
            "/live2",
            "/%00%ff",
            "/..",
            "//live",
            "/favicon.ico",
            "/" + "x" * 5000,
        ):
            for method in ("GET", "POST", "DELETE"):
                self.assert_error(self.call(method, path), 404)

    def test_below_an_endpoint(self) -> None:
        """An endpoint has nothing below it."""
        for path in ("/live/x", "/running/x", "/request/pvcls/x/y/z"):
            response = self.call("GET" if "pvcls" not in path else "POST", path)
            if "pvcls" in path:
                self.assertEqual((response.status, response.body), (200, b""))
            else:
                self.assert_error(response, 404)

    def test_trailing_slash(self) -> None:
        """It does no harm."""
        self.assertEqual(self.get("/live/").status, 200)
        self.assertEqual(self.post("/runstatus/", REF).status, 200)
        self.assertEqual(self.post("/request/pvcls/", {"qs": {"path": ["/tmp"]}}).status, 200)

    def test_query_string(self) -> None:
        """It changes nothing."""
        self.assertEqual(self.get("/live?x=%ff").status, 200)

    def test_wrong_method(self) -> None:
        """405, naming the right one; nothing is asked."""
        for method, target, _ in QUESTIONS:
            wrong = "POST" if method == "GET" else "GET"
            for other in (wrong, "DELETE", "PUT", "PATCH", "OPTIONS", "X-Y"):
                response = self.call(other, target)
                self.assert_error(response, 405, method)
                self.assertEqual(response.headers["allow"], method)
        self.assertEqual(self.scheduler.calls, [])

    def test_head(self) -> None:
        """As GET, without the body; 405 where GET is."""
        whole = self.get("/running")
        connection = self.connect()
        connection.request("HEAD", "/running")
        response = connection.receive()
        assert response is not None
        self.assertEqual((response.status, response.body), (200, b""))
        self.assertEqual(response.headers["content-length"], str(len(whole.body)))
        self.assertEqual(self.call("HEAD", "/submit").status, 405)
        self.assertEqual(self.call("HEAD", "/nope").status, 404)

    def test_not_kept(self) -> None:
        """No answer is for a cache."""
        for path in ("/live", "/running", "/nope"):
            self.assertEqual(self.get(path).headers["cache-control"], "no-store")

    def test_pipelined(self) -> None:
        """Several requests on one connection are answered in order."""
        connection = self.connect()
        connection.send(
            b"GET /live HTTP/1.1\r\nHost: x\r\n\r\nGET /nodes HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        sent = connection.transport.value()
        self.assertLess(sent.index(b'"OK"'), sent.index(b"true"))

    def test_too_large(self) -> None:
        """413 before the body has come, and the connection ends."""
        connection = self.connect()
        connection.send(
            b"POST /submit HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        )
        response = connection.receive()
        assert response is not None
        self.assert_error(response, 413, "100000")
        self.assertTrue(connection.ended)

    def test_endless(self) -> None:
        """413 as soon as a body without a length has gone over the bound; no more is kept."""
        connection = self.connect()
        connection.send(b"POST /submit HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(200):
            connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        response = connection.receive()
        assert response is not None
        self.assert_error(response, 413)
        self.assertTrue(connection.ended)
        self.assertEqual(self.scheduler.calls, [])

    def test_just_not_too_large(self) -> None:
        """The bound itself is allowed."""
        body = form(REF) + b"&more="
        body += b"x" * (self.max_body_bytes - len(body))
        response = self.call("POST", "/runstatus", {"Content-Type": FORM}, body)
        self.assertEqual(response.status, 200)

    def test_slow_client(self) -> None:
        """A connection that stays half a request is closed."""
        for half in (
            b"",
            b"POST /sub",
            b"POST /submit HTTP/1.1\r\nContent-Length: 50\r\n\r\nargs=",
        ):
            connection = self.connect()
            connection.send(half)
            self.clock.pump([10] * 12)
            self.assertTrue(connection.ended, half)
        self.assertEqual(self.scheduler.calls, [])

    def test_dripping_body(self) -> None:
        """A body that comes a byte at a time is refused with a sentence, and not waited for."""
        connection = self.connect()
        head = f"POST /submit HTTP/1.1\r\nContent-Type: {FORM}\r\nContent-Length: 5000\r\n\r\n"
        connection.send(head.encode())
        for _ in range(13):
            connection.send(b"a")
            self.clock.advance(5)
        response = connection.receive()
        assert response is not None
        self.assert_error(response, 408, "did not come within 55 s")
        self.assertTrue(connection.ended)
        self.assertEqual(self.scheduler.calls, [])

    def test_body_in_time(self) -> None:
        """What came in time is not late afterwards."""
        connection = self.connect()
        connection.request("POST", "/online", {"Content-Type": FORM}, form({"host": "n1"}))
        response = connection.receive()
        self.clock.advance(3)
        self.assertEqual(response and response.status, 200)
        connection.leave()
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def test_slow_cluster(self) -> None:
        """A caller who waits for the cluster is not taken for one."""
        self.scheduler.hold = Deferred()
        connection = self.connect()
        connection.request("GET", "/running")
        self.clock.pump([10] * 2)
        self.scheduler.hold.callback(None)
        response = connection.receive()
        self.assertEqual(response and response.status, 200)

    def test_too_slow_cluster(self) -> None:
        """A caller is told in time; then nobody waits for a question, and a submit goes on."""
        for method, target, args in (("GET", "/running", {}), ("POST", "/submit", SUBMIT)):
            held: Deferred[None] = Deferred()
            self.scheduler.hold = held
            connection = self.connect()
            if method == "GET":
                connection.request(method, target)
            else:
                connection.request(method, target, {"Content-Type": FORM}, form(args))
            self.clock.pump([ANSWER_SECONDS / 4] * 4)
            response = connection.receive()
            assert response is not None
            self.assert_error(response, 504, "did not answer within 24 s")
            self.assertEqual(held.called, method == "GET")
            if not held.called:
                held.callback(None)
        self.assertEqual(len(self.scheduler.jobs), 1)

    def test_no_http(self) -> None:
        """What is no HTTP is refused and closed."""
        for junk in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n", b"x" * 70_000):
            connection = self.connect()
            connection.send(junk)
            self.assertTrue(connection.ended, junk[:20])
