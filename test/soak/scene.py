"""A soak: callers, daemons, a link that is cut again and again, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

from test.cluster.daemon import Job, job_text
from test.cluster.harness import DevCluster
from test.faults.replica import Replica
from test.faults.stage import cut_link
from test.soak.callers import Caller
from test.soak.figures import Figures, Process

CALLERS = 64
CUT_EVERY = 20.0

_DRAINED = "Slurm drains a node, and it is resumed"

#: Of slurm.conf: how soon Slurm gives up a step of its own that hangs (`drained_nodes`).
SLURM_OPTIONS = ("UnkillableStepTimeout=10",)

#: How much a daemon may grow from the second quarter of a soak to its last, and what a job's output
#: of 2 GB may cost it at most, in bytes; and how many descriptors.
MAY_GROW = 8 * 2**20
MAY_COST = 48 * 2**20
MAY_OPEN = 24


async def soak(
    cluster: DevCluster,
    replicas: Sequence[Replica],
    seconds: float,
    *,
    callers: int = CALLERS,
    cut_every: float = CUT_EVERY,
    seed: int = 1,
) -> Figures:
    """Have `callers` ask for so many seconds while the link is cut; stops by itself."""
    figures = Figures(processes=[Process(f"replica {n}") for n in range(1, len(replicas) + 1)])
    began = reactor.seconds()
    random = Random(seed)
    run = f"{os.getpid():x}-{random.getrandbits(24):06x}"
    everyone = [
        Caller(
            clients=[replica.client for replica in replicas],
            figures=figures,
            scratch=str(cluster.scratch),
            random=Random(random.getrandbits(32)),
            until=began + seconds,
            prefix=f"soak-{run}-{number:03d}",
        )
        for number in range(callers)
    ]

    def cut() -> None:
        if cut_link(cluster):
            figures.injected["every SSH connection is cut"] += 1

    def sample() -> None:
        for replica, process in zip(replicas, figures.processes, strict=True):
            process.rss.append(resident(replica.pid))
            process.fds.append(len(os.listdir(f"/proc/{replica.pid}/fd")))

    async def resume() -> None:
        for node in await deferToThread(drained_nodes, cluster):
            figures.injected[_DRAINED] += 1
            update = ("scontrol", "update", f"NodeName={node}", "State=RESUME")
            await deferToThread(cluster.slurm, *update)

    cutting, sampling = LoopingCall(cut), LoopingCall(sample)
    resuming = LoopingCall(lambda: Deferred.fromCoroutine(resume()))
    ends = [
        cutting.start(cut_every, now=False),
        sampling.start(1.0),
        resuming.start(2.0, now=False),
    ]
    try:
        await gatherResults([Deferred.fromCoroutine(caller.run()) for caller in everyone])
    finally:
        for loop in (cutting, sampling, resuming):
            loop.stop()
        await gatherResults(ends)
    figures.seconds = reactor.seconds() - began
    assert_flat(figures)
    assert_no_strangers(cluster, figures, run)
    return figures


def drained_nodes(cluster: DevCluster) -> list[str]:
    """The nodes that Slurm gives no work to any longer.

    22.05's slurmstepd hangs at times (in a futex of its own) when a job is cancelled while its step
    begins. After UnkillableStepTimeout Slurm ends it and drains the node, as after a process that
    can't be killed; an administrator would resume it.
    """
    said = cluster.slurm("sinfo", "-h", "-N", "-p", "all", "-o", "%N %T")
    return [line.split()[0] for line in said.splitlines() if "drain" in line.split()[1]]


def assert_flat(figures: Figures) -> None:
    """Memory and file descriptors are at the end what they were when all was warm."""
    for process in figures.processes:
        rss, fds = process.quarters(process.rss), process.quarters(process.fds)
        if rss[1] - rss[0] > MAY_GROW:
            figures.is_wrong(f"{process.name} grew by {(rss[1] - rss[0]) / 2**20:.1f} MiB")
        if fds[1] - fds[0] > MAY_OPEN:
            figures.is_wrong(f"{process.name} holds {fds[1] - fds[0]} descriptors more")


def assert_no_strangers(cluster: DevCluster, figures: Figures, run: str) -> None:
    """Nothing of this soak is left in Slurm's queue: no job that nobody asked for."""
    said = cluster.slurm("squeue", "-h", "-t", "PD,R", "-o", "%i %j")
    left = [line for line in said.splitlines() if f"soak-{run}" in line]
    if left:
        figures.is_wrong(f"{len(left)} jobs are left in Slurm's queue")
        figures.jobs["left behind"] += len(left)


async def read_two_gigabytes(
    cluster: DevCluster, replicas: Sequence[Replica], figures: Figures, job: Job
) -> None:
    """Ask for the output of a job of 2 GB, many times at once: bounded, and it costs nothing.

    `job` has ended, and was submitted with `big_text`.
    """
    bound = 4 * 2**20
    before = [resident(replica.pid) for replica in replicas]
    for replica in replicas:
        for _ in range(3):
            tails = [
                replica.client.post(f"/request/{job.path}/tail", {"qs": {"lines": [lines]}})
                for lines in ("0", "10", "100000")
            ]
            asking = [Deferred.fromCoroutine(tail) for tail in tails]
            asking.append(Deferred.fromCoroutine(replica.client.post("/exitstatus", job.ref)))
            *texts, end = await gatherResults(asking)
            for text in texts:
                if text.code != 200 or not text.body.endswith(b"the end\n"):
                    figures.is_wrong(f"tail of 2 GB: {text.code}, {text.body[-40:]!r}")
                if len(text.body) > bound:
                    figures.is_wrong(f"tail of 2 GB has {len(text.body)} bytes")
            if end.code != 200 or not end.json[2][0].endswith("the end\n"):
                figures.is_wrong(f"exitstatus of 2 GB: {end.code}, {end.body[-40:]!r}")
            elif len(end.json[2][0]) > bound:
                figures.is_wrong(f"exitstatus of 2 GB has {len(end.json[2][0])} characters")
            figures.injected["output of 2 GB is asked for"] += 4
    for process, replica, at_first in zip(figures.processes, replicas, before, strict=True):
        cost = resident(replica.pid) - at_first
        figures.jobs[f"MiB that 2 GB cost {process.name}"] = max(0, cost // 2**20)
        if cost > MAY_COST:
            figures.is_wrong(f"2 GB of output cost {process.name} {cost / 2**20:.0f} MiB")


def big_text(name: str) -> str:
    """A job that leaves an output of 2 GB: a hole that reads as zeros, lines, and `the end`."""
    output = f'"$JARVICE_JOB_SCRATCH_DIR/.jarvice/{name}.out"'
    return job_text(
        f"truncate -s 2147483648 {output}\n"
        f"yes 'a line of the output of a job' | head -n 400000 >>{output}\necho the end"
    )


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
