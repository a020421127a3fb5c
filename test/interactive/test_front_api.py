"""The API's own site behind the endpoint, and requests for several places on one connection."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from jarvice_slurmd.daemon import make_daemon
from jarvice_slurmd.interactive.interfaces import IJobDirectory, Service, Stage, Unknown, Waiting
from jarvice_slurmd.interactive.routing import JobRouter, JobsDomain
from jarvice_slurmd.web.api import Api
from jarvice_slurmd.web.outages import Outages
from jarvice_slurmd.web.readiness import Readiness
from jarvice_slurmd.web.resource import Requests
from jarvice_slurmd.web.site import make_site
from test.fakes import SETTINGS, FakeScheduler
from test.interactive.fake_services import BY_HOST, BY_PATH
from test.interactive.loopback import GatewayCase, reactor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Root(Resource):
    """Answers with what it was asked; `/slow` waits for the test, `/stream` for its bytes."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []
        self.waiting: Deferred[Request] = Deferred()
        self.ends: list[Deferred[Any]] = []

    def render(self, request: Request) -> Any:
        self.asked.append(request.method + b" " + request.uri)
        if request.path in (b"/slow", b"/stream"):
            self.ends.append(request.notifyFinish())
            waiting, self.waiting = self.waiting, Deferred()
            waiting.callback(request)
            return NOT_DONE_YET
        body = request.content.read() if request.content else b""
        address = request.getClientAddress()
        return b"%b %b|%b|%s" % (
            request.method,
            request.uri,
            body,
            str(getattr(address, "port", address)).encode(),
        )


class ApiTests(GatewayCase):
    """What upstream sees of the API through the endpoint: the site itself."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = reactor
        self.root = _Root()
        self.site = Site(self.root, reactor=reactor)

    async def test_request_and_client_address(self) -> None:
        self.start()
        client = await self.connect()
        for _ in range(3):
            client.send(b"POST /submit HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\na=b")
            self.assertIn(b"HTTP/1.1 200 OK", await client.head())
            port = client.transport.getHost().port
            await client.until(b"POST /submit|a=b|%d" % port)

    async def test_chunked_request_with_expect(self) -> None:
        self.start()
        client = await self.connect()
        client.send(
            b"POST /submit HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        self.assertEqual(await client.head(), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"3\r\na=b\r\n0\r\n\r\n")
        await client.until(b"POST /submit|a=b|")

    async def test_http_1_0_and_close(self) -> None:
        self.start()
        for request in (
            b"GET /live HTTP/1.0\r\n\r\n",
            b"GET /live HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n",
        ):
            client = await self.connect()
            client.send(request)
            self.assertIn(b"GET /live||", await client.rest())
            await client.gone()
            self.assertFalse(client.was_reset)

    async def test_head_request(self) -> None:
        self.start()
        client = await self.connect()
        client.send(b"HEAD /a HTTP/1.1\r\nHost: d\r\n\r\nGET /b HTTP/1.1\r\nHost: d\r\n\r\n")
        self.assertIn(b"HTTP/1.1 200 OK", await client.head())
        await client.until(b"GET /b|")

    async def test_pipelined(self) -> None:
        self.start()
        client = await self.connect()
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: d\r\n\r\n" % n for n in range(200)))
        for number in range(200):
            await client.head()
            await client.until(b"GET /%d||%d" % (number, client.transport.getHost().port))

    async def test_answer_streams(self) -> None:
        self.start()
        client = await self.connect()
        waiting = self.root.waiting
        client.send(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n")
        request = await waiting
        request.write(b"one")
        self.assertIn(b"chunked", await client.head())
        await client.until(b"one\r\n")
        request.write(b"two")
        await client.until(b"two\r\n")
        request.finish()
        await client.until(b"0\r\n\r\n")

    async def test_length_then_late_finish(self) -> None:
        """The response is complete before the site has finished with its request."""
        self.start()
        client = await self.connect()
        waiting = self.root.waiting
        client.send(b"GET /slow HTTP/1.1\r\nHost: d\r\n\r\nGET /b HTTP/1.1\r\nHost: d\r\n\r\n")
        request = await waiting
        request.setHeader(b"content-length", b"2")
        request.write(b"ok")
        await client.until(b"ok")
        request.finish()
        await client.until(b"GET /b|")

    async def test_client_that_leaves_ends_the_request(self) -> None:
        self.start()
        client = await self.connect()
        waiting = self.root.waiting
        client.send(b"GET /slow HTTP/1.1\r\nHost: d\r\n\r\n")
        await waiting
        left: Deferred[None] = Deferred()
        self.root.ends[0].addErrback(lambda failure: left.callback(None))
        client.close()
        await left

    async def test_bad_request_of_the_sites_own(self) -> None:
        self.start()
        client = await self.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: d\r\n" + b"A: b\r\n" * 600 + b"\r\n")
        self.assertEqual(await client.rest(), b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def test_slow_client_pauses_the_site(self) -> None:
        self.start()
        client = await self.connect()
        waiting = self.root.waiting
        client.send(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n")
        request = await waiting
        self.root.ends[0].addErrback(lambda failure: None)
        producer = _Producer(request)
        request.registerProducer(producer, True)
        client.transport.pauseProducing()
        paused = producer.when_paused()
        producer.resumeProducing()
        await paused
        sent = producer.sent
        client.counting = True
        client.transport.resumeProducing()
        await client.when(lambda: producer.sent > sent + 10_000_000)
        request.unregisterProducer()
        producer.stopProducing()


class _Producer:
    """Writes for as long as it may."""

    def __init__(self, request: HTTPRequest) -> None:
        self.sent = 0
        self._request = request
        self._running = False
        self._paused: Deferred[None] | None = None

    def when_paused(self) -> Deferred[None]:
        self._paused = Deferred()
        return self._paused

    def resumeProducing(self) -> None:
        if not self._running:
            self._running = True
            reactor.callLater(0, self._write)

    def pauseProducing(self) -> None:
        self._running = False
        if self._paused is not None:
            paused, self._paused = self._paused, None
            paused.callback(None)

    def stopProducing(self) -> None:
        self._running = False

    def _write(self) -> None:
        if self._running:
            self._request.write(b"x" * 65536)
            self.sent += 65536
            reactor.callLater(0, self._write)


@implementer(IJobDirectory)
class _Directory:
    """One job, which waits."""

    async def resolve(self, number: int) -> Service | Waiting | Unknown:
        return Waiting(stage=Stage.QUEUED) if number == 7 else Unknown()

    async def has_ended(self, number: int) -> bool:
        raise AssertionError("there is no job whose port could be closed")

    def doubt(self, number: int, host: str, port: int) -> None:
        raise AssertionError("there is no job whose port could be closed")


class KeyTests(GatewayCase):
    """With JARVICE_SCHED_SERVER_KEY: jobs' own addresses are open, everything else wants it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = reactor
        scheduler, outages = FakeScheduler(), Outages(reactor)
        ready = Readiness(lambda: None, scheduler.check, reactor, outages)
        self.site = make_site(
            Api(scheduler, executor="singularity", readiness=ready),
            Requests(),
            outages=outages,
            server_key="user:word",
            max_body_bytes=1000,
            reactor=reactor,
        )

    async def ask(self, domain: JobsDomain, path: bytes, host: bytes = b"d.com") -> int:
        """The status of the answer to a GET without the key."""
        router = JobRouter(domain=domain, directory=_Directory())
        self.start(router=router)
        client = await self.connect()
        client.send(b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host))
        head, _, _ = (await client.rest()).partition(b"\r\n")
        return int(head.split(b" ")[1])

    async def test_by_path(self) -> None:
        for path, status in (
            (b"/job7/", 503),
            (b"/job8/", 404),
            (b"/job8/running", 404),
            (b"/job08/", 404),
            (b"/live", 200),
            (b"/running", 401),
            (b"/nowhere", 401),
            (b"/", 401),
            (b"/job", 401),
            (b"/jobs/7", 401),
            (b"/live/job7", 401),
        ):
            self.assertEqual(await self.ask(BY_PATH, path), status, path)

    async def test_by_host(self) -> None:
        for host, path, status in (
            (b"jarvice-7.d.com", b"/", 503),
            (b"jarvice-8.d.com", b"/running", 404),
            (b"d.com", b"/job7/", 401),
            (b"d.com", b"/", 401),
            (b"jarvice-x.d.com", b"/", 401),
        ):
            self.assertEqual(await self.ask(BY_HOST, path, host), status, (host, path))


class GuardTests(SynchronousTestCase):
    """The whole daemon where there are interactive jobs: no page calls its API."""

    def ask(self, port: int, path: bytes, *fields: bytes) -> int:
        """The status of the answer to a GET at one of the daemon's ports."""
        (factory,) = [server[1] for server in self.reactor.tcpServers if server[0] == port]
        channel: Any = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        channel.makeConnection(transport)
        lines = (b"GET %b HTTP/1.1" % path, b"Host: d.com", *fields, b"", b"")
        channel.dataReceived(b"\r\n".join(lines))
        self.reactor.pump([0] * 5)
        self.addCleanup(channel.connectionLost, Failure(ConnectionDone()))
        return int(transport.value().split(b" ")[1])

    def start(self, *jobs_endpoints: str, jobs_domain: str | None = "d.com/job$") -> None:
        """Start a daemon, its API at port 1."""
        self.reactor = MemoryReactorClock()
        key = ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )
        settings = evolve(SETTINGS, ssh_pkey=key.decode(), jobs_domain=jobs_domain)
        daemon = make_daemon(settings, ["tcp:1"], self.reactor, jobs_endpoints)
        daemon.startService()
        self.addCleanup(daemon.stopService)

    def test_no_page_calls_the_api(self) -> None:
        """Wherever jobs answer: their pages may know the API's address all the same."""
        for jobs_endpoints in ((), ("tcp:2",)):
            self.start(*jobs_endpoints)
            self.assertEqual(self.ask(1, b"/live"), 200)
            for origin in (b"Origin: https://d.com", b"Sec-Fetch-Site: same-origin"):
                self.assertEqual(self.ask(1, b"/live", origin), 403, (jobs_endpoints, origin))

    def test_listener_of_its_own(self) -> None:
        """It serves jobs and no API, the other one the API and no jobs."""
        self.start("tcp:2")
        self.assertEqual(self.ask(2, b"/live"), 404)
        self.assertEqual(self.ask(1, b"/job1/"), 404)
        self.assertEqual(self.ask(1, b"/job1/", b"Origin: https://d.com"), 403)

    def test_no_interactive_jobs(self) -> None:
        """Without them there is no page to be wary of."""
        self.start(jobs_domain=None)
        self.assertEqual(self.ask(1, b"/live", b"Origin: https://d.com"), 200)


class MixedTests(GatewayCase):
    """One connection for everything, as an ingress uses it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = reactor
        self.root = _Root()
        self.site = Site(self.root, reactor=reactor)

    async def test_job_api_job_pipelined(self) -> None:
        one, two = self.job(1), self.job(2, strip_prefix=True)
        self.start()
        client = await self.connect()
        client.send(
            b"POST /job1/a HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc"
            b"POST /running HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\nx\r\n0\r\n\r\n"
            b"GET /job2/b HTTP/1.1\r\nHost: d\r\n\r\n"
            b"GET /job3/c HTTP/1.1\r\nHost: d\r\n\r\n"
            b"GET /live HTTP/1.1\r\nHost: d\r\n\r\n"
        )
        first = await one.accept()
        await first.head()
        self.assertEqual(await first.exactly(3), b"abc")
        self.assertEqual(self.root.asked, [])
        first.send(OK)
        self.assertEqual(await client.exactly(len(OK)), OK)
        self.assertIn(b"200 OK", await client.head())
        await client.until(b"POST /running|x|%d" % client.transport.getHost().port)
        second = await two.accept()
        self.assertTrue((await second.head()).startswith(b"GET /b HTTP"))
        self.assertEqual(self.root.asked, [b"POST /running"])
        second.send(OK)
        self.assertEqual(await client.exactly(len(OK)), OK)
        self.assertIn(b"404", await client.head())
        await client.until(b"}\n")
        await client.head()
        await client.until(b"GET /live|")
        self.assertIsNone(client.lost)

    async def test_drain(self) -> None:
        one = self.job(1)
        front = self.start()
        busy, idle = await self.connect(), await self.connect()
        busy.send(b"GET /job1/ HTTP/1.1\r\nHost: d\r\n\r\n")
        idle.send(b"GET /live HTTP/1.1\r\nHost: d\r\n\r\n")
        await idle.until(b"GET /live|")
        service = await one.accept()
        await service.head()
        drained = front.drain()
        await idle.gone()
        service.send(OK)
        await busy.until(OK)
        await busy.gone()
        await drained
