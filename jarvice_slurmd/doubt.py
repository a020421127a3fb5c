"""A job that Slurm's queue does not list, though nothing says that it has ended."""

from __future__ import annotations

from jarvice_slurmd.interfaces import IRemoteShell
from jarvice_slurmd.slurm.commands import render_doubt
from jarvice_slurmd.slurm.failures import failure
from jarvice_slurmd.slurm.output import parse_doubt


async def is_known_all_the_same(shell: IRemoteShell, *, root: str, name: str, jobid: str) -> bool:
    """Whether Slurm, asked for this one job, knows what its queue has lacked twice.

    It is asked only where the folders contradict that the job is gone. Raises `StorageError` where
    these can't be read, and what Slurm's silence means.
    """
    result = await shell.run(render_doubt(root=root, name=name, jobid=jobid))
    if result.status != 0:
        raise failure(result.status, result.stderr)
    return parse_doubt(result.stdout)
