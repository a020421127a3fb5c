"""What tests of the API on a real cluster stand on: the daemon in this process, asked over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any, ClassVar

import treq
from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool
from zope.interface import implementer

from jarvice_slurmd.daemon import DaemonService, make_daemon
from jarvice_slurmd.settings import Settings
from test.cluster.harness import DevCluster, shared_cluster

_numbers = count(1)

#: Seconds a test waits for what a cluster does by itself; far more than it ever needs.
PATIENCE = 60.0


@frozen(kw_only=True)
class Response:
    """A response: its status code, content type, and body."""

    code: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@frozen(kw_only=True)
class Job:
    """A submitted job, as upstream remembers it."""

    name: str
    number: int
    jobid: str

    @property
    def ref(self) -> dict[str, object]:
        """The arguments by which upstream names it."""
        return {"name": self.name, "number": self.number, "jobid": self.jobid}

    @property
    def path(self) -> str:
        """Its path below /request/."""
        return f"{self.name}/{self.number}/{self.jobid}"


def job_text(body: str, **head: object) -> str:
    """A batch job's text around a shell body; `head` adds to or changes its head's keys."""
    keys: dict[str, object] = {
        "JOBOBJ_APPDEFVERSION": 2,
        "JOBOBJ_INTERACTIVE": "False",
        "JOBOBJ_DEVICES": '["exclusive=False"]',
        "JARVICE_CPU_CORES": 1,
        **head,
    }
    lines = "\n".join(f"{key}={value}" for key, value in keys.items())
    return f': <<"JOBOBJ_EOF"\n{lines}\nJOBOBJ_EOF\n{{DOWNSTREAM_PARAMETERS}}\n{body}\n'


class DaemonClient:
    """Asks one daemon as upstream does."""

    def __init__(self, url: str, agent: Agent) -> None:
        self.url = url
        self.agent = agent

    async def get(self, path: str, **keywords: Any) -> Response:
        """GET a path."""
        return await self._read(treq.get(f"{self.url}{path}", agent=self.agent, **keywords))

    async def post(self, path: str, args: Mapping[str, object], **keywords: Any) -> Response:
        """POST arguments to a path."""
        form = {"args": json.dumps(args)}
        url = f"{self.url}{path}"
        return await self._read(treq.post(url, data=form, agent=self.agent, **keywords))

    async def _read(self, asking: Awaitable[Any]) -> Response:
        response = await asking
        types = response.headers.getRawHeaders("Content-Type", [""])
        body = await response.content()
        return Response(code=response.code, content_type=types[0], body=body)


class ClusterTestCase(TestCase):
    """A test with a daemon in this process, in front of the shared cluster.

    Override `make_cluster` for another one; `settings` changes environment variables. `port` is
    where the next daemon listens, 0 for any port.
    """

    port = 0

    timeout = 180
    settings: ClassVar[Mapping[str, str]] = {}

    def make_cluster(self) -> DevCluster:
        """The cluster that the test's daemon stands before."""
        return shared_cluster()

    async def setUp(self) -> None:  # type: ignore[override]
        """Start the daemon and wait until it is ready."""
        self.cluster = self.make_cluster()
        self.daemon, self.client = await self.start_daemon(**self.settings)
        await self.until(self.is_ready)

    async def start_daemon(self, **settings: str) -> tuple[DaemonService, DaemonClient]:
        """Start a daemon on a port of its own; it is stopped when the test ends."""
        environ = {**self.cluster.env(), **settings}
        daemon = make_daemon(Settings.from_environ(environ), [], reactor)
        listener = ListeningEndpoint(TCP4ServerEndpoint(reactor, self.port, interface="127.0.0.1"))
        daemon.listen(listener)
        daemon.startService()
        self.addCleanup(daemon.stopService)
        pool = HTTPConnectionPool(reactor, persistent=True)
        self.addCleanup(pool.closeCachedConnections)
        port = (await listener.listening).getHost().port
        return daemon, DaemonClient(f"http://127.0.0.1:{port}", Agent(reactor, pool=pool))

    async def is_ready(self) -> bool:
        """Whether /ready says so."""
        return (await self.client.get("/ready")).code == 200

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        """Wait until a condition holds; fails when it does not for far too long."""
        deadline = reactor.seconds() + PATIENCE
        while not await condition():
            self.assertLess(reactor.seconds(), deadline, f"{condition} never came true")
            await deferLater(reactor, 0.1)

    async def submit(self, text: str, *, nodes: int = 1, held: bool = False, **known: Any) -> Job:
        """Submit a job that must be accepted; `name` and `number` may be given."""
        job, response = await self.try_submit(text, nodes=nodes, held=held, **known)
        self.assertEqual(response.code, 200, response.body)
        return Job(name=job.name, number=job.number, jobid=response.json[0])

    async def try_submit(
        self,
        text: str,
        *,
        nodes: int = 1,
        held: bool = False,
        name: str | None = None,
        number: int | None = None,
    ) -> tuple[Job, Response]:
        """Submit a job; returns what was asked, its job id empty, and the response."""
        number = number or next(_numbers)
        job = Job(
            name=name or f"20261123050000-{number:05d}-app_1-some_user-x_s1",
            number=number,
            jobid="",
        )
        encoded = base64.b64encode(text.encode("utf-8")).decode("ascii")
        args = {
            "name": job.name,
            "number": job.number,
            "nodes": nodes,
            "hpc_script": {"singularity": encoded},
            "held": held,
        }
        return job, await self.client.post("/submit", args)

    async def listed(self, endpoint: str, job: Job) -> bool:
        """Whether /running or /queued has the job."""
        response = await self.client.get(endpoint)
        self.assertEqual(response.code, 200, response.body)
        return [job.name, job.jobid] in response.json

    async def until_running(self, job: Job) -> None:
        """Wait until the job runs."""
        await self.until(lambda: self.listed("/running", job))

    async def end_of(self, job: Job) -> Any:
        """Wait until the job has ended; returns what /exitstatus answers."""
        answers: list[Response] = []

        async def has_ended() -> bool:
            answers[:] = [await self.client.post("/exitstatus", job.ref)]
            return answers[0].code != 409

        await self.until(has_ended)
        self.assertEqual(answers[0].code, 200, answers[0].body)
        return answers[0].json

    async def forgotten(self, job: Job) -> None:
        """Wait until Slurm itself no longer knows the job (MinJobAge after its end)."""

        async def is_forgotten() -> bool:
            return b"Invalid job id" in self.cluster.ssh(f"squeue -j {job.jobid}").stderr

        await self.until(is_forgotten)


@implementer(IStreamServerEndpoint)
class ListeningEndpoint:
    """An endpoint that tells which port it came to listen on."""

    def __init__(self, endpoint: TCP4ServerEndpoint) -> None:
        self.listening: Deferred[Any] = Deferred()
        self._endpoint = endpoint

    def listen(self, factory: Any) -> Deferred[Any]:
        """See IStreamServerEndpoint.listen."""
        listening = self._endpoint.listen(factory)
        listening.chainDeferred(self.listening)
        return self.listening
