"""How a job ended, judged from everything that is left of it. Pure."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from jarvice_slurmd.errors import JobStillRunningError, SlurmUnavailableError
from jarvice_slurmd.slurm.output import NAME_PREFIX, PostMortem, QueueEntry
from jarvice_slurmd.slurm.states import CANCELLED, FAILED, LOST, JobState, Phase

#: Exit statuses of a process that SIGKILL or SIGTERM ended (128 + n).
_KILLED: Final = frozenset({137, 143})


@frozen(kw_only=True)
class End:
    """The state a job ended in, and the seconds it ran."""

    state: JobState
    elapsed: int


def judge(name: str, entry: QueueEntry | None, found: PostMortem) -> End | None:
    """The job's end: as answered before, else as squeue, sacct or the job itself tell it.

    `entry` is what the queue says of the job, already known to have ended; None when Slurm has
    forgotten it. None is returned for a job of which nothing is known. Raises
    `JobStillRunningError` when Slurm knows the job after all, or accounting says that it runs and
    nothing says that it ended, and `SlurmUnavailableError` when nothing is known because accounting
    could not be asked.
    """
    ours = found.name in (None, name)
    if ours and found.answer is not None:
        state, elapsed = found.answer
        return End(state=state, elapsed=elapsed)
    if entry is not None:
        state = _cancelled_or(entry.state, found) if ours else entry.state
        return End(state=state, elapsed=entry.elapsed)
    if found.is_known:
        raise JobStillRunningError("Slurm's queue did not list the job, but Slurm knows it")
    accounted = found.accounting
    if accounted is not None and accounted[2] == NAME_PREFIX + name:
        state, elapsed, _ = accounted
        if state.phase is Phase.ENDED:
            return End(state=_cancelled_or(state, found) if ours else state, elapsed=elapsed)
        if not (ours and found.exit):
            raise JobStillRunningError(f"accounting says that the job is {state.name}")
    if ours and found.exit is not None:
        state, _, start, end = found.exit
        return End(state=_cancelled_or(state, found), elapsed=max(0, end - start))
    if ours and found.cancelled is not None:
        started = found.cancelled if found.start is None else found.start
        return End(state=CANCELLED, elapsed=max(0, found.cancelled - started))
    if found.accounting_error is not None:
        raise SlurmUnavailableError(
            f"Slurm has forgotten the job and accounting did not answer: {found.accounting_error}"
        )
    if ours and found.start is not None:
        return End(state=LOST, elapsed=0)
    return None


def _cancelled_or(state: JobState, found: PostMortem) -> JobState:
    # A job that is killed at once fails before Slurm is told that it is cancelled. The clocks of
    # login and compute node may differ, so what killed it speaks too.
    if state is not FAILED or found.cancelled is None or found.exit is None:
        return CANCELLED if state is FAILED and found.cancelled is not None else state
    _, code, _, end = found.exit
    return CANCELLED if code in _KILLED or end >= found.cancelled else state
