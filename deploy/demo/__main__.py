"""`make demo`: start the cluster and the daemon, run three jobs, show all of it, leave it up."""

from __future__ import annotations

import base64
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.task import deferLater
from twisted.web.client import Agent

from deploy.demo.processes import (
    Daemon,
    DevCluster,
    DevClusterFailedError,
    free_port,
    parse_exports,
)
from deploy.demo.screen import Screen
from deploy.demo.upstream import Upstream, UpstreamError, hpc_script, interactive_script

JOB = """: <<"JOBOBJ_EOF"
JOBOBJ_USER=demo
JOBOBJ_NAE=demo-hello
JOBOBJ_APPDEFVERSION=2
JOBOBJ_INTERACTIVE=False
JOBOBJ_DEVICES=["exclusive=False"]
JARVICE_CPU_CORES=2
JOBOBJ_EOF
{DOWNSTREAM_PARAMETERS}
echo "node $PROCESS_PROCID of $JOB_NNODES is $PROCESS_NODENAME, in Slurm's job $JOB_JOBID"
if [ "$PROCESS_PROCID" = 0 ]; then
    for step in 1 2 3; do echo "step $step of 3: it's \\"working\\""; sleep 1; done
    echo JARVICE_CMD_SUCCESS
fi
"""

#: What runs in the container; the image is busybox, from the cluster's own registry.
CONTAINER_COMMAND = """\
echo "in a container: $(busybox | head -n 1)"
echo "nodes of the job: $(tr '\\n' ' ' </etc/JARVICE/nodes)"
echo saved >/opt-result && echo "its own disk: $(df -m / | awk 'NR == 2 { print $2 " MB" }')"
"""

#: Seconds that the story may take, once the cluster is up, before the demo gives up.
PATIENCE = 90.0

#: What ends the story: too early, or, once everything has been shown, as it is meant to end.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedStoryError(Exception):
    """A signal has ended the story."""


class Demo:
    """The story, in the order in which it is told."""

    def __init__(self, reactor: PosixReactorBase, screen: Screen) -> None:
        self._reactor = reactor
        self._screen = screen
        self._cluster = DevCluster(tempfile.mkdtemp(prefix="jarvice-slurmd-demo-"))
        self._deadline = time.monotonic() + PATIENCE
        self._daemon: Daemon | None = None
        self._registry = self._user = self._password = ""
        self._shell = ""
        self._is_up = False
        self._story: Deferred[bool] | None = None
        self._signal: signal.Signals | None = None
        #: Fires when a person has seen enough; there once everything has been shown.
        self._enough: Deferred[None] | None = None

    async def run(self) -> int:
        """Tell the story, and clean up behind it; the exit status is 0 when all of it worked."""
        for number in SIGNALS:
            signal.signal(number, self._receive)
        self._story = Deferred.fromCoroutine(self._tell())
        status = 1
        try:
            status = 0 if await self._story else 1
        except Exception as error:  # whatever it is, it ends the story and has to be told
            if self._signal is not None:
                self._screen.bad(f"interrupted by {self._signal.name}")
                status = 128 + self._signal
            elif isinstance(error, UpstreamError | DevClusterFailedError | TimeoutError):
                self._screen.bad(str(error))
            else:
                self._screen.bad(f"{type(error).__name__}: {error}")
        self._story = None
        try:
            await self._clean_up()
        except DevClusterFailedError as error:
            self._screen.bad(str(error))
            status = status or 1
        return status

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._interrupt, signal.Signals(number))

    def _interrupt(self, number: signal.Signals) -> None:
        """End what is going on; what comes while all is cleaned up changes nothing."""
        if self._story is None or self._signal is not None:
            return
        if self._enough is not None:
            if not self._enough.called:
                self._enough.callback(None)
            return
        self._signal = number
        # A command of the cluster's is left to end in good order, and ends the story.
        if not self._cluster.interrupt():
            self._story.cancel()

    async def _devcluster(self, command: str) -> str:
        printed = await self._cluster.run(command)
        self._check_signal()
        return printed

    def _check_signal(self) -> None:
        if self._signal is not None:
            raise InterruptedStoryError(self._signal.name)

    async def _tell(self) -> bool:
        screen = self._screen
        screen.title("A private Slurm cluster: login node, controller, two compute nodes")
        await self._cluster.up("--apptainer", "--registry")
        self._is_up = True
        self._check_signal()
        self._deadline = time.monotonic() + PATIENCE
        for line in (await self._devcluster("status")).splitlines():
            screen.plain(line)
        url = await self._start_daemon()
        upstream = Upstream(url, Agent(self._reactor))
        await self._wait_until_ready(upstream)
        worked = (
            await self._run_job(upstream)
            and await self._run_container(upstream)
            and await self._start_shell(upstream)
        )
        if worked and sys.stdout.isatty():
            await self._leave_up(url)
        return worked

    async def _start_daemon(self) -> str:
        screen = self._screen
        screen.title("The daemon, which knows nothing of it but an address and a key")
        port = free_port()
        endpoint = f"tcp:{port}:interface=127.0.0.1"
        environment = parse_exports(await self._devcluster("env"))
        self._registry = environment["JARVICE_SYSTEM_REGISTRY"]
        self._user, self._password = (
            base64.b64decode(environment[f"JARVICE_DOCKER_{name}"]).decode()
            for name in ("USERNAME", "PASSWORD")
        )
        environment["JARVICE_JOBS_DOMAIN"] = f"http://127.0.0.1:{port}/job$"
        screen.step(f"twistd jarvice-slurmd --http {endpoint}")
        self._daemon = Daemon.start(self._reactor, environment, ["--http", endpoint], screen.daemon)
        return f"http://127.0.0.1:{port}"

    async def _wait_until_ready(self, upstream: Upstream) -> None:
        while True:
            try:
                ready = await upstream.get("/ready")
            except Exception:  # not listening yet, or not connected yet: both are told by its log
                await self._pause(0.2)
            else:
                self._screen.good(f"GET /ready → {ready}")
                return

    async def _run_job(self, upstream: Upstream) -> bool:
        screen = self._screen
        screen.title("A job on two nodes, submitted as upstream does, held at first")
        name = f"{time.strftime('%Y%m%d%H%M%S')}-DEM0X-hello-demo_s1"
        number = 1
        args: dict[str, object] = {"name": name, "number": number, "nodes": 2, "held": True}
        screen.request(f"POST /submit {args}")
        jobid, _ = await upstream.post("/submit", {**args, "hpc_script": hpc_script(JOB)})
        screen.answer(f"job id {jobid}")
        ref: dict[str, object] = {"name": name, "number": number, "jobid": jobid}
        screen.answer(f"GET /queued → {await upstream.get('/queued')}")
        screen.request(f"POST /release {ref}")
        await upstream.post("/release", ref)
        while [name, jobid] not in await upstream.get("/running"):
            await self._pause(0.3)
        status = await upstream.post("/runstatus", ref)
        screen.answer(f"POST /runstatus → {status}")
        await self._follow(upstream, str(status[2]), ref)
        return_code, elapsed, (output, verdict) = await upstream.post("/exitstatus", ref)
        screen.answer(f"POST /exitstatus → {return_code}, {elapsed}, {verdict}")
        again = await upstream.post("/exitstatus", ref)
        worked = (
            return_code == 0
            and again == [return_code, elapsed, [output, verdict]]
            and all(f"node {node} of 2" in output for node in (0, 1))
            and 'step 3 of 3: it\'s "working"' in output
        )
        if worked:
            screen.good("the job's own exit status and output came back; asked twice, the same")
        else:
            screen.bad(f"this is not how the job should have ended; its output: {output}")
        return worked

    async def _run_container(self, upstream: Upstream) -> bool:
        screen = self._screen
        screen.title("A job in a container on two nodes, its image from a registry with a password")
        name = f"{time.strftime('%Y%m%d%H%M%S')}-DEM0Y-hello-demo_s1"
        job: dict[str, object] = {
            "image": f"{self._registry}/apps/app:latest",
            "command": CONTAINER_COMMAND,
            "devices": ["exclusive=False", "overlay=64"],
        }
        args: dict[str, object] = {"name": name, "number": 2, "nodes": 2}
        screen.request(f"POST /submit {args | {'job': {**job, 'docker_secret': '…'}}}")
        secret = {"server": self._registry, "username": self._user, "password": self._password}
        job["docker_secret"] = secret
        jobid, script = await upstream.post("/submit", {**args, "job": job})
        screen.answer(f"job id {jobid}")
        ref: dict[str, object] = {"name": name, "number": 2, "jobid": jobid}
        await self._follow(upstream, f"{name}/2/{jobid}", ref)
        return_code, elapsed, (output, verdict) = await upstream.post("/exitstatus", ref)
        screen.answer(f"POST /exitstatus → {return_code}, {elapsed}, {verdict}")
        told = self._password in script or self._password in output
        worked = return_code == 0 and "nodes of the job: n1 n2" in output and not told
        if worked:
            screen.good("pulled and converted once, run with a disk of its own; no password shown")
        else:
            screen.bad(f"this is not how the job should have ended; its output: {output}")
        return worked

    async def _start_shell(self, upstream: Upstream) -> bool:
        screen = self._screen
        screen.title("An interactive job: a browser reaches its port through the same SSH")
        name = f"{time.strftime('%Y%m%d%H%M%S')}-DEM0Z-shell-demo_s1"
        args: dict[str, object] = {"name": name, "number": 3, "nodes": 1}
        screen.request(f"POST /submit {args}")
        program = Path(__file__).with_name("web_shell.py").read_text("utf-8")
        script = interactive_script(program)
        jobid, _ = await upstream.post("/submit", {**args, "hpc_script": script})
        screen.answer(f"job id {jobid}")
        screen.request(f"POST /request/{name}/3/{jobid}/info, until its service answers")
        while not self._shell:
            self._shell = (await upstream.post(f"/request/{name}/3/{jobid}/info", {}))["url"]
            await self._pause(0.5)
        screen.answer(f"url {self._shell}")
        worked = f"in Slurm's job {jobid}" in await upstream.open(self._shell)
        if worked:
            screen.good("its page came through the tunnel")
        else:
            screen.bad("this is not the page of the job")
        return worked

    async def _follow(self, upstream: Upstream, path: str, ref: dict[str, object]) -> None:
        """Show the job's output as it comes, until the job has ended."""
        shown = 0
        job = [ref["name"], ref["jobid"]]
        while True:
            running = job in await upstream.get("/running")
            running = running or job in await upstream.get("/queued")
            lines = (await upstream.tail(path, 0)).splitlines()
            for line in lines[shown:]:
                self._screen.output(line)
            shown = len(lines)
            if not running:
                return
            await self._pause(0.5)

    async def _leave_up(self, url: str) -> None:
        screen = self._screen
        self._enough = Deferred()
        screen.title("Everything stays up until Ctrl-C")
        screen.plain(f"the daemon     {url}/ready  {url}/running  {url}/queued")
        screen.plain(f"the login node ssh -F {self._cluster.state}/ssh/config login squeue")
        screen.plain(f"open this      {self._shell}")
        screen.plain()
        screen.plain("submit a job of your own:")
        screen.plain("  script=$(printf 'JOBOBJ_INTERACTIVE=False\\nhostname; date' | base64 -w0)")
        args = (
            '{"name": "\'$(date +%Y%m%d%H%M%S)\'-CURL1-mine-me_s1", "number": 7, "nodes": 1, '
            '"hpc_script": {"singularity": "\'$script\'"}}'
        )
        screen.plain(f"  curl -s {url}/submit --data-urlencode 'args={args}'")
        await self._enough
        screen.plain()

    async def _pause(self, seconds: float) -> None:
        self._check_signal()
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"nothing more happened within {PATIENCE:.0f} seconds")
        if self._daemon is not None and self._daemon.ended.called:
            raise TimeoutError("the daemon has ended by itself")
        await deferLater(self._reactor, seconds)

    async def _clean_up(self) -> None:
        self._screen.title("Cleaning up")
        if self._daemon is not None:
            await self._daemon.stop()
            self._screen.step("the daemon has answered what was asked and ended")
        # An `up` that was interrupted may have been done with all but its exit.
        if self._is_up or self._signal is not None:
            await self._cluster.run("down")
            self._screen.step("the cluster is gone")
        shutil.rmtree(self._cluster.state, ignore_errors=True)


def main() -> None:
    """Run the demo; the exit status is 0 only when all of it worked."""
    loop: Any = reactor
    # What a signal leaves that comes before the story begins.
    status = 128 + signal.SIGTERM

    async def tell() -> None:
        nonlocal status
        status = 1
        try:
            status = await Demo(loop, Screen()).run()
        finally:
            loop.stop()

    loop.callWhenRunning(lambda: Deferred.fromCoroutine(tell()))
    loop.run()
    sys.exit(status)


if __name__ == "__main__":
    main()
