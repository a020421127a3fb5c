"""What staged faults stand on: a cluster to be broken, and the means to break and mend it."""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import signal
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from deploy.devcluster import processes
from test.cluster.daemon import ClusterTestCase, Job, job_text
from test.cluster.harness import DevCluster, DevClusterFailedError

#: Of a wrapper of sbatch: notes the job's name (what follows -J); a call without one passes.
NOTED = (
    'case "$*" in *jarvice_*) ;; *) exec "$real" "$@" ;; esac\n'
    'for word in "$@"; do case $word in jarvice_*) echo "$word" >>"$begun" ;; esac; done\n'
)

_HOLD = 'hold() { touch "$begun"; until [ -e "$begun.gate" ]; do sleep 0.1; done; }\n'

_cluster: DevCluster | DevClusterFailedError | None = None


def fault_cluster() -> DevCluster:
    """The cluster that this package's tests share, so that nobody else's is ever broken.

    It forgets a job two seconds after its end. Each test mends what it broke (`addCleanup`).
    """
    global _cluster
    if _cluster is None:
        cluster = DevCluster()
        atexit.register(cluster.down)
        try:
            cluster.up(min_job_age=2, slurm_options=["UnkillableStepTimeout=10"])
        except DevClusterFailedError as error:
            _cluster = error
        else:
            _cluster = cluster
    if isinstance(_cluster, DevClusterFailedError):
        raise DevClusterFailedError(str(_cluster))
    return _cluster


class FaultTestCase(ClusterTestCase):
    """A test that breaks the cluster, and a daemon in this process before it."""

    def make_cluster(self) -> DevCluster:
        """The one that may be broken."""
        return fault_cluster()

    # What is broken, until the test's end.

    def wrap(self, command: str, text: str) -> Path:
        """Have a command of the login node be this shell text; `"$real"` is the command itself.

        Returns a file that the text may make (`touch "$begun"`) to tell that it was called. `hold`
        makes it too, and waits for `open_gates`.
        """
        begun = self.cluster.scratch / f"begun-{command}"
        for file in (begun, _gate(begun)):
            file.unlink(missing_ok=True)
            self.addCleanup(file.unlink, missing_ok=True)
        real = f"/usr/bin/{command}"
        wrapper = self.cluster.state / "bin" / command
        wrapper.parent.mkdir(exist_ok=True)
        head = f"#!/bin/sh\nbegun={shlex.quote(str(begun))}\nreal={real}\n{_HOLD}"
        # Replaced in one step: somebody may be about to run it.
        made = wrapper.with_suffix(".new")
        made.write_text(f"{head}{text}\n", "utf-8")
        made.chmod(0o755)
        made.replace(wrapper)
        self.addCleanup(self.unwrap, command)
        return begun

    def open_gates(self, *begun: Path) -> None:
        """Let what `hold`s go on."""
        for file in begun:
            _gate(file).touch()

    def unwrap(self, command: str) -> None:
        """Have a command be itself again."""
        (self.cluster.state / "bin" / command).unlink(missing_ok=True)

    def pid(self, part: str) -> int:
        """The process of a part of the cluster."""
        return int((self.cluster.state / "run" / f"{part}.pid").read_text().split()[0])

    def freeze(self, part: str) -> None:
        """Stop a part without ending it: it answers nobody, and its connections stay open."""
        os.kill(self.pid(part), signal.SIGSTOP)
        self.addCleanup(self.thaw, part)

    def thaw(self, part: str) -> None:
        """Let a frozen part go on."""
        with contextlib.suppress(OSError):
            os.kill(self.pid(part), signal.SIGCONT)

    async def thawed(self, part: str) -> None:
        """`thaw`, as an end of an outage."""
        self.thaw(part)

    async def unwrapped(self, *commands: str) -> None:
        """`unwrap`, as an end of an outage."""
        for command in commands:
            self.unwrap(command)

    def cut_link(self) -> int:
        """Kill sshd's side of every connection, as a cut cable would; returns how many died.

        What runs on the login node goes on; sshd listens on.
        """
        return cut_link(self.cluster)

    async def stop_part(self, part: str, *, kill: bool = False) -> None:
        """Stop a part of the cluster until the test's end, or `start_part`."""
        self.addCleanup(deferToThread, self.cluster.start, part)
        await deferToThread(self.cluster.stop, part, kill=kill)

    async def start_part(self, part: str) -> None:
        """Start it again."""
        await deferToThread(self.cluster.start, part)

    # What is asked.

    async def until_exists(self, path: Path) -> None:
        """Wait until a file is there."""

        await self.until(lambda: succeed(path.exists()))

    def once_text(self, name: str, body: str = "") -> str:
        """A job's text that notes each of its runs, by job id."""
        return job_text(f'echo "$JOB_JOBID" >>"{self.cluster.scratch}/ran.{name}"\n{body}')

    def runs(self, name: str) -> list[str]:
        """The ids of the jobs that ran `once_text` for this name."""
        path = self.cluster.scratch / f"ran.{name}"
        return path.read_text().split() if path.exists() else []

    def queued_ids(self, name: str) -> list[str]:
        """The ids of the jobs of this name that Slurm knows, ended or not."""
        said = self.cluster.slurm("squeue", "-h", "-t", "all", "-o", "%i", "-n", f"jarvice_{name}")
        return said.split()

    def attempts(self, name: str) -> int:
        """How often sbatch was called for a job, as a wrapper noted it (`NOTED`)."""
        path = self.cluster.scratch / "begun-sbatch"
        return path.read_text().split().count(f"jarvice_{name}") if path.exists() else 0

    async def assert_ran_once(self, job: Job) -> None:
        """Wait for the job's end; it is the only one of its name that ran."""
        end = await self.end_of(job)
        self.assertEqual(end[0], 0, end)
        self.assertEqual(self.runs(job.name), [job.jobid])


def _gate(begun: Path) -> Path:
    return begun.with_name(f"{begun.name}.gate")


def cut_link(cluster: DevCluster) -> int:
    """Kill sshd's side of every connection to a cluster; returns how many processes that were."""
    listener = int((cluster.state / "run" / "sshd.pid").read_text().split()[0])
    port = int(cluster.env()["JARVICE_SLURM_CLUSTER_PORT"])
    sessions = processes.holding(port) - {listener, os.getpid()}
    for pid in sessions:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(sessions)


async def pause(seconds: float) -> None:
    """Let time pass."""
    await deferLater(reactor, seconds)
