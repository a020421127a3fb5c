"""Submitting one job and waiting for its end, as simply as can be."""

from __future__ import annotations

import base64

from twisted.internet import reactor
from twisted.internet.task import deferLater

from test.cluster.daemon import DaemonClient, Job, Response

#: Seconds that a job may take.
PATIENCE = 120.0


async def submit_and_end(client: DaemonClient, name: str, number: int, text: str) -> Job:
    """Submit a job's text; comes back once its exit status has been answered."""
    args: dict[str, object] = {
        "name": name,
        "number": number,
        "nodes": 1,
        "hpc_script": {"singularity": base64.b64encode(text.encode()).decode()},
    }
    submitted = await _ask(client, "/submit", args)
    job = Job(name=name, number=number, jobid=submitted.json[0])
    await _ask(client, "/exitstatus", job.ref)
    return job


async def _ask(client: DaemonClient, path: str, args: dict[str, object]) -> Response:
    """Ask as upstream does, again and again until it is answered 200."""
    deadline = reactor.seconds() + PATIENCE
    while True:
        answer = await client.post(path, args)
        if answer.code == 200:
            return answer
        if reactor.seconds() > deadline:
            raise RuntimeError(f"{path}: {answer.code} {answer.body[:200]!r}")
        await deferLater(reactor, 0.3)
