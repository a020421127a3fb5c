"""Interactive jobs on a real cluster: from a browser's connection to a port of a compute node."""

from __future__ import annotations

import hashlib
import json
import shlex
from typing import Any

import treq
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from deploy.demo.processes import Daemon, free_port
from deploy.devcluster import registry_images
from test.cluster.applications.web import pattern
from test.cluster.containers import ContainerTestCase
from test.cluster.daemon import job_text
from test.cluster.harness import DevCluster
from test.cluster.interactive import (
    InteractiveTestCase,
    application_text,
    frame,
    interactive_text,
)

reactor: Any = _reactor

# A service that ends every connection itself: after a whole response that did not say so, after one
# that is as long as it lasts (/until), in the middle of that when told to (/broken and /break), or
# after a WebSocket's handshake and a word (/websocket).
ENDING = """
import os, socket, struct, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
told = threading.Event()
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        name = self.path.split("/")[-1]
        self.send_response(101 if name == "websocket" else 200)
        if name == "websocket":
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
        elif name not in ("until", "broken"):
            self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"word")
        self.close_connection = True
        if name == "break":
            told.set()
        if name == "broken":
            told.wait()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
ThreadingHTTPServer(("0.0.0.0", int(os.environ["JARVICE_SERVICE_PORT"])), Handler).serve_forever()
"""
NOTHING = {"about": "", "help": "", "url": "", "actions": {}}
HTML = {"Accept": "text/html"}
MEGABYTE = 1024 * 1024


class AddressTests(InteractiveTestCase):
    """A job gets an address, by path."""

    async def test_whole_way(self) -> None:
        """Queued, starting, port not open, open, ended: `info` and the page tell each."""
        gate = self.cluster.scratch / "gate"
        text = application_text(before=f"until [ -e {gate} ]; do sleep 0.1; done")
        job = await self.start(text, held=True)
        self.assertEqual(await self.info(job), NOTHING)
        queued = await self.ask(job, "/")
        self.assertEqual((queued.code, queued.json["state"]), (503, "queued"))

        async def has_reason() -> bool:
            return bool((await self.ask(job, "/")).json.get("detail") == "JobHeldUser")

        # Within a second: Slurm is asked again.
        await self.until(has_reason)
        page = await self.ask(job, "/some/where", headers=HTML)
        self.assertEqual((page.code, page.content_type), (503, "text/html; charset=utf-8"))
        self.assertIn(b'http-equiv="refresh"', page.body)
        self.assertIn(b"JobHeldUser", page.body)

        await self.client.post("/release", job.ref)
        await self.until_running(job)

        async def has_port() -> bool:
            said = await self.ask(job, "/")
            self.assertEqual(said.code, 503)
            return bool(said.json["state"] == "port not open yet")

        await self.until(has_port)
        self.assertEqual(await self.info(job), NOTHING)
        gate.touch()
        self.addCleanup(gate.unlink)
        url = await self.until_open(job)
        self.assertEqual(url, f"http://127.0.0.1:{self.public_port}/job{job.number}/")
        page = await self.ask(job, "/")
        self.assertEqual((page.code, page.content_type), (200, "text/html; charset=utf-8"))
        self.assertIn(b"It runs on n", page.body)

        await self.client.post("/terminate", {**job.ref, "force": True})
        await self.end_of(job)

        async def is_gone() -> bool:
            return (await self.ask(job, "/")).code == 404

        await self.until(is_gone)
        self.assertEqual(await self.info(job), NOTHING)
        self.assertIn(b"No such job", (await self.ask(job, "/", headers=HTML)).body)

    async def test_two_nodes(self) -> None:
        """Each job on the node that it runs on; a third one waits and says for what."""
        jobs = [await self.start(application_text()) for _ in range(2)]
        third = await self.start(application_text())
        pages = []
        for job in jobs:
            await self.until_open(job)
            pages.append((await self.ask(job, "/")).body)
        nodes = {node for node in (b"n1", b"n2") for page in pages if b"on %b." % node in page}
        self.assertEqual(nodes, {b"n1", b"n2"}, pages)
        waiting = await self.ask(third, "/")
        self.assertEqual(waiting.json["state"], "queued")
        self.assertIn(waiting.json["detail"], ("Resources", "Priority"))
        await self.check_one_connection(*jobs)

    async def check_one_connection(self, first: Any, second: Any) -> None:
        """Requests for two jobs and for the API come down one connection, and each is answered."""
        peer = await self.connect()

        async def get(path: str) -> Any:
            peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await peer.head()
            self.assertTrue(head.startswith(b"HTTP/1.1 200 "), head)
            length = int(head.lower().split(b"content-length:")[1].split()[0])
            return json.loads(await peer.exactly(length))

        for _ in range(2):
            self.assertIn([first.name, first.jobid], await get("/running"))
            self.assertEqual((await get(f"/job{first.number}/echo"))["path"], "/echo")
            self.assertEqual((await get(f"/job{second.number}/echo?2"))["path"], "/echo?2")
            self.assertEqual(await get("/live"), {"status": "OK"})

    async def test_first_node(self) -> None:
        """The service of a job of two nodes is on its first one."""
        job = await self.start(application_text(), nodes=2)
        await self.until_open(job)
        self.assertIn(b"It runs on n1.", (await self.ask(job, "/")).body)

    async def test_only_what_is_ours(self) -> None:
        """Batch jobs and unknown numbers lead nowhere, whatever listens on their nodes."""
        batch = await self.submit(
            job_text("export JARVICE_SERVICE_PORT=30999; exec python3 -m http.server 30999")
        )
        await self.until_running(batch)
        self.assertEqual((await self.ask(batch, "/")).code, 404)
        self.assertEqual(await self.info(batch), NOTHING)
        for path in (f"/job{batch.number + 1000000}/", "/job99999999999999999/x"):
            response = await self.client.get(path)
            self.assertEqual((response.code, response.json["state"]), (404, "unknown"))
        await self.client.post("/terminate", {**batch.ref, "force": True})
        await self.end_of(batch)

    async def test_replicas(self) -> None:
        """Another daemon serves the same job under the same prefix, also when the first is gone."""
        job = await self.start(application_text("prefix"))
        await self.until_open(job)
        self.assertEqual((await self.ask(job, "/echo")).code, 200)
        _, other = await self.start_daemon(**self.settings)
        said = await self.ask(job, "/echo", client=other)
        self.assertEqual(said.json["path"], f"/job{job.number}/echo")
        await self.daemon.stopService()
        said = await self.ask(job, "/echo", client=other)
        self.assertEqual(said.json["path"], f"/job{job.number}/echo")
        self.client = other
        self.assertTrue((await self.info(job))["url"].endswith(f"/job{job.number}/"))


class PassingTests(InteractiveTestCase):
    """What passes between a browser and a job's service."""

    async def test_at_root(self) -> None:
        """Of an application that serves at `/` the prefix is taken off, and put on again."""
        job = await self.start(application_text())
        await self.until_open(job)
        prefix = f"/job{job.number}"
        body = pattern(100_000)
        said = (await self.ask(job, "/echo?a=%2f", method="PATCH", data=body)).json
        self.assertEqual((said["method"], said["path"]), ("PATCH", "/echo?a=%2f"))
        self.assertEqual((said["size"], said["sha256"]), (len(body), _sha256(body)))
        fields = {name.lower(): value for name, value in said["fields"]}
        self.assertEqual(fields["x-forwarded-prefix"], prefix)
        self.assertEqual(fields["x-forwarded-for"], "127.0.0.1")
        self.assertEqual(fields["host"], f"127.0.0.1:{self.public_port}")
        moved = await self.ask(job, "/cookies")
        self.assertEqual(moved.code, 302)
        self.assertEqual(self.response_headers.getRawHeaders("Location"), [f"{prefix}/echo"])
        self.assertEqual(
            self.response_headers.getRawHeaders("Set-Cookie"),
            [f"a=1; Path={prefix}/", f"b=2; HttpOnly; Path={prefix}/"],
        )
        bare = await self.ask(job, "")
        self.assertEqual(bare.code, 308)
        self.assertEqual(self.response_headers.getRawHeaders("Location"), [f"{prefix}/"])
        head = await self.ask(job, "/bytes?100000", method="HEAD")
        self.assertEqual((head.code, head.body), (200, b""))
        self.assertEqual(self.response_headers.getRawHeaders("Content-Length"), ["100000"])

    async def test_under_prefix(self) -> None:
        """An application that serves under its prefix sees it."""
        job = await self.start(application_text("prefix"))
        await self.until_open(job)
        said = (await self.ask(job, "/echo")).json
        self.assertEqual(said["path"], f"/job{job.number}/echo")
        self.assertNotIn("x-forwarded-prefix", {name.lower() for name, _ in said["fields"]})

    async def test_websocket(self) -> None:
        """The backend's own answer, then messages of every size, then the close."""
        job = await self.start(application_text())
        await self.until_open(job)
        peer = await self.websocket(
            job,
            "/websocket",
            "Sec-WebSocket-Protocol: chat, echo",
            "Sec-WebSocket-Extensions: permessage-deflate",
        )
        handshake = self.handshake.lower()
        self.assertIn(b"\r\nsec-websocket-protocol: echo\r\n", handshake)
        self.assertIn(b"\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n", handshake)
        self.assertNotIn(b"permessage-deflate", handshake)
        for message in (b"", b"x", pattern(125), pattern(126), pattern(70_000), pattern(20 << 20)):
            peer.send(frame(message))
            expected = frame(message, mask=b"")
            self.assertTrue(await peer.exactly(len(expected)) == expected, len(message))
        peer.send(frame(b"", 8))
        self.assertEqual(await peer.rest(), frame(b"", 8, mask=b""))

    async def test_events(self) -> None:
        """Each event comes when it is sent, not when the response ends."""
        job = await self.start(application_text())
        await self.until_open(job)
        peer = await self.request(job, "/events", "Accept: text/event-stream")
        self.assertIn(b"text/event-stream", await peer.head())
        await peer.until(b"data: event 1\n\n")
        for number in (2, 3, 4):
            self.assertEqual((await self.ask(job, "/events", method="POST")).code, 200)
            await peer.until(b"data: event %d\n\n" % number)

    async def test_transfers(self) -> None:
        """Much, both ways, arrives as it was sent; an upload without a length, when asked for."""
        size = 64 * MEGABYTE
        expected = _sha256(pattern(size))
        job = await self.start(application_text())
        await self.until_open(job)
        digest = hashlib.sha256()
        url = f"{self.client.url}/job{job.number}/bytes?{size}"
        response = await treq.get(url, agent=self.client.agent)
        await treq.collect(response, digest.update)
        self.assertEqual(digest.hexdigest(), expected)

        peer = await self.request(
            job, "/echo", "Transfer-Encoding: chunked", "Expect: 100-continue", method="PUT"
        )
        self.assertTrue((await peer.head()).startswith(b"HTTP/1.1 100 "))
        body = pattern(size)
        for at in range(0, size, MEGABYTE):
            peer.send(b"%x\r\n%b\r\n" % (MEGABYTE, body[at : at + MEGABYTE]))
        peer.send(b"0\r\n\r\n")
        await peer.head()
        said = json.loads(await peer.until(b"}"))
        self.assertEqual((said["size"], said["sha256"]), (size, expected))

    async def test_leaving(self) -> None:
        """A browser that leaves frees the service's connection; a job that ends, the browser's."""
        job = await self.start(application_text())
        await self.until_open(job)
        downloads = [await self.request(job, "/endless") for _ in range(3)]
        for peer in downloads:
            peer.counting = True
            await peer.when(lambda peer=peer: peer.count > MEGABYTE)  # type: ignore[misc]
        sockets = [await self.websocket(job) for _ in range(3)]
        self.assertEqual((await self.ask(job, "/connections")).body, b"6")
        downloads[0].reset()
        downloads[1].close()
        sockets[0].reset()
        sockets[1].close()

        async def are_closed() -> bool:
            return (await self.ask(job, "/connections")).body == b"2"

        await self.until(are_closed)
        await self.client.post("/terminate", {**job.ref, "force": True})
        await downloads[2].when(lambda: downloads[2].read_ended)
        await sockets[2].when(lambda: sockets[2].read_ended)


class OutageTests(InteractiveTestCase):
    """The link is cut."""

    async def test_link_is_cut(self) -> None:
        """Open tunnels end; a new request waits for the new link, and works."""
        job = await self.start(application_text())
        await self.until_open(job)
        peer = await self.websocket(job)
        self.addCleanup(deferToThread, self.cluster.start, "sshd")
        await deferToThread(self.cluster.stop, "sshd", kill=True)
        await peer.when(lambda: peer.read_ended)
        asked = await self.request(job, "/echo")
        await deferToThread(self.cluster.start, "sshd")
        self.assertTrue((await asked.head()).startswith(b"HTTP/1.1 200 "))
        peer = await self.websocket(job)
        peer.send(frame(b"again"))
        self.assertEqual(await peer.exactly(7), frame(b"again", mask=b""))


class HostTests(InteractiveTestCase):
    """Jobs with hosts of their own."""

    by_host = True

    async def test_by_host(self) -> None:
        """The job has its host to itself, the API every other one."""
        job = await self.start(application_text("prefix"))
        self.assertEqual(
            await self.until_open(job),
            f"http://jarvice-{job.number}.jobs.localhost:{self.public_port}/",
        )
        said = (await self.ask(job, "/echo")).json
        self.assertEqual(said["path"], "/echo")
        fields = {name.lower(): value for name, value in said["fields"]}
        self.assertEqual(fields["host"], f"jarvice-{job.number}.{self.domain}")
        self.assertNotIn("x-forwarded-prefix", fields)
        self.assertEqual((await self.ask(job, "/running")).code, 404)
        await self.ask(job, "/cookies")
        self.assertEqual(self.response_headers.getRawHeaders("Location"), ["/echo"])
        peer = await self.websocket(job)
        peer.send(frame(b"hello"))
        self.assertEqual(await peer.exactly(7), frame(b"hello", mask=b""))
        self.assertEqual((await self.client.get(f"/job{job.number}/echo")).code, 404)
        unknown = {"Host": f"jarvice-{job.number + 1000}.{self.domain}"}
        response = await self.client.get("/", headers=unknown)
        self.assertEqual((response.code, response.json["state"]), (404, "unknown"))


class ContainerTests(InteractiveTestCase, ContainerTestCase):
    """An interactive application in a container, described as `job`."""

    async def test_container(self) -> None:
        """It learns its port, and its image's words make URL and help where it has none."""
        registry_images.push_image(
            self.layout,
            "apps/page:latest",
            {
                "etc/NAE/url.txt": "https://%PUBLICADDR%:5902/page.html?p=%NIMBIXPASSWD%\n",
                "etc/NAE/help.html": "<a href='%CONNECTURL%'>Open it</a>\n",
            },
        )
        command = (
            "mkdir /page && echo in a container >/page/page.html &&"
            ' cp "$JARVICE_JOB_DIR/password" /page/password &&'
            ' exec httpd -f -p "$JARVICE_SERVICE_PORT" -h /page'
        )
        described = self.job(command, image="page", interactive=True, about="A page")
        job = await self.submit_job(described)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.end(job)))
        url = await self.until_open(job)
        info = await self.info(job)
        self.assertEqual(
            (info["about"], info["help"]), ("A page", f"<a href='{url}'>Open it</a>\n")
        )
        password = (await self.ask(job, "/password")).body.decode().strip()
        self.assertEqual(len(password), 16)
        self.assertTrue(url.endswith(f"/job{job.number}/page.html?p={password}"), url)
        self.assertEqual((await self.ask(job, "/page.html")).body, b"in a container\n")


class NoForwardingTests(InteractiveTestCase):
    """An sshd with `AllowTcpForwarding no`."""

    def make_cluster(self) -> DevCluster:
        """A cluster of this test's own."""
        cluster = DevCluster()
        self.addCleanup(cluster.down)
        cluster.up(nodes=1, sshd_options=["AllowTcpForwarding no"])
        return cluster

    async def test_exec_channel(self) -> None:
        """What the login node has reaches the port; that it had to is said once."""
        logged: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            logged.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        job = await self.start(application_text())
        await self.until_open(job)
        body = pattern(3 * MEGABYTE)
        for _ in range(3):
            said = (await self.ask(job, "/echo", method="PUT", data=body)).json
            self.assertEqual((said["size"], said["sha256"]), (len(body), _sha256(body)))
        self.assertEqual((await self.ask(job, f"/bytes?{len(body)}")).body, body)
        before = int((await self.ask(job, "/connections")).body)
        peer = await self.websocket(job)
        peer.send(frame(b"hello"))
        self.assertEqual(await peer.exactly(7), frame(b"hello", mask=b""))
        peer.close()

        async def is_closed() -> bool:
            return int((await self.ask(job, "/connections")).body) <= before

        await self.until(is_closed)
        told = [line for line in logged if "AllowTcpForwarding" in line]
        self.assertEqual(len(told), 1, logged)

    async def test_service_ends(self) -> None:
        """The service's own end of a connection is passed on through a relay, and no other."""
        job = await self.start(interactive_text(f"exec python3 -c {shlex.quote(ENDING)}"))
        await self.until_open(job)
        for _ in range(5):
            # The tunnel is kept, and given up when its end has come.
            self.assertEqual((await self.ask(job, "/kept")).body, b"word")
        peer = await self.request(job, "/until", "Connection: close")
        self.assertTrue((await peer.head()).startswith(b"HTTP/1.1 200 "))
        self.assertIn(b"word", await peer.rest())
        self.assertFalse(peer.was_reset)
        peer = await self.websocket(job)
        self.assertEqual(await peer.rest(), b"word")
        peer = await self.request(job, "/broken")
        await peer.until(b"word")
        self.assertEqual((await self.ask(job, "/break")).body, b"word")
        await peer.gone()
        self.assertTrue(peer.was_reset)


class DeployedTests(InteractiveTestCase):
    """The daemon as twistd starts it, with a listener for jobs alone."""

    async def test_listener_of_their_own(self) -> None:
        """`--jobs`: jobs answer there and only there, and the API only on its own."""
        lines: list[str] = []
        api, jobs = free_port(), free_port()
        endpoints = [f"tcp:{port}:interface=127.0.0.1" for port in (api, jobs)]
        daemon = Daemon.start(
            reactor,
            {**self.cluster.env(), **self.settings},
            ["--http", endpoints[0], "--jobs", endpoints[1]],
            lines.append,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        job = await self.start(application_text())
        await self.until_open(job)

        async def get(port: int, path: str) -> int:
            url = f"http://127.0.0.1:{port}{path}"
            return int((await treq.get(url, agent=self.client.agent)).code)

        async def answers() -> bool:
            self.assertFalse(daemon.ended.called, lines)
            try:
                return await get(jobs, f"/job{job.number}/echo") == 200
            except ConnectionRefusedError:
                return False

        await self.until(answers)
        for _ in range(3):
            self.assertEqual(await get(jobs, f"/job{job.number}/"), 200)
            self.assertEqual(await get(api, f"/job{job.number}/"), 404)
            self.assertEqual(await get(jobs, "/running"), 404)
            self.assertEqual(await get(jobs, "/live"), 404)
            self.assertEqual(await get(api, "/running"), 200)
        service = (self.cluster.scratch / f".jarvice/jobs/{job.jobid}/service").read_text()
        port, node, address = service.split()
        self.assertNotEqual(node, address)
        environ = self.cluster.env()
        login = f"{environ['JARVICE_SLURM_CLUSTER_ADDR']}:{environ['JARVICE_SLURM_CLUSTER_PORT']}"
        told = [line for line in lines if "Started proxy" in line]
        self.assertEqual(len(told), 1, lines)
        self.assertTrue(
            told[0].endswith(f" INFO Started proxy to {node}:{port} via SSH {login}"), told
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
