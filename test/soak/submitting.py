"""Submitting one job and waiting for its end, as simply as can be."""

from __future__ import annotations

import base64

from twisted.internet import reactor
from twisted.internet.task import deferLater

from test.cluster.daemon import DaemonClient, Job

#: Seconds that a job may take.
PATIENCE = 120.0


async def submit_and_end(client: DaemonClient, name: str, number: int, text: str) -> Job:
    """Submit a job's text; comes back once its exit status has been answered."""
    args = {
        "name": name,
        "number": number,
        "nodes": 1,
        "hpc_script": {"singularity": base64.b64encode(text.encode()).decode()},
    }
    submitted = await client.post("/submit", args)
    if submitted.code != 200:
        raise RuntimeError(f"submit: {submitted.code} {submitted.body[:200]!r}")
    job = Job(name=name, number=number, jobid=submitted.json[0])
    deadline = reactor.seconds() + PATIENCE
    while True:
        end = await client.post("/exitstatus", job.ref)
        if end.code == 200:
            return job
        if reactor.seconds() > deadline:
            raise RuntimeError(f"exitstatus: {end.code} {end.body[:200]!r}")
        await deferLater(reactor, 0.3)
