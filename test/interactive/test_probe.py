"""What services answer to the probe, and what is concluded from it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import ForwardingRefusedError, NotConnectedError, TunnelConnectError
from jarvice_slurmd.interactive.probe import (
    PROBE_SECONDS,
    Place,
    ServiceProbe,
    SlowServiceError,
)
from test.interactive.fake_services import Answer, FakeServices, at_root, status, under_prefix

T = TypeVar("T")

PLACE = Place(host="n1", port=5902, name="d.com:8080")


class ProbeTestCase(SynchronousTestCase):
    """A probe, a service in memory and a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.services = FakeServices(self.clock)
        self.probe = ServiceProbe(opener=self.services, clock=self.clock)

    def serve(self, answer: Answer) -> None:
        """Have the service answer so."""
        self.services.answers["n1", 5902] = answer

    def start(self, question: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Ask, and let the clock's turns pass."""
        asked = Deferred.fromCoroutine(question)
        self.clock.pump([0] * 10)
        return asked


class AnswerTests(ProbeTestCase):
    """`answers`: whether there is one."""

    def status(self, said: bytes) -> int:
        """The status of an answer."""
        self.serve(lambda _: said)
        return self.successResultOf(self.start(self.probe.answers(PLACE, "/a"))).status

    def refusal(self, said: bytes) -> str:
        """Why an answer is none."""
        self.serve(lambda _: said)
        asked = self.start(self.probe.answers(PLACE, "/"))
        return str(self.failureResultOf(asked, TunnelConnectError).value)

    def test_any_status(self) -> None:
        """Whatever a service says, it is there; its body is not waited for."""
        for code in (200, 204, 302, 401, 404, 418, 500):
            self.assertEqual(self.status(status(code)), code)
        self.assertEqual(self.status(b"HTTP/1.0 200 OK\r\nContent-Length: 99999\r\n\r\nx"), 200)
        self.assertEqual(self.status(b"HTTP/1.1 200 OK\n\n"), 200)
        self.assertEqual(self.services.open_tunnels, 0)

    def test_interim_responses(self) -> None:
        """They come before the answer, and are none."""
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        self.assertEqual(self.status(hints + b"HTTP/1.1 100\r\n\r\n" + status(404)), 404)
        self.assertEqual(self.status(status(101)), 101)
        self.assertIn("not up yet", self.refusal(hints + status(502)))
        self.assertIn("does not speak HTTP", self.refusal(hints + b"SSH-2.0-x\r\n"))

    def test_request(self) -> None:
        """It is asked by the name that a browser will use, and closes."""
        self.status(status(200))
        self.assertTrue(self.services.requests[0].startswith("GET /a HTTP/1.1\r\n"))
        self.assertIn("\r\nHost: d.com:8080\r\n", self.services.requests[0])
        self.assertIn("\r\nConnection: close\r\n", self.services.requests[0])

    def test_gateway_without_its_application(self) -> None:
        """A gateway in the job that has nobody behind it yet is no service."""
        for code in (502, 503, 504):
            self.assertIn("not up yet", self.refusal(status(code)))

    def test_no_http(self) -> None:
        """What speaks something else is told by its first bytes, or by a head without end."""
        for said in (b"RFB 003.008\n", b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n\r\n", b"\0" * 10):
            self.assertIn("does not speak HTTP", self.refusal(said))
        self.assertIn("does not speak HTTP", self.refusal(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 99999))
        self.assertEqual(self.services.open_tunnels, 0)

    def test_closed_without_an_answer(self) -> None:
        """A service that closes has not answered."""
        self.serve(lambda _: None)
        asked = self.start(self.probe.answers(PLACE, "/"))
        self.assertNoResult(asked)
        for tunnel in self.services.tunnels:
            tunnel.loseConnection()
        self.clock.advance(0)
        self.failureResultOf(asked, TunnelConnectError)

    def test_slow(self) -> None:
        """An answer that does not begin in time is none, and its tunnel is closed."""
        self.serve(lambda _: None)
        asked = self.start(self.probe.answers(PLACE, "/"))
        self.clock.advance(PROBE_SECONDS - 0.1)
        self.assertNoResult(asked)
        self.clock.advance(0.2)
        self.failureResultOf(asked, TunnelConnectError)
        self.assertEqual(self.services.open_tunnels, 0)

    def test_patience(self) -> None:
        """Who asks says how long he waits; one that is slow is not one that is closed."""
        self.serve(lambda _: None)
        asked = self.start(self.probe.answers(PLACE, "/", 20.0))
        self.clock.advance(19.9)
        self.assertNoResult(asked)
        self.clock.advance(0.2)
        self.failureResultOf(asked, SlowServiceError)

    def test_tunnel_never_opens(self) -> None:
        """Nor is a tunnel waited for longer."""
        self.services.silent.add("n1")
        asked = self.start(self.probe.answers(PLACE, "/"))
        self.clock.advance(PROBE_SECONDS + 0.1)
        self.failureResultOf(asked, TunnelConnectError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_errors_of_the_opener(self) -> None:
        """Refused, forbidden and no link at all stay what they are."""
        self.failureResultOf(self.start(self.probe.answers(PLACE, "/")), TunnelConnectError)
        for error in (NotConnectedError("down"), ForwardingRefusedError("no")):
            self.services.error = error
            self.failureResultOf(self.start(self.probe.answers(PLACE, "/")), type(error))

    def test_left_while_asking(self) -> None:
        """Whoever leaves takes his tunnel with him."""
        self.serve(lambda _: None)
        asked = self.start(self.probe.answers(PLACE, "/"))
        asked.cancel()
        self.failureResultOf(asked)
        self.assertEqual(self.services.open_tunnels, 0)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.getTime() > 0], [])

    def test_is_open(self) -> None:
        """A port that is open is so whatever it says, a closed one is not."""
        self.serve(lambda _: None)
        self.successResultOf(self.start(self.probe.is_open(PLACE)))
        self.assertEqual((self.services.open_tunnels, self.services.requests), (0, []))
        del self.services.answers["n1", 5902]
        self.failureResultOf(self.start(self.probe.is_open(PLACE)), TunnelConnectError)


class PrefixTests(ProbeTestCase):
    """`serves_at_root`: whether a prefix has to be taken off."""

    def strips(self, answer: Answer, path: str = "") -> bool:
        """What is concluded about a service."""
        self.services.requests.clear()
        self.serve(answer)
        return self.successResultOf(self.start(self.probe.serves_at_root(PLACE, "/job7", path)))

    def pair(self, under: bytes, root: bytes) -> bool:
        """What is concluded of two answers: under the prefix, and at `/`."""
        return self.strips(lambda path: under if path.startswith("/job7") else root)

    def test_knows_nothing_of_it(self) -> None:
        """404 under the prefix settles it, whatever is at `/`."""
        self.assertTrue(self.strips(at_root))
        self.assertEqual(self.services.paths, ["/job7/"])

    def test_knows_it(self) -> None:
        """An application that leads into its prefix, as Jupyter, or answers only there."""
        self.assertFalse(self.strips(under_prefix))
        self.assertFalse(self.pair(status(200), status(404)))
        self.assertFalse(self.pair(status(200), status(302, "Location: /job7/")))
        self.assertFalse(self.pair(status(302, "Location: https://x/job7/lab"), status(404)))
        self.assertFalse(self.pair(status(401), status(404)))
        self.assertFalse(self.pair(status(403), status(200)))

    def test_same_everywhere(self) -> None:
        """One page for every path, one login for every path: it knows no prefix."""
        for code in (200, 401, 403, 500):
            self.assertTrue(self.pair(status(code), status(code)), code)
        login = status(302, "Location: /login")
        self.assertTrue(self.pair(login, login))
        self.assertTrue(self.pair(status(302, "Location: login"), status(302, "Location: login")))

    def test_open_first_page(self) -> None:
        """One that asks everywhere but at `/` who it is knows no prefix; one that asks there does.

        Nothing more is asked of one that is known by then.
        """
        for code in (401, 403):
            self.assertTrue(self.strips(lambda path: status(200 if path == "/" else code)))  # noqa: B023
            self.assertFalse(self.pair(status(code), status(200)))
        self.assertFalse(self.pair(status(401), status(302, "Location: /job7/")))
        self.assertEqual(self.services.paths, ["/job7/", "/"])

    def test_fails_under_the_prefix(self) -> None:
        """An application that breaks on a path it does not know serves at `/`."""
        for code in (400, 405, 500):
            self.assertTrue(self.pair(status(code), status(200)), code)

    def test_leads_out_of_it(self) -> None:
        """A redirect to a path that only begins with the same letters leads out."""
        self.assertTrue(self.pair(status(302, "Location: /job77/"), status(200)))
        self.assertFalse(self.pair(status(302, "Location: /job7"), status(200)))
        self.assertFalse(self.pair(status(302, "Location: https://[broken"), status(404)))

    def test_leads_to_another_site(self) -> None:
        """A login elsewhere says nothing of the prefix; one of the application's own does."""
        for elsewhere in ("https://sso.d.com/login?next=x", "//sso.d.com/login"):
            login = status(302, f"Location: {elsewhere}")
            self.assertFalse(self.pair(login, status(404)))
            self.assertFalse(self.pair(login, status(302, "Location: /job7/")))
            self.assertTrue(self.pair(login, login))
        for own in ("D.com:8080", "n1:5902", "localhost:5902", "127.0.0.1"):
            self.assertTrue(self.pair(status(302, f"Location: http://{own}/login"), status(200)))

    def test_path_of_the_template(self) -> None:
        """The application's own page is asked for: what is at `/` may be nothing at all."""

        def only_a_page(path: str) -> bytes:
            return status(200 if path == "/vnc.html" else 404)

        self.assertTrue(self.strips(only_a_page, "vnc.html"))
        self.assertEqual(self.services.paths, ["/job7/vnc.html"])

        def page_under_prefix(path: str) -> bytes:
            return status(200 if path == "/job7/vnc.html" else 404)

        self.assertFalse(self.strips(page_under_prefix, "vnc.html"))

    def test_not_up_yet(self) -> None:
        """Nothing is concluded while there is only a gateway's answer."""
        self.serve(lambda path: status(200 if path == "/" else 502))
        asked = self.start(self.probe.serves_at_root(PLACE, "/job7"))
        self.failureResultOf(asked, TunnelConnectError)
