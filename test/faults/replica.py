"""The daemon as it is deployed, a process of its own, and all that upstream can ask it at once."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import Agent, HTTPConnectionPool

from deploy.demo.processes import Daemon, free_port
from test.cluster.daemon import DaemonClient, Job, Response, job_text

_PREFIX = re.compile(r"\A\S+ \S+ \[\d+\] ([A-Z]+) ")


class Replica:
    """One daemon process; `lines` is its log so far."""

    def __init__(self, environ: Mapping[str, str], listen: str | None = None) -> None:
        """`listen` is an endpoint string; without it a port on loopback is chosen."""
        self.lines: list[str] = []
        self._environ = dict(environ)
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        port = free_port()
        self.client = DaemonClient(f"http://127.0.0.1:{port}", Agent(reactor, pool=self._pool))
        self._listen = listen or f"tcp:{port}:interface=127.0.0.1"
        self._daemon: Daemon | None = None

    def start(self) -> None:
        """Start the process."""
        arguments = ["--http", self._listen]
        self._daemon = Daemon.start(reactor, self._environ, arguments, self.lines.append)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._daemon is not None and self._daemon.transport is not None
        return int(self._daemon.transport.pid)  # type: ignore[attr-defined]

    async def kill(self) -> None:
        """End it by SIGKILL, as a node that dies would."""
        assert self._daemon is not None and self._daemon.transport is not None
        self._daemon.transport.signalProcess("KILL")  # type: ignore[attr-defined]
        await self._daemon.ended
        await self._pool.closeCachedConnections()

    async def stop(self) -> None:
        """End it as Kubernetes does."""
        await self._pool.closeCachedConnections()
        if self._daemon is not None:
            await self._daemon.stop()

    async def is_ready(self) -> bool:
        """Whether it answers, and is ready."""
        try:
            return (await self.client.get("/ready")).code == 200
        except Exception:
            return False

    def told(self, since: int = 0) -> list[str]:
        """Its warnings and errors since a line of the log, without time and process id."""
        found = []
        for line in self.lines[since:]:
            prefix = _PREFIX.match(line)
            if prefix is not None and prefix[1] in ("WARNING", "ERROR", "CRITICAL"):
                found.append(line[prefix.end() :])
        return found


@frozen
class Asked:
    """One endpoint's answer, and how many seconds it took."""

    response: Response
    seconds: float

    @property
    def code(self) -> int:
        """The status code."""
        return self.response.code


@frozen(kw_only=True)
class Jobs:
    """Jobs in every state that upstream asks about."""

    running: Job
    ended: Job
    held: Job


#: Endpoints that never need the cluster.
OPEN = ("live", "ready", "nodes", "online", "info", "ping")
#: Endpoints that ask Slurm; the others need the login node and its folders.
SLURM = (
    "running",
    "queued",
    "runstatus",
    "exitstatus",
    "events",
    "release",
    "terminate",
    "shutdown",
    "submit",
)
FOLDERS = ("tail", "pvcls", "gc")


async def ask_everything(client: DaemonClient, jobs: Jobs, *, number: int) -> dict[str, Asked]:
    """Ask every endpoint at once, as a busy upstream does.

    Nothing is changed by the questions: what is to be released runs, what is to be ended is a job
    that nobody knows. `number` is for a submission that no other call makes.
    """
    nobody = Job(name="nobody-knows-it", number=1, jobid="99999999")
    submission = {
        "name": f"20261123050000-{number}-outage-user_s1",
        "number": number,
        "nodes": 1,
        "held": True,
        "hpc_script": {"singularity": base64.b64encode(job_text("true").encode()).decode()},
    }
    path = f"/request/{jobs.running.path}"
    questions: dict[str, Callable[[], Awaitable[Response]]] = {
        "live": lambda: client.get("/live"),
        "ready": lambda: client.get("/ready"),
        "nodes": lambda: client.get("/nodes"),
        "online": lambda: client.post("/online", {"host": "n1"}),
        "info": lambda: client.post(f"{path}/info", {"qs": {}}),
        "ping": lambda: client.post(f"{path}/ping", {"qs": {}}),
        "running": lambda: client.get("/running"),
        "queued": lambda: client.get("/queued"),
        "runstatus": lambda: client.post("/runstatus", jobs.running.ref),
        "exitstatus": lambda: client.post("/exitstatus", jobs.ended.ref),
        "events": lambda: client.post("/events", jobs.running.ref),
        "release": lambda: client.post("/release", jobs.running.ref),
        "terminate": lambda: client.post("/terminate", nobody.ref),
        "shutdown": lambda: client.post(f"/request/{nobody.path}/shutdown", {"qs": {}}),
        "submit": lambda: client.post("/submit", submission),
        "tail": lambda: client.post(f"{path}/tail", {"qs": {}}),
        "pvcls": lambda: client.post("/request/pvcls", {"qs": {"path": ["/etc"]}}),
        "gc": lambda: client.get("/gc"),
    }

    async def ask(question: Callable[[], Awaitable[Response]]) -> Asked:
        began = reactor.seconds()
        return Asked(await question(), reactor.seconds() - began)

    answers = await gatherResults(
        [Deferred.fromCoroutine(ask(question)) for question in questions.values()]
    )
    return dict(zip(questions, answers, strict=True))
