"""What it means that a text of ours ended with another status than 0. Pure."""

from __future__ import annotations

from jarvice_slurmd.errors import JarviceSlurmdError, SlurmUnavailableError, StorageError
from jarvice_slurmd.slurm.commands import Status
from jarvice_slurmd.slurm.output import first_words, refusal


def failure(status: int, stderr: bytes) -> JarviceSlurmdError:
    """The error that an exit status and the words on stderr stand for.

    Our own statuses first (`Status`); every other one is that of the Slurm command that came last.
    """
    words = first_words(stderr)
    if status == Status.NO_FOLDER:
        return StorageError(f"the cluster's storage does not work: {words}")
    if status == Status.LOCKED:
        return SlurmUnavailableError(f"{words}; submit it again")
    if status == Status.NO_ANSWER:
        return SlurmUnavailableError(f"Slurm's controller did not answer: {words}")
    return refusal(stderr, status)
