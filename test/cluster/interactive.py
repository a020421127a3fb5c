"""What tests of interactive jobs stand on: the daemon with jobs' addresses, and jobs to open."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import treq
from attrs import frozen
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.threads import deferToThread

from deploy.demo.processes import free_port
from test.cluster.daemon import ClusterTestCase, DaemonClient, Job, Response, job_text
from test.interactive.loopback import Peer

reactor: Any = _reactor

APPLICATIONS = Path(__file__).parent / "applications"


def application_text(*words: str, before: str = "") -> str:
    """An interactive job's text that runs the small web application on its first node.

    `words` are its arguments; `before` is shell text that runs before it.
    """
    source = base64.b64encode((APPLICATIONS / "web.py").read_bytes()).decode()
    return interactive_text(
        f'{before}\nexec python3 -c "$(echo {source} | base64 -d)" {" ".join(words)}'
    )


def interactive_text(body: str) -> str:
    """An interactive job's text: shell text that runs on its first node."""
    alone = '[ "$PROCESS_PROCID" = 0 ] || exec sleep infinity'
    return job_text(f"{alone}\n{body}", JOBOBJ_INTERACTIVE="True")


@frozen(kw_only=True)
class Address:
    """Where a test's requests go: the daemon's port, the job's Host field, and its prefix."""

    port: int
    host: str
    prefix: str


class InteractiveTestCase(ClusterTestCase):
    """A test with interactive jobs, by path (`/job<number>/`) unless `by_host` is set."""

    by_host = False

    async def setUp(self) -> None:  # type: ignore[override]
        """Choose the public address of jobs first: it is the daemon's own."""
        self.port = self.public_port = free_port()
        self.domain = f"{'jobs.localhost' if self.by_host else '127.0.0.1'}:{self.port}"
        path = "" if self.by_host else "/job$"
        self.settings = {  # type: ignore[misc]
            **self.settings,
            "JARVICE_JOBS_DOMAIN": f"http://{self.domain}{path}",
            "JARVICE_JOBS_NAMESPACE": "jarvice",
        }
        await super().setUp()
        self.port = 0

    async def start(self, text: str, *, nodes: int = 1, **known: Any) -> Job:
        """Submit an interactive job, which is killed when the test ends."""
        job = await self.submit(text, nodes=nodes, **known)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end(job)))
        return job

    async def end(self, job: Job) -> None:
        """Kill a job, whatever has become of the daemon, and wait until its nodes are free."""
        kill = f"scancel --signal=KILL {job.jobid}.0; scancel {job.jobid}"
        await deferToThread(self.cluster.slurm, "sh", "-c", f"{kill}; true")

        async def is_over() -> bool:
            said = await deferToThread(
                self.cluster.slurm, "squeue", "--noheader", "--format=%i", "--states=PD,R,CG"
            )
            return job.jobid not in said.split()

        await self.until(is_over)

    async def info(self, job: Job) -> Any:
        """What upstream is told of the job."""
        response = await self.client.post(f"/request/{job.path}/info", {})
        self.assertEqual(response.code, 200, response.body)
        return response.json

    async def until_open(self, job: Job) -> str:
        """Wait until the job has an address; returns it."""
        found: list[str] = []

        async def has_url() -> bool:
            found[:] = [(await self.info(job))["url"]]
            return bool(found[0])

        await self.until(has_url)
        return found[0]

    def address(self, job: Job) -> Address:
        """Where the job's requests go."""
        if self.by_host:
            return Address(
                port=self.public_port, host=f"jarvice-{job.number}.{self.domain}", prefix=""
            )
        return Address(port=self.public_port, host=self.domain, prefix=f"/job{job.number}")

    async def ask(
        self,
        job: Job,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        client: DaemonClient | None = None,
    ) -> Response:
        """Ask the job as a browser does, this daemon's or another's; follows no redirect."""
        client = client or self.client
        address = self.address(job)
        fields: Any = {"Host": address.host, **(headers or {})}
        response = await treq.request(
            method,
            f"{client.url}{address.prefix}{path}",
            headers=fields,
            data=data,
            agent=client.agent,
            allow_redirects=False,
        )
        types = response.headers.getRawHeaders("Content-Type", [""])
        self.response_headers = response.headers
        return Response(code=response.code, content_type=types[0], body=await response.content())

    async def connect(self, port: int | None = None) -> Peer:
        """A raw connection to the daemon."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port or self.public_port)
        peer: Peer = await connectProtocol(endpoint, Peer())

        async def leave() -> None:
            if peer.lost is None:
                peer.reset()
            await peer.gone()

        self.addCleanup(lambda: Deferred.fromCoroutine(leave()))
        return peer

    async def request(self, job: Job, path: str, *fields: str, method: str = "GET") -> Peer:
        """Send a request's head on a connection of its own; read the rest from what is returned."""
        peer = await self.connect()
        address = self.address(job)
        lines = [f"{method} {address.prefix}{path} HTTP/1.1", f"Host: {address.host}", *fields]
        peer.send("\r\n".join([*lines, "", ""]).encode())
        return peer

    async def websocket(self, job: Job, path: str = "/websocket", *fields: str) -> Peer:
        """Open a WebSocket; the head of its answer has been read and is a switch."""
        peer = await self.request(
            job,
            path,
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *fields,
        )
        self.handshake = await peer.head()
        self.assertTrue(self.handshake.startswith(b"HTTP/1.1 101 "), self.handshake)
        return peer


def frame(payload: bytes, opcode: int = 2, *, mask: bytes = b"mask") -> bytes:
    """One whole WebSocket message as a browser sends it (RFC 6455 §5.2); unmasked without mask."""
    size = len(payload)
    bit = 128 if mask else 0
    if size < 126:
        head = bytes([128 | opcode, bit | size])
    elif size < 65_536:
        head = bytes([128 | opcode, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([128 | opcode, bit | 127]) + size.to_bytes(8, "big")
    if mask:
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return head + mask + payload
