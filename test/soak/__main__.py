"""`python -m test.soak [SECONDS]`: ten minutes, or so many seconds; prints a table.

The exit status is 0 when nothing was wrong.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from test.cluster.harness import DevCluster
from test.faults.replica import Replica
from test.soak.figures import Figures, render_figures
from test.soak.scene import SLURM_OPTIONS, big_text, read_two_gigabytes, soak
from test.soak.submitting import submit_and_end

SECONDS = 600.0


async def run(seconds: float) -> Figures:
    """Bring everything up, soak, and take it down."""
    cluster = DevCluster()
    replicas: list[Replica] = []
    try:
        cluster.up(slurm_options=SLURM_OPTIONS)
        for _ in range(2):
            replicas.append(Replica(cluster.env()))
            replicas[-1].start()
        for replica in replicas:
            while not await replica.is_ready():
                await deferLater(reactor, 0.2)
        print(f"64 callers for {seconds:.0f} s, the link cut every 20 s…", flush=True)
        figures = await soak(cluster, replicas, seconds)
        name = "20261123050000-TWOGB-app-user_s1"
        job = await submit_and_end(replicas[0].client, name, 99, big_text(name))
        await read_two_gigabytes(cluster, replicas, figures, job)
        return figures
    finally:
        for replica in replicas:
            await replica.stop()
        cluster.down()


def main() -> int:
    """Run it; the exit status."""
    words = sys.argv[1:]
    seconds = float(words[0]) if words else SECONDS
    found: list[Figures] = []

    async def running(_: Any) -> None:
        found.append(await run(seconds))

    try:
        task.react(lambda r: Deferred.fromCoroutine(running(r)))
    except SystemExit as end:
        if end.code:
            return int(end.code)
    for line in render_figures(found[0]):
        print(line)
    return 1 if found[0].wrong else 0


if __name__ == "__main__":
    sys.exit(main())
