"""What the bench stands on: a cluster with sshd's own limits, the daemon, and jobs that run."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from deploy.demo.processes import PROJECT, free_port
from deploy.demo.upstream import hpc_script
from test.bench.http_load import render_post
from test.bench.namespaces import LEASHED, Namespace, inside
from test.bench.neighbours import Login
from test.cluster.harness import DevCluster

# Seconds for whatever must happen by itself: the link coming up, jobs starting.
_PATIENCE: Final = 60.0

#: Seconds between two polls of what is waited for.
_PAUSE: Final = 0.1


class SceneError(Exception):
    """The scene could not be set; the text says what did not happen."""


@frozen(kw_only=True)
class Job:
    """A job as upstream knows it."""

    name: str
    number: int
    jobid: str

    @property
    def request(self) -> str:
        """POST /runstatus for it."""
        args = {"name": self.name, "number": self.number, "jobid": self.jobid}
        return render_post("/runstatus", render_form(args))


def render_form(args: dict[str, object]) -> str:
    """Arguments as upstream sends them (PROTOCOL §1)."""
    return urllib.parse.urlencode({"args": json.dumps(args)})


class Names:
    """Names and numbers of jobs, none of them twice."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def next(self, kind: str) -> tuple[str, int]:
        """A job's name, in the form of PROTOCOL §3, and number."""
        number = next(self._numbers)
        return f"{time.strftime('%Y%m%d%H%M%S')}-{number:05d}-{kind}-some_user_s1", number


def job_text(body: str, *, interactive: bool = False) -> str:
    """A job's text of one core around a shell body."""
    return (
        f': <<"JOBOBJ_EOF"\nJOBOBJ_APPDEFVERSION=2\nJOBOBJ_INTERACTIVE={interactive}\n'
        'JOBOBJ_DEVICES=["exclusive=False"]\nJARVICE_CPU_CORES=1\nJOBOBJ_EOF\n'
        f"{{DOWNSTREAM_PARAMETERS}}\n{body}\n"
    )


def submission(name: str, number: int, text: str, *, held: bool) -> dict[str, object]:
    """The arguments of POST /submit."""
    script = hpc_script(text)
    return {"name": name, "number": number, "nodes": 1, "hpc_script": script, "held": held}


class Upstream:
    """One keep-alive HTTP connection to a daemon on loopback."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)

    def get(self, path: str) -> Any:
        """GET; the decoded answer; `SceneError` when it is not 200."""
        return self._ask("GET", path)

    def post(self, path: str, args: dict[str, object]) -> Any:
        """POST; the decoded answer; `SceneError` when it is not 200."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._ask("POST", path, render_form(args), form)

    def _ask(self, method: str, path: str, body: str | None = None, headers: Any = None) -> Any:
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        said = response.read()
        if response.status != 200:
            words = said.decode("utf-8", "replace")[:200]
            raise SceneError(f"{method} {path}: {response.status} {words}")
        return json.loads(said)


@frozen(kw_only=True)
class Scene:
    """Everything that a section of the bench needs."""

    cluster: DevCluster
    login: Login
    folder: Path
    port: int
    jobs: Sequence[Job]
    names: Names = field(factory=Names)

    def upstream(self) -> Upstream:
        """A new connection to the daemon."""
        return Upstream(self.port)

    def sdiag(self) -> str:
        """What slurmctld has counted."""
        return self.cluster.slurm("sdiag")


@frozen(kw_only=True)
class Daemon:
    """A daemon process that is ready: its port on loopback, and its process id."""

    port: int
    pid: int


@contextlib.contextmanager
def daemon(
    cluster: DevCluster,
    folder: Path,
    words: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    namespace: Namespace | None = None,
) -> Iterator[Daemon]:
    """Run a daemon process in front of the cluster; jobs have addresses by path.

    `words` start it, and get `--http ENDPOINT` behind them. `environ` adds to what the cluster
    says, and `namespace` is where it runs if not here. Its log is what a failure shows.
    """
    port = free_port()
    log = folder / f"daemon-{port}.log"
    jobs = {"JARVICE_JOBS_DOMAIN": f"http://127.0.0.1:{port}/job$"}
    before = LEASHED if namespace is None else namespace.words
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*before, *words, "--http", f"tcp:{port}:interface=127.0.0.1:backlog=1024"],
            cwd=PROJECT,
            env={**os.environ, **cluster.env(), **jobs, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with inside(namespace):
                    Upstream(port).get("/ready")
                break
            except (OSError, SceneError) as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    said = log.read_text(errors="replace")[-2000:]
                    raise SceneError(f"the daemon did not get ready ({error}):\n{said}") from error
                time.sleep(_PAUSE)
        yield Daemon(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait()


def twistd() -> list[str]:
    """The words that start the daemon."""
    return [str(Path(sys.executable).parent / "twistd"), "--nodaemon", "--pidfile=", PLUGIN]


PLUGIN: Final = "jarvice-slurmd"


@contextlib.contextmanager
def set_scene(jobs: int) -> Iterator[Scene]:
    """Bring up the cluster and the daemon, and have so many jobs run."""
    cluster = DevCluster()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        stack.callback(cluster.down)
        cluster.up()
        port = stack.enter_context(daemon(cluster, folder, twistd())).port
        names = Names()
        upstream = Upstream(port)
        running = [start_job(upstream, *names.next("sleep")) for _ in range(jobs)]
        wanted = {job.jobid for job in running}
        deadline = time.monotonic() + _PATIENCE
        while not wanted <= {jobid for _, jobid in upstream.get("/running")}:
            if time.monotonic() > deadline:
                raise SceneError("the bench's jobs did not start")
            time.sleep(_PAUSE)
        login = Login.from_environ(cluster.env(), cluster.state)
        yield Scene(
            cluster=cluster, login=login, folder=folder, port=port, jobs=running, names=names
        )


def start_job(upstream: Upstream, name: str, number: int) -> Job:
    """Submit a job that runs for longer than the bench."""
    args = submission(name, number, job_text("sleep 3600"), held=False)
    jobid, _ = upstream.post("/submit", args)
    return Job(name=name, number=number, jobid=jobid)
