"""Taking a cluster down when the process it was made for has ended, however it ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from deploy.devcluster import processes
from deploy.devcluster.cluster import down
from deploy.devcluster.layout import Cluster


def start_guard(cluster: Cluster, owner: int) -> None:
    """Leave a process behind that waits for the owner's end; `down` ends it with the others."""
    words = [sys.executable, str(Path(__file__).with_name("devcluster")), "guard"]
    with (cluster.log / "guard.out").open("ab") as output:
        subprocess.Popen(
            [*words, "--state", str(cluster.state), "--owner", str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=processes.environment(cluster),
            start_new_session=True,
        )


def guard(state: Path, owner: int) -> None:
    """Wait until a process has ended, then take the cluster down."""
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        pass
    else:
        # Readable once the process has ended (pidfd_open(2)).
        select.select([handle], [], [])
        os.close(handle)
    down(state)
